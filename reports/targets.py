"""Time to a target accuracy, from the learning curves of stored records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from reports.table import Cell, Column, Run, Table

SHARE = 0.98  # of the best final validation accuracy in the column


def target(table: Table, column: Column) -> float | None:
    """Validation accuracy in percent that counts as reached; None while no cell is whole.

    None also where what may be missing to the best is less than one validation image.
    """
    finals = [
        sum(values) / len(values)
        for row in table.rows
        if table.cell(row, column).state == "ok"  # the seeds that are left may be the good ones
        and (values := [v for run in _ok(table.cell(row, column)) if (v := _last(run)) is not None])
    ]
    if not finals or (1 - SHARE) * max(finals) < 100 / max(_n_val(table, column), 1):
        return None
    return SHARE * max(finals)


def _n_val(table: Table, column: Column) -> int:
    """The least number of validation images of any run."""
    numbers = [
        metrics["n"]
        for row in table.rows
        for run in _ok(table.cell(row, column))
        for metrics in (run.record or {})["metrics"].get("val", {}).values()
        if metrics.get("n")
    ]
    return min(numbers, default=0)


def seconds_to(cell: Cell, accuracy_pct: float) -> float | None:
    """Median training time over the ok seeds; None where a seed never gets there, or diverged.

    Between two epochs by straight line; validation itself is not counted.
    """
    if any(run.status == "diverged" for run in cell.runs):
        return None
    found = [_reached(_curve(run), accuracy_pct) for run in _ok(cell)]
    times = [seconds for seconds in found if seconds is not None]
    return statistics.median(times) if times and len(times) == len(found) else None


def _ok(cell: Cell) -> list[Run]:
    return [run for run in cell.runs if run.status == "ok" and run.record]


def _curve(run: Run) -> list[tuple[float, float]]:
    """(seconds of training, validation accuracy in percent) after each epoch."""
    curves = (run.record or {})["curves"]
    pairs = zip(curves.get("train_s", ()), curves.get("val_accuracy_pct", ()), strict=False)
    return [(s, a) for s, a in pairs if s is not None and a is not None]


def _last(run: Run) -> float | None:
    """Validation accuracy after the last epoch that has one."""
    curves = (run.record or {})["curves"]
    accuracies = curves.get("val_accuracy_pct", ())[: len(curves.get("train_s", ()))]
    return next((a for a in reversed(accuracies) if a is not None), None)


def _reached(curve: Sequence[tuple[float, float]], accuracy_pct: float) -> float | None:
    if curve and curve[0][1] >= accuracy_pct:
        return curve[0][0]
    for (s0, a0), (s1, a1) in pairwise(curve):
        if a1 >= accuracy_pct:
            return s0 + (s1 - s0) * (accuracy_pct - a0) / (a1 - a0)
    return None
