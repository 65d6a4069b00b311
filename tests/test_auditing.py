"""The audit of the rules themselves: families told apart, memory by depth, what a cell holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods import METHODS, load_builtin
from suites.auditing import locality, measure
from suites.case import Case
from suites.engine import datasets
from suites.engine.cell import Cell, Protocol
from suites.request import audit_cell
from suites.suite import rows_of

load_builtin()


def signature(row_id: str) -> tuple[Any, ...]:
    row = next(r for r in rows_of(METHODS) if r.id == row_id)
    looked_at = Case(row, "mlp-3x1000").subject()
    chains = locality.chains(looked_at)
    return (
        chains.longest,
        chains.nearest,
        bool(locality.crossings(looked_at, 5)),
        bool(locality.influences(looked_at, 5)),
        locality.follows_gradient(looked_at, 5),
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # chain, nearest loss, gradient crosses units, depends on later ones, true gradient
        ("backprop", (4, 4, True, True, True)),
        ("deep-supervision", (4, 2, True, True, False)),
        ("fa", (4, 4, True, True, False)),
        ("dfa", (1, 1, False, True, False)),
        ("mono-forward", (2, 2, False, False, False)),
        ("hff", (2, 2, False, False, False)),
        ("greedy-predsim", (2, 2, False, False, False)),
    ],
)
def test_the_audit_tells_the_families_apart(row: str, expected: tuple[Any, ...]) -> None:
    """On three layers: nothing here is read from what a method declares."""
    assert signature(row) == expected


def test_noprop_differentiates_through_one_block_of_several() -> None:
    chain, _, crosses, depends, _ = signature("noprop")
    assert 4 < chain < 10 and not crosses and not depends  # one encoder and head, of ten blocks


# --------------------------------------------------------------------------------- memory


def stack_memory(row_id: str) -> dict[int, int]:
    row = next(r for r in rows_of(METHODS) if r.id == row_id)
    return measure.memory_by_depth(audit_cell(row.method, row.settings, "mlp-3x1000"))


def test_streaming_local_rules_take_a_quarter_of_the_memory_per_block() -> None:
    """What locality is to buy; kept graphs or an unfreed block would show as backprop's slope."""
    control = measure.slope(stack_memory("backprop"))
    for row in ("mono-forward", "hff", "greedy-pred", "greedy-sim", "greedy-predsim"):
        assert measure.slope(stack_memory(row)) <= control / 4, row


def test_deep_supervision_saves_no_memory() -> None:
    ratio = measure.slope(stack_memory("deep-supervision")) / measure.slope(
        stack_memory("backprop")
    )
    assert ratio > 0.9


def test_peak_bytes_counts_what_is_alive_at_once() -> None:
    def work() -> None:
        kept = torch.zeros(2**18)  # 1 MiB
        for _ in range(3):
            torch.zeros(2**19)  # 2 MiB, one at a time
        kept.add_(1)

    assert measure.peak_bytes(work) == pytest.approx(3 * 2**20, rel=0.01)


def test_peak_bytes_leaves_out_what_an_earlier_measurement_left_behind() -> None:
    left = []
    measure.peak_bytes(lambda: left.append(torch.zeros(2**20)))
    found = measure.peak_bytes(lambda: torch.zeros(2**18))
    assert found == pytest.approx(2**20, rel=0.01)
    left.clear()
    assert measure.peak_bytes(lambda: torch.zeros(2**18)) == pytest.approx(2**20, rel=0.01)


def test_slope_of_a_line() -> None:
    assert measure.slope({4: 10, 8: 18, 16: 34}) == pytest.approx(2.0)


# ------------------------------------------------------------------------------- the cell


def test_an_audit_cell_does_not_depend_on_the_protocol() -> None:
    one = audit_cell("hff", {}, "mlp-3x1000")
    other = Cell.of("hff", {}, "mlp-3x1000", "synthetic", Protocol(epochs=7), 0, "audit")
    trained = Cell.of("hff", {}, "mlp-3x1000", "synthetic", Protocol(epochs=7), 0)
    assert one.key == other.key != trained.key


def test_the_audit_of_a_cell_holds_every_measure() -> None:
    cell = audit_cell("mono-forward", {}, "cnn-small")
    found = measure.measure(cell, datasets.load("synthetic", None, 0.1))
    assert found["chain_longest"] == 2 and found["label_free"] and not found["crosses_units"]
    assert found["memory_depths"] == list(measure.DEPTHS)
    assert found["passes_per_prediction"] == 1


def test_a_network_too_narrow_for_a_rule_is_widened() -> None:
    """CwComp needs a channel for each of 10 classes; below that it would divide by nothing."""
    cell = audit_cell("cwcomp", {}, "cnn-small")
    found = measure.measure(cell, datasets.load("synthetic", None, 0.1))
    assert found["label_free"] and not found["depends_on_later"] and not found["true_gradient"]
