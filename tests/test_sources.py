"""What makes a record stale: code that it ran, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import methods
from methods import METHODS, BlockStyle, load_builtin, load_file
from suites.engine import architectures, sources
from suites.engine.architectures import Architecture
from suites.engine.cell import Cell, Protocol

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
        for k in sources.ROOTS
    }  # fmt: skip
    assert len(kinds) == len(sources.ROOTS)


def used(text: str, start: str) -> set[str]:
    """Names that a definition leads to in its own file."""
    source = sources.parse(text, "methods")
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [m for m in source.definitions[name].mentions if m in source.definitions
                    and m not in found]  # fmt: skip
    return found


SHARED = """
import methods.base as base
from . import blocks
from .goodness import mean as middle
from methods import denoising

LIMIT = HALF = 3
def used(x):
    return inner(x) + LIMIT
def inner(x):
    return base.helper(x) + blocks.pool(x) + middle(x) + denoising.inner.deep(x)
def unused(x): return x
if LIMIT > 2:
    LIMIT += 1
base.flag = True
"""


def test_of_a_shared_file_only_what_is_used_counts() -> None:
    """Or every new building block would make all records stale."""
    assert used(SHARED, "used") == {"used", "inner", "LIMIT", "HALF"}
    parts = sources.parse(SHARED, "methods")
    assert parts.definitions["LIMIT"].text == "LIMIT = HALF = 3"
    assert parts.definitions["unused"].text == "def unused(x): return x"
    # whatever is used of a file, its other statements run
    assert parts.always.text.endswith("LIMIT += 1\nbase.flag = True")
    assert "def" not in parts.always.text


def test_where_names_come_from_does_not_count() -> None:
    parts = sources.parse("import a\nif TYPE_CHECKING:\n    from b import c\nx.y = 1\n")
    assert parts.always.text == "x.y = 1" and parts.imports["c"] == "b.c"


def test_every_file_of_the_engine_counts_or_is_named_as_one_that_keeps() -> None:
    """What moves to a new file goes on counting."""
    files = {f"suites.engine.{path.stem}" for path in Path(sources.__file__).parent.glob("*.py")}
    assert set(sources.KEEPERS) < files
    resolved = sources._resolved("suites.engine.datasets", ["derive_seed", "generator"])
    assert resolved == {
        sources.Name("suites.engine.seeds", name) for name in ("derive_seed", "generator")
    }
    assert not sources._resolved("suites.engine.trial", ["Checkpoint"])


def test_imports_of_all_forms_are_followed() -> None:
    bound = sources.parse(SHARED, "methods").imports
    assert bound == {
        "base": "methods.base",
        "blocks": "methods.blocks",
        "middle": "methods.goodness.mean",
        "denoising": "methods.denoising",
    }
    mentions = sources.parse(SHARED, "methods").definitions["inner"].mentions
    assert {"base.helper", "blocks.pool", "middle", "denoising.inner.deep"} <= mentions


def counted(method: str, kind: str = "train") -> str:
    return "\n".join(itertools.chain.from_iterable(sources.used(kind, METHODS[method]).values()))


@pytest.mark.parametrize(
    "definition",
    [
        "def train_step",  # the rule
        "def margin_loss",  # a function of its file
        "class PrototypeHead",
        "def cosine(",  # what it uses of a shared file
        "class Block:",
        "def build(self, task",  # how the engine makes a method
        "def method_config(",
        "def resolve_config(",
        "def _order(",  # and feeds it
        "def shifted(",
        "def _channel_statistics(",
        "def derive_seed(",
        "allow_tf32",
    ],
)
def test_what_a_training_cell_runs_counts(definition: str) -> None:
    assert definition.replace(":", "") in counted("hff")


@pytest.mark.parametrize(
    "definition", ["def count_passes", "def conv_stack", "def crossings", "def memory_by_depth"]
)
def test_what_an_audit_runs_counts(definition: str) -> None:
    assert definition in counted("hff", "audit") and definition not in counted("hff")


def test_what_it_does_not_run_does_not_count() -> None:
    text = counted("hff")
    others = ("class Encoder", "def linear_cooldown", "def measure_cost", "def now", "class Job")
    for other in (*others, "DATASETS", "ARCHITECTURES", "METHODS"):
        assert f"\n{other}" not in text


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("return 2 * x", "return 3 * x"), True),  # mentioned, in its own class
        (("return 5 * x", "return 6 * x"), True),  # mentioned, in a class that is mentioned
        (("rate = 0.1", "rate = 0.2"), True),  # a field
        (("return x + 1", "return x + 2"), True),  # torch calls it
        (("return -x", "return x"), False),  # nobody does
        (("    def unused", "    def more(self): pass\n    def unused"), False),
        (("x.sum()", "getattr(self, f'un{x}')"), True),  # somebody might
    ],
)
def test_of_a_class_what_is_mentioned_counts(
    change: tuple[str, str], counts: bool, tmp_path: Path
) -> None:
    """A way to predict that only benchmarks use must not make accuracies stale."""
    before = plugin_sha(tmp_path / "a.py", MEMBERS)
    assert (plugin_sha(tmp_path / "b" / "a.py", MEMBERS.replace(*change)) != before) == counts


def test_a_function_added_where_an_attribute_has_no_name_counts(tmp_path: Path) -> None:
    dynamic = MEMBERS.replace("x.sum()", "getattr(self, f'un{x}')")
    before = plugin_sha(tmp_path / "a.py", dynamic)
    assert plugin_sha(tmp_path / "b" / "a.py", dynamic.replace("return -x", "return x")) != before


MEMBERS = """
from dataclasses import dataclass
from torch import nn
from methods import Method, Traits, register

@dataclass(frozen=True)
class Config: pass

class Layer(nn.Module):
    rate = 0.1
    def forward(self, x):
        return x + 1
    def gained(self, x):
        return 5 * x

@register
class Planted(Method):
    name, label, version, source = "planted", "P", 1, "here"
    traits, Config = Traits(True), Config
    def scaled(self, x):
        return 2 * x
    def unused(self, x):
        return -x
    def train_step(self, x, y, phase, progress):
        return dict(loss=x.sum() + self.scaled(Layer().gained(x)))
    def logits(self, x, readout="last", rng=None): return x
"""


def test_how_a_network_draws_its_weights_counts() -> None:
    """It does not show in the modules as text."""
    found = sources._reached({sources._definition_of(architectures.mlp(2, 5))})
    text = "\n".join(found["suites.engine.architectures"])
    assert "def _dense(" in text and "def _conv(" not in text
    assert sources.builder_sha("mlp-2x500") != sources.builder_sha("cnn-small")


def test_a_name_bound_twice_counts_twice() -> None:
    parts = sources.parse("STEP = 2\nSTEP = STEP * 3\n").definitions["STEP"].text
    assert parts == "STEP = 2\nSTEP = STEP * 3"


def test_data_without_a_registered_hash_count_by_their_loader() -> None:
    assert str(sources.datasets.DATASETS["digits"].sha256) in sources._data("digits")
    assert "KMNIST" in sources._data("kmnist")
    loader = sources._definition_of(sources.datasets.DATASETS["kmnist"].load)
    text = "\n".join(sources._reached({loader})["suites.engine.datasets"])
    assert "def _channels_first" in text


def plugin_sha(file: Path, text: str) -> str:
    """The hash of the method "planted" in a file with this text."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    load_file(file)
    return sources.method_sha("train", METHODS.pop("planted"))


def test_a_plugin_counts_with_its_mixins_wherever_it_lies(tmp_path: Path) -> None:
    shas = [
        plugin_sha(tmp_path / place / "mine.py", PLUGIN.format(name="planted", factor=factor))
        for place, factor in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert shas[0] == shas[1] != shas[2]


PLUGIN = """
from dataclasses import dataclass
from methods import Method, Traits, register

@dataclass(frozen=True)
class Config: pass

class Scaled:
    def scaled(self, x): return {factor} * x

@register
class Planted(Scaled, Method):
    name, label, version, source = "{name}", "P", 1, "here"
    traits, Config = Traits(True), Config
    def train_step(self, x, y, phase, progress): return dict(loss=self.scaled(x).sum())
    def logits(self, x, readout="last", rng=None): return x
"""


def test_a_definition_may_move_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or no file could be split without making records stale."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "more")])
    (tmp_path / "more").mkdir()
    helper, other = "def twice(x):\n    return 2 * x\n", "def thrice(x):\n    return 3 * x\n"
    (tmp_path / "more" / "planted_one.py").write_text(helper + other)
    (tmp_path / "more" / "planted_two.py").write_text(helper)
    (tmp_path / "more" / "planted_three.py").write_text(helper.replace("2", "4"))
    shas = [
        plugin_sha(
            tmp_path / place / "mine.py",
            f"from methods.planted_{place} import twice\n" + MEMBERS.replace("2 * x", "twice(x)"),
        )
        for place in ("one", "two", "three")
    ]
    assert shas[0] == shas[1] != shas[2]


def test_a_file_may_be_renamed_and_its_definitions_be_in_another_order(tmp_path: Path) -> None:
    layer = MEMBERS[MEMBERS.index("class Layer") : MEMBERS.index("@register")]
    here = plugin_sha(tmp_path / "a.py", MEMBERS)
    assert plugin_sha(tmp_path / "b.py", MEMBERS) == here
    below = MEMBERS.replace(layer, "") + "\n" + layer
    assert plugin_sha(tmp_path / "c.py", below) == here
    stolen = MEMBERS.replace("    def scaled(self, x):\n        return 2 * x\n", "").replace(
        "    rate = 0.1\n", "    rate = 0.1\n    def scaled(self, x):\n        return 2 * x\n"
    )
    assert plugin_sha(tmp_path / "d.py", stolen) != here  # to another class is something else


def test_a_docstring_on_the_line_of_a_definition() -> None:
    """It is kept: what stands beside it must not be lost."""
    text = 'class A: """kept"""; x = "#1"'
    assert sources.essence(text + "  # gone") == text


def test_essence_is_cut_from_the_text_by_position(tmp_path: Path) -> None:
    text = 'x = f"{1 + 1}#{2}"  # gone\n\n\nclass A:\n    """Gone."""\n\n    y = 1\n'
    assert sources.essence(text) == 'x = f"{1 + 1}#{2}"\nclass A:\n    y = 1'
