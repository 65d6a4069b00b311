"""Methods over all columns of a table at once, each beside the control.

Differs from Agarwal et al. (see aggregates.py): scores are differences from the control with the
same seed, so that an easy and a hard dataset share one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reports.aggregates import (
    Strata,
    Values,
    interquartile_mean,
    interval,
    probability_of_improvement,
    ranked,
    resampled,
)
from reports.statistics import MIN_SEEDS_FOR_INTERVAL
from reports.table import Cell, Column, Row, Table

RESAMPLES, FEWEST = 2000, 100
MOST_DRAWN = 200_000  # runs of one method in all resamples: with many runs, fewer resamples
SEED = 0  # of the generator that resamples: the same records give the same page
LEAST_COLUMNS = 2

CAPTION = (
    "Over {n} columns: all those that {control} and at least one other method have finished with "
    "{seeds} seeds in common or more. A score is the difference from {control} with the same seed, "
    "in percentage points, so it has no unit of a dataset. IQM: the mean of the middle half of all "
    "scores, which one odd seed or one odd dataset cannot move far. Better than {control}: the "
    "chance that a run of the method beats one of {control} on the same column, ties counted half, "
    "averaged over columns. Brackets: 95 % percentile intervals of {resamples} bootstrap resamples "
    "of the seeds within every column (numpy's default generator, seed {seed}); with few seeds "
    "they are too narrow, and they take no account of rounding to whole images, as tests do."
)


@dataclass(frozen=True)
class Line:
    """One method over all columns."""

    row: Row
    iqm: float  # percentage points beside the control
    iqm_interval: tuple[float, float]
    better: float  # in [0, 1]
    better_interval: tuple[float, float]
    stale: bool  # whether some of it, or of the control, was made by older sources


@dataclass(frozen=True)
class Summary:
    control: Row
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]  # the best interquartile mean first
    left_out: tuple[str, ...]  # "FF (2 of 4 columns)"
    caption: str
    scores: Mapping[str, Strata]  # by row id: differences from the control, of each column's seeds


def summarise(table: Table) -> Summary | None:
    """The methods that are finished on all columns of the control; None where that says nothing.

    It takes a table of accuracies, a row of backprop, and two columns with three seeds.
    """
    control = table.control
    if control is None or table.metric != "accuracy_pct" or table.kind != "train":
        return None
    seeds = {
        (row.id, c.id): _seeds(table, row, control, c) for row in table.rows for c in table.columns
    }
    columns = [c for c in table.columns if any(seeds[row.id, c.id] for row in table.rows)]
    if len(columns) < LEAST_COLUMNS:
        return None
    rivals, left_out = [], []
    for row in table.rows:
        n = sum(bool(seeds[row.id, column.id]) for column in columns)
        if n == len(columns):
            rivals.append(row)
        elif row != control:
            left_out.append(f"{row.label} ({n} of {len(columns)} columns)")
    if not rivals:
        return None
    results = {
        row.id: [
            tuple(_values(table.cell(r, c), seeds[row.id, c.id]) for r in (row, control))
            for c in columns
        ]
        for row in rivals
    }
    scores = {name: [ours - theirs for ours, theirs in pairs] for name, pairs in results.items()}
    n_values = max(sum(map(len, found)) for found in scores.values())
    resamples = min(RESAMPLES, max(FEWEST, MOST_DRAWN // n_values))
    lines = []
    for row in rivals:
        # every method starts from the same draws, so that another row moves no number
        rng = np.random.default_rng(SEED)
        drawn = resampled(scores[row.id], rng, resamples)
        order = [ranked(*pair) for pair in results[row.id]]  # all that is asked for
        sides: list[Strata] = [[pair[i] for pair in order] for i in (0, 1)]
        better = probability_of_improvement(*([v[None] for v in side] for side in sides))
        again = probability_of_improvement(*(resampled(side, rng, resamples) for side in sides))
        lines.append(
            Line(
                row,
                float(interquartile_mean(scores[row.id])),
                interval(interquartile_mean(drawn)),
                float(better[0]),
                interval(again),
                any(table.cell(r, c).n_stale for r in (row, control) for c in columns),
            )
        )
    lines.sort(key=lambda line: -line.iqm)
    return Summary(
        control,
        tuple(columns),
        tuple(lines),
        tuple(left_out),
        CAPTION.format(
            n=len(columns),
            control=control.label,
            seeds=MIN_SEEDS_FOR_INTERVAL,
            resamples=resamples,
            seed=SEED,
        ),
        scores,
    )


def _seeds(table: Table, row: Row, control: Row, column: Column) -> list[int]:
    """The seeds that a method and the control share on a column.

    Empty for the control itself, where one of them is not whole, and where there are too few.
    """
    ours, theirs = table.cell(row, column), table.cell(control, column)
    if row == control or not ours.state == theirs.state == "ok":
        return []
    shared = ours.by_seed.keys() & theirs.by_seed.keys()
    return sorted(shared) if len(shared) >= MIN_SEEDS_FOR_INTERVAL else []


def _values(cell: Cell, seeds: list[int]) -> Values:
    values = cell.by_seed
    return np.array([values[seed] for seed in seeds])
