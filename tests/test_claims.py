"""Verdicts on published numbers: a wrong rule would praise or blame a faithful method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from reports import claims
from reports.claims import NOT_RUN, UNTOLD
from reports.statistics import estimate
from reports.table import Cell, Column, Row, Run

ROW = Row("ff", "FF", "ff", "", "last", ("last",), True, "", "", "", ())
COLUMN = Column("mnist/mlp", "mnist", "mlp", "mlp", {"epochs": 60})


@dataclass(frozen=True)
class Number:
    accuracy_pct: float = 98.0
    decimals: int = 2
    std: float | None = None
    std_kind: str = ""
    epochs: str = "60"
    source: str = "Table 1"
    architecture: str = "mlp"
    readout: str = ""
    augmentation: str = ""
    suite: str = "ff-mnist"
    network: str = "a network"
    note: str = ""


def cell(*values: float, epochs: int = 60, n: int = 10_000) -> Cell:
    runs = tuple(
        Run("k", seed, "ok", None, v, False, {
            "cell": {"protocol": {"epochs": epochs}},
            "metrics": {"test": {"last": {"accuracy_pct": v, "n": n}}},
        })
        for seed, v in enumerate(values)
    )  # fmt: skip
    return Cell("ff", "mnist/mlp", "ok", runs, estimate(values))


def verdict(number: Any, found: Cell | None, column: Column | None = COLUMN) -> str:
    return claims.claim_of(number, ROW, "mnist", column, found, "ff-mnist", "paper").verdict


@pytest.mark.parametrize(
    ("number", "found", "expected"),
    [
        (Number(), cell(98.1, 98.0, 98.2), "reached"),
        (Number(), cell(97.0, 97.1, 97.2), "not reached"),
        (Number(), cell(97.9), "reached"),  # one seed: 0.14 points is what chance on 10,000 gives
        (Number(), cell(97.5), "not reached"),
        (Number(), cell(97.5, n=500), UNTOLD),  # a small test set decides less
        (Number(std=0.4), cell(97.3, 97.3, 97.3), "reached"),  # within twice the published spread
        (Number(std=0.1), cell(97.2, 97.2, 97.2), "not reached"),
        (Number(), cell(97.99, 97.99, 97.99), "reached"),  # one image of 10,000, whatever the seed
        (Number(), cell(98.0, 98.0, 60.0), UNTOLD),  # one bad seed is no licence
        (Number(), cell(98.0, 20.0, 20.0), UNTOLD),
        (Number(std=4.9), cell(91.0, 91.02, 90.98), UNTOLD),  # nor is the source's own scatter
        (Number(std=4.9), cell(98.5, 98.6, 98.4), "reached"),
        (Number(), cell(97.0, 97.1, 97.2, epochs=30), NOT_RUN),  # half the budget
        (Number(), cell(98.5, epochs=30), "reached"),  # in half the budget
        (Number(epochs=""), cell(98.5), "protocol unknown"),
        (Number(architecture=""), cell(98.5), NOT_RUN),
        (Number(architecture="", network="not stated there"), cell(98.5), "protocol unknown"),
        (Number(epochs="45 per layer"), cell(98.5), "protocol unknown"),  # of how many layers?
        (Number(epochs="200 (50 per layer)"), cell(97.0, epochs=75), NOT_RUN),
        (Number(), cell(97.0, epochs=90), NOT_RUN),  # a longer run is another one
        (Number(), cell(98.5, epochs=90), NOT_RUN),
        (Number(augmentation="none"), cell(98.5), "reached"),
        (
            Number(augmentation="crop2"),
            cell(98.5),
            NOT_RUN,
        ),  # jitter alone is worth as much
    ],
)
def test_verdicts(number: Number, found: Cell, expected: str) -> None:
    assert verdict(number, found) == expected


@pytest.mark.parametrize(
    ("suite", "profile", "value", "expected"),
    [
        ("ff-mnist", "paper", 97.0, "not reached"),
        ("ff-mnist", "standard", 97.0, NOT_RUN),  # another budget, split or settings
        ("table1", "paper", 97.0, NOT_RUN),
        ("table1", "paper", 98.5, "reached"),  # whoever gets there otherwise is there
    ],
)
def test_only_the_published_protocol_can_fall_short(
    suite: str, profile: str, value: float, expected: str
) -> None:
    found = claims.claim_of(Number(), ROW, "mnist", COLUMN, cell(value), suite, profile)
    assert found.verdict == expected


def test_tuned_settings_are_another_protocol() -> None:
    low, high = (cell(v, v + 0.01, v - 0.01) for v in (97.0, 98.5))
    for found, expected in ((low, NOT_RUN), (high, "reached")):
        claim = claims.claim_of(
            Number(), ROW, "mnist", COLUMN, found, "ff-mnist", "paper", tuned=True
        )
        assert claim.verdict == expected


def test_divergence_under_the_published_protocol_falls_short() -> None:
    """Of some seeds too: they have ended, and the mean of the others would hide it."""
    whole = cell(97.0, 97.0)
    gone = tuple(replace(run, status="diverged", value=None) for run in whole.runs)
    lost = replace(whole, state="diverged", runs=gone, estimate=None, reason="loss is NaN")
    assert verdict(Number(), lost) == "not reached"
    some = replace(whole, state="partial", runs=(whole.runs[0], gone[1]), reason="1 of 2 diverged")
    assert verdict(Number(90.0), some) == "not reached"
    part = (gone[0], replace(gone[1], status="missing", record=None))
    assert verdict(Number(), replace(lost, runs=part)) == NOT_RUN
    old = tuple(replace(run, stale=True) for run in gone)
    assert verdict(Number(), replace(lost, runs=old)) == NOT_RUN
    short = replace(lost, runs=tuple(
        replace(run, record={"cell": {"protocol": {"epochs": 1}}}) for run in gone
    ))  # fmt: skip
    assert verdict(Number(), short) == NOT_RUN
    assert verdict(Number(epochs=""), lost) == "protocol unknown"


def test_an_augmentation_that_is_not_stated_decides_nothing() -> None:
    augmented = replace(COLUMN, protocol={"epochs": 60, "augmentation": "crop4+flip"})
    assert verdict(Number(), cell(98.5), augmented) == "protocol unknown"


def test_a_printed_digit_is_a_rounded_one() -> None:
    """98 printed without decimals may have been 97.5."""
    assert verdict(Number(98.0, decimals=0), cell(97.3)) == "reached"
    assert verdict(Number(98.0, decimals=1), cell(97.3)) == "not reached"


def test_a_claim_is_held_against_the_readout_that_it_is_about() -> None:
    """A one-pass softmax readout and C passes of goodness are two numbers of one network."""
    both = replace(cell(97.0), readouts={"test": {"softmax": estimate([98.0])}})
    assert verdict(Number(), both) == "not reached"
    assert verdict(Number(readout="softmax"), both) == "reached"
    assert verdict(Number(readout="another"), both) == NOT_RUN


def test_unfinished_and_outdated_cells_reach_nothing() -> None:
    whole = cell(98.1, 98.2, 98.3)
    assert verdict(Number(), replace(whole, state="partial", reason="1 of 3 seeds")) == NOT_RUN
    old = tuple(replace(run, stale=True) for run in whole.runs)
    assert verdict(Number(), replace(whole, runs=old)) == NOT_RUN


def test_a_claim_without_a_cell_is_not_run() -> None:
    assert verdict(Number(), None, None) == NOT_RUN
    assert verdict(Number(), Cell("ff", "mnist/mlp", "missing")) == NOT_RUN


def test_tolerance_against_a_simulation() -> None:
    """Of runs equal in truth to the published one, some 2 % may be called not reached."""
    import numpy as np

    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        published, *ours = rng.normal(95.0, 0.3, size=6)
        number = Number(accuracy_pct=float(published), std=0.3)
        wrong += verdict(number, cell(*map(float, ours))) != "reached"
    assert wrong / 2000 < 0.05


def test_every_verdict_has_its_rule() -> None:
    assert [line.split(":")[0] for line in claims.RULE] == list(claims.VERDICTS)
