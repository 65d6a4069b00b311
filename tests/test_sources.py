"""What makes a record stale: code that it ran, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods import BlockStyle, load_builtin
from suites import architectures, sources
from suites.architectures import Architecture
from suites.cell import Cell, Protocol

load_builtin()
CODE = '''"""A docstring."""
# a comment
def f(x):
    """What it does."""

    return "# no comment" + x  # but this is
'''


def test_comments_and_docstrings_do_not_count() -> None:
    other = CODE.replace("A docstring.", "Another\none").replace("but this is", "or not")
    assert sources.essence(CODE) == sources.essence(other)
    assert '"# no comment"' in sources.essence(CODE)
    assert sources.essence(CODE) != sources.essence(CODE.replace("+ x", "+ x + x"))


def sha(method: str = "hff", architecture: str = "mlp-2x500") -> str:
    return Cell.of(method, {}, architecture, "digits", Protocol(epochs=1), 0).code_sha()


def test_a_new_architecture_makes_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha()
    new = Architecture("mine", "", architectures.mlp(2, 7))
    monkeypatch.setitem(architectures.ARCHITECTURES, "mine", new)
    assert sha() == before


def test_another_network_under_the_same_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha()
    changed = Architecture("mlp-2x500", "", architectures.mlp(2, 501))
    monkeypatch.setitem(architectures.ARCHITECTURES, "mlp-2x500", changed)
    sources.network.cache_clear()
    after = sha()
    sources.network.cache_clear()
    assert after != before


def test_rules_networks_and_kinds_differ() -> None:
    assert len({sha(), sha("ff"), sha("hff", "cnn-small")}) == 3
    style = BlockStyle()
    kinds = {
        sources.code_sha(k, Cell.method_class(Cell.of("hff", {}, "mlp-2x500", "digits",
                         Protocol(epochs=1), 0)), "mlp-2x500", "digits", style)
        for k in sources.RUNNERS
    }  # fmt: skip
    assert len(kinds) == 2


SHARED = """
from methods.base import helper
LIMIT = 3
def used(x):
    return inner(x) + LIMIT
def inner(x):
    return helper(x)
def unused(x):
    return x
"""


def test_of_a_shared_file_only_what_is_used_counts() -> None:
    """Or every new building block would make all records stale."""
    text, more = sources._used(SHARED, {"used"})
    assert "LIMIT = 3" in text and "def inner" in text and "unused" not in text
    assert more == {"methods.base": {"helper"}}
    changed = SHARED.replace("LIMIT = 3", "LIMIT = 4")
    assert sources._used(changed, {"used"})[0] != text
    assert sources._used(changed, {"inner"}) == sources._used(SHARED, {"inner"})


def test_essence_is_cut_from_the_text_by_position(tmp_path: Path) -> None:
    text = 'x = f"{1 + 1}#{2}"  # gone\n\n\nclass A:\n    """Gone."""\n\n    y = 1\n'
    assert sources.essence(text) == 'x = f"{1 + 1}#{2}"\nclass A:\n    y = 1'
