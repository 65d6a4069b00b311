"""Methods over all columns at once: interquartile mean, chance to be better, performance profile.

After Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice
(arXiv 2108.13264), with one change: scores are differences from the control with the same seed, so
that an easy and a hard dataset share one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports.drawing import line_style, style, svg
from reports.statistics import MIN_SEEDS_FOR_INTERVAL
from reports.table import Cell, Column, Row, Table

RESAMPLES, FEWEST = 2000, 100
MOST_DRAWN = 200_000  # runs of one method in all resamples: with many runs, fewer resamples
SEED = 0  # of the generator that resamples: the same records give the same page
MOST_LINES = 24  # of a profile; with more, no line can be followed
LEAST_COLUMNS = 2
Values = NDArray[Any]
Strata = Sequence[Values]  # one array of seeds for each column

CAPTION = (
    "Over {n} columns: all those that {control} and at least one other method have finished with "
    "{seeds} seeds or more. A score is the difference from {control} with the same seed, in "
    "percentage points, and so has no unit of a dataset. IQM: the mean of the middle half of all "
    "scores, which one odd seed or one odd dataset cannot move far. Better than {control}: the "
    "chance that a run of the method beats one of {control} on the same column, ties counted half, "
    "averaged over columns. Brackets: 95 % percentile intervals of {resamples} bootstrap resamples "
    "of the seeds within every column (numpy's default generator, seed {seed}); with few seeds "
    "they are too narrow."
)


@dataclass(frozen=True)
class Line:
    """One method over all columns."""

    row: Row
    iqm: float  # percentage points beside the control
    iqm_interval: tuple[float, float]
    better: float  # in [0, 1]
    better_interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    control: Row
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]  # the best interquartile mean first
    left_out: tuple[str, ...]  # "FF (2 of 4 columns)"
    caption: str
    profile: str  # SVG


def interquartile_mean(strata: Strata) -> Values:
    """Mean of the middle half of all values of all columns; (..., n) for each column -> (...).

    Of n values in all, floor(n / 4) are cut off at each end, as scipy.stats.trim_mean does.
    """
    values = np.sort(np.concatenate(list(strata), axis=-1), axis=-1)
    cut = values.shape[-1] // 4
    return np.asarray(values[..., cut : values.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(ours: Strata, theirs: Strata) -> Values:
    """P(ours > theirs) + P(equal) / 2 of single runs, averaged over columns; (R, n) -> (R,).

    Of one column that is Mann and Whitney's U over the number of pairs.
    """
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = ranked(a, b)
        # line r of a batch is moved by r times more than all ranks: one search serves all lines
        offsets = (np.arange(len(a)) * (1 + max(a.max(), b.max())))[:, None]
        line = np.sort(b + offsets, axis=-1).ravel()
        first = (np.arange(len(a)) * b.shape[1])[:, None]
        beaten = np.searchsorted(line, a + offsets, "left") - first
        not_better = np.searchsorted(line, a + offsets, "right") - first
        shares.append((beaten + not_better).mean(axis=-1) / (2 * b.shape[1]))
    return np.asarray(np.mean(shares, axis=0))


def ranked(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whole numbers in the order of the values of both, equal for equal ones; of any shapes."""
    if a.dtype.kind == b.dtype.kind == "i":
        return a, b
    _, codes = np.unique(np.concatenate([a.ravel(), b.ravel()]), return_inverse=True)
    return codes[: a.size].reshape(a.shape), codes[a.size :].reshape(b.shape)


def resampled(strata: Strata, rng: np.random.Generator, resamples: int) -> list[Values]:
    """Each column's seeds drawn anew, with replacement: (n,) -> (resamples, n)."""
    return [column[rng.integers(0, len(column), (resamples, len(column)))] for column in strata]


def interval(statistics: Values) -> tuple[float, float]:
    """The middle 95 % of a statistic's values on resamples."""
    low, high = np.quantile(statistics, [0.025, 0.975])
    return float(low), float(high)


def profile(scores: Strata, thresholds: Values) -> Values:
    """Share of runs at or above each threshold, every column counted alike."""
    return np.mean([np.mean(c[None, :] >= thresholds[:, None], axis=1) for c in scores], axis=0)


# ------------------------------------------------------------------------ of a table


def summarise(table: Table) -> Summary | None:
    """The methods that are finished on all columns of the control; None where that says nothing.

    It takes a table of accuracies, a row of backprop, and two columns with three seeds.
    """
    control = table.control
    if control is None or table.metric != "accuracy_pct" or table.kind != "train":
        return None
    columns = [c for c in table.columns if any(table.cell(row, c).beside for row in table.rows)]
    if len(columns) < LEAST_COLUMNS:
        return None
    rivals, left_out = [], []
    for row in table.rows:
        n = sum(table.cell(row, column).beside is not None for column in columns)
        if n == len(columns):
            rivals.append(row)
        elif row != control:
            left_out.append(f"{row.label} ({n} of {len(columns)} columns)")
    if not rivals:
        return None
    scores = {row.id: [_scores(table, row, control, c) for c in columns] for row in rivals}
    theirs = [_values(table.cell(control, column)) for column in columns]
    resamples = min(RESAMPLES, max(FEWEST, MOST_DRAWN // sum(map(len, theirs))))
    lines = []
    for row in rivals:
        # every method starts from the same draws, so that another row moves no number
        rng = np.random.default_rng(SEED)
        ours = [_values(table.cell(row, column)) for column in columns]
        drawn = resampled(scores[row.id], rng, resamples)
        order = [ranked(a, b) for a, b in zip(ours, theirs, strict=True)]  # all that is asked for
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
        _drawn(table, scores) if len(rivals) <= MOST_LINES else "",
    )  # fmt: skip


def _values(cell: Cell) -> Values:
    return np.array(cell.estimate.values if cell.estimate else ())


def _scores(table: Table, row: Row, control: Row, column: Column) -> Values:
    return _values(table.cell(row, column)) - _values(table.cell(control, column))


def _drawn(table: Table, scores: dict[str, list[Values]]) -> str:
    with style():
        figure = Figure(figsize=(6.4, 3.1), layout="constrained")
        draw_profile(figure.subplots(), table, scores)
        return svg(figure, "profile")


def draw_profile(axes: Axes, table: Table, scores: dict[str, list[Values]]) -> None:
    """A line per method: the share of its runs that come at least so near to the control."""
    everything = np.concatenate([np.concatenate(columns) for columns in scores.values()])
    # the worst tenth of all runs would squeeze the others into one line
    low, high = float(np.quantile(everything, 0.1)), float(everything.max())
    thresholds = np.linspace(min(low, -1.0), max(high, 0.5), 201)
    for i, row in enumerate(table.rows):
        if row.id in scores:
            look = line_style(i) | {"markersize": 3.6}
            share = profile(scores[row.id], thresholds)
            end = int((share > 0).sum()) + 1  # no lines upon lines along the bottom
            axes.plot(
                thresholds[:end], share[:end], **look, markevery=(5 * i % 40, 40),
                drawstyle="steps-post",
            )  # fmt: skip
    axes.axvline(0, color="#6e6e6f", linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("Difference from the control, percentage points")
    axes.set_ylabel("Share of runs at least there")
