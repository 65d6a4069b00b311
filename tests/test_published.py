"""Published numbers: one wrong digit makes a faithful method look wrong, or a wrong one right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from methods import METHODS, load_builtin
from results import published as module
from results.published import load, published
from suites.catalogue import SUITES
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
    assert {c.architecture for c in load()} <= {"", *ARCHITECTURES}


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


def test_a_broken_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = module.FILE.read_text().splitlines()[:2]
    broken = tmp_path / "accuracy.csv"
    broken.write_text("\n".join([*text, "ff,FF,mnist,,,MLP,about 98,,,,somewhere,"]))
    monkeypatch.setattr(module, "FILE", broken)
    with pytest.raises(ValueError, match=r"accuracy\.csv, line 3: .*about 98"):
        load.__wrapped__()
