"""Published numbers: one wrong digit makes a faithful method look wrong, or a wrong one right."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from methods import METHODS, PluginError, load_builtin
from results import published as module
from results.published import load, parse, published
from suites.catalogue import SUITES, published_by
from suites.engine.architectures import ARCHITECTURES
from suites.suite import rows_of


def test_every_claim_is_complete_and_in_range() -> None:
    assert len(load()) > 500
    for claim in load():
        assert 0 <= claim.accuracy_pct <= 100, claim
        assert claim.std is None or 0 <= claim.std < 20, claim
        assert claim.method, claim
        assert claim.network, claim
        assert claim.source, claim
        assert claim.dataset == claim.dataset.lower().strip() != "", claim


def test_rows_and_architectures_are_ours() -> None:
    """A misspelt name would silently drop the claim from every table."""
    load_builtin()
    known = {row.id for suite in SUITES.values() for row in rows_of(suite.methods)}
    known |= {row.id for row in rows_of(METHODS)}
    assert {c.row for c in load()} <= {"", *known}
    named = {c.architecture for c in load()} - {""}
    assert [name for name in named if not ARCHITECTURES.knows(name)] == []
    assert not ARCHITECTURES.knows("mlp-2x") and ARCHITECTURES.knows("mlp-9x77")


def test_no_claim_stands_twice() -> None:
    copies = Counter((c.method, c.dataset, c.network, c.accuracy_pct) for c in load())
    assert [claim for claim, n in copies.items() if n > 1] == []


@pytest.mark.parametrize(
    ("row", "dataset", "architecture", "accuracy_pct", "std"),
    [
        ("ff", "mnist", "mlp-4x2000", 98.64, None),  # 1.36 % error, arXiv 2212.13345
        ("ff-uniform", "mnist", "mlp-3x1000", 98.55, None),  # 1.45 % error, loeweX/Forward-Forward
        ("greedy-predsim", "cifar10", "vgg8b", 94.42, None),  # 5.58 % error, arXiv 1901.06656
        ("greedy-sim", "cifar100", "vgg8b", 67.36, None),  # 32.64 % error, the same
        ("backprop", "fashion-mnist", "vgg8b", 95.47, None),  # 4.53 % error, the same
        ("noprop", "cifar10", "cnn-small", 79.25, 0.28),  # arXiv 2503.24322v1, Table 1
        ("noprop", "cifar100", "cnn-small", 45.93, 0.46),  # the same
    ],
)
def test_known_numbers(
    row: str, dataset: str, architecture: str, accuracy_pct: float, std: float | None
) -> None:
    claims = [c for c in published(row, dataset) if c.architecture == architecture]
    assert (accuracy_pct, std) in [(c.accuracy_pct, c.std) for c in claims]


def test_a_control_with_an_image_skip_is_a_row_of_its_own() -> None:
    """NoProp's backprop control sees the image in every block, which plain backprop does not."""
    controls = [c for c in load() if c.row.startswith("noprop-backprop")]
    assert len(controls) == 9
    assert {c.architecture for c in controls} == {"cnn-small"}
    assert not [c for c in published("backprop", "cifar10") if c.architecture == "cnn-small"]


def test_other_training_data_or_augmentation_is_not_compared() -> None:
    assert published("greedy-predsim", "svhn") == []  # trained on more images than ours
    assert not [c for c in load() if c.row and ("cutout" in c.method or "jitter" in c.method)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ff,FF,mnist,,,MLP,about 98,,,,,,somewhere,", "about 98"),
        ("ff,FF,mnist,,,MLP,980,,,,,,somewhere,", "980 is no accuracy"),
        ("ff,FF,mnist,,,MLP,98,,,,somewhere,", "needs a text for each of row,method"),
        ("ff,FF,mnist,,,MLP,98,,,,,,somewhere,,,", "and no more"),
    ],
)
def test_a_broken_line_is_named(
    line: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = module.FILE.read_text().splitlines()[:2]
    broken = tmp_path / "accuracy.csv"
    broken.write_text("\n".join([*text, line]))
    monkeypatch.setattr(module, "FILE", broken)
    with pytest.raises(ValueError, match=rf"accuracy\.csv, line 3: .*{why}"):
        load.__wrapped__()


def test_numbers_of_a_users_file_have_the_form_of_ours(tmp_path: Path) -> None:
    """So that a line can move from a method's file to this repository as it is."""
    ours = module.FILE.read_text().splitlines()[1]
    path = tmp_path / "mine.py"
    path.write_text(f"PUBLISHED = {f'{ours}{chr(10)}'!r}\n")
    (line,) = published_by([path])
    assert parse(line, "here") == load()[0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("hhf,HFF,digits,,,500,98.7,,,,,,Table 7,", "did you mean 'hff'"),
        ("hff,HFF,digits,mpl-2x500,,500,98.7,,,,,,Table 7,", "did you mean 'mlp-2x500'"),
        ("hff,HFF,digits,,,500,98.7 %,,,,,,Table 7,", "98.7 %"),
        ("hff,HFF,digits,,,500,98.7,nan,,,,,Table 7,", "nan is no spread"),
        ("hff,HFF,minst,,,500,98.7,,,,,,Table 7,", "did you mean 'mnist'"),
        ("hff,HFF,digits,,lsat,500,98.7,,,,,,Table 7,", "did you mean 'last'"),
        ("hff,HFF,digits,,,500,98.7,,,,crop9,,Table 7,", "unknown augmentation 'crop9'"),
        ("hff,HFF,digits,,,500,98.7,,,,,table9,Table 7,", "unknown suite 'table9'"),
        ("hff,HFF,digits,,,500,98.7,,,,Table 7,", "has 12 columns, not 14: row,method"),
        ("hff,HFF,digits,,,500,98.7,,,,,,,", "row, dataset, network and source are needed"),
        ('hff,HFF,digits,,,500,98.7,,,,,,"Table 7,', "unexpected end of data"),
    ],
)
def test_what_a_users_file_has_wrong_is_named(line: str, why: str, tmp_path: Path) -> None:
    """A misspelt name would silently stand beside nothing."""
    load_builtin()
    path = tmp_path / "mine.py"
    path.write_text(f"PUBLISHED = {line!r}\n")
    with pytest.raises(PluginError, match=f"plugin {re.escape(str(path))}, PUBLISHED: .*{why}"):
        published_by([path])
