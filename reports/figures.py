"""The figures: accuracy with intervals and learning curves, as inline SVG and as files.

On the page a figure is one small SVG per column of the table, laid out by the browser, so that it
is legible on a telephone; in the files the same panels share one sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports import transfer
from reports.aggregates import Strata, profile
from reports.caption import metric_text
from reports.cost_figures import draw_memory, draw_scaling, looks, memory_figure, with_memory
from reports.drawing import (
    BY_ERROR,
    COLOURS,
    HOLLOW,
    INK,
    MOST,
    MUTED,
    Draw,
    Panel,
    line_style,
    panels,
    save,
    short,
    spread_by_error,
    style,
    svg,
)
from reports.formatting import plural
from reports.speed import scalings
from reports.table import Column, Row, Table

MOST_TICKS = 100  # of single seeds: more are a smear
WORDS = {"unsupported": "not supported", "unwanted": "not in this table"}  # others as they are
LEAST_SPAN = 1.0  # percentage points on an axis: on less, chance would look large
LEAST = -0.4  # starts an axis of accuracies in percent: room for a marker at 0, no tick below


def accuracy_panels(table: Table) -> list[Panel]:
    """One panel per column that has a value: mean, interval, single seeds, published number."""
    height = 0.62 + 0.27 * len(table.rows)
    columns = [c for c in table.columns if _has_value(table, c)]
    return panels(table, columns, draw_accuracy, (4.4, height))


def curve_panels(table: Table) -> list[Panel]:
    """One panel per column that has a curve: validation accuracy after each epoch."""
    columns = [c for c in table.columns if any(table.cell(r, c).curve for r in table.rows)]
    return panels(table, columns, draw_curves, (4.4, 2.9))


def profile_panel(table: Table, scores: Mapping[str, Strata]) -> Panel:
    """The share of each method's runs that come at least so near to the control."""
    with style():
        figure = Figure(figsize=(6.4, 3.1), layout="constrained")
        draw_profile(figure.subplots(), table, scores)
        return Panel(plural(len(next(iter(scores.values()))), "column"), svg(figure, "profile"))


def swatches(table: Table) -> list[tuple[Row, str]]:
    """(method, SVG of its line and marker), the key to the curves."""
    found = []
    with style():
        for i, row in enumerate(table.rows):
            figure = Figure(figsize=(0.42, 0.16))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.plot([0, 0.5, 1], [0, 0, 0], **line_style(i), markevery=[1])
            axes.set_xlim(-0.05, 1.05)
            found.append((row, svg(figure, f"key-{i}")))
    return found


def write_files(table: Table, folder: Path) -> list[Path]:
    """Writes accuracy and curves, or what else the table is about, as .pdf and .png sheets.

    Raises:
        OSError: the folder cannot be written to.
    """
    paths: list[Path] = []
    with style():
        for name, figure in _sheets(table):
            paths += save(figure, folder / name)
    return paths


# ---------------------------------------------------------------- one panel


def draw_accuracy(axes: Axes, table: Table, column: Column) -> None:
    """Methods from top to bottom, the headline from left to right."""
    # one artist for all rows where that is possible: on many panels each takes its time
    seeds: list[tuple[float, float]] = []
    intervals: list[tuple[float, float, float, str]] = []
    claims: list[tuple[float, float]] = []
    values: list[float] = []
    for i, row in enumerate(table.rows):
        cell = table.cell(row, column)
        if cell.estimate is None:
            axes.annotate(
                WORDS.get(cell.state, cell.state),
                (0.015, i), xycoords=("axes fraction", "data"), va="center",
                color=MUTED, fontsize=7.5, fontstyle="italic",
            )  # fmt: skip
            continue
        look, value = line_style(i), cell.estimate
        values += value.values
        if value.n <= MOST_TICKS:
            seeds += [(v, i + 0.24) for v in value.values]
        if value.half_width is not None:
            intervals.append((value.mean, i, value.half_width, look["color"]))
        values += [claim.accuracy_pct for claim in cell.shown_claims]
        claims += [(claim.accuracy_pct, i) for claim in cell.shown_claims]
        axes.plot(
            value.mean, i, marker=look["marker"], color=look["color"], markersize=5.4,
            linestyle="", **({} if cell.state == "ok" else HOLLOW),
        )  # fmt: skip
    if seeds:
        axes.plot(
            *zip(*seeds, strict=True), linestyle="", marker="|", markersize=5,
            markeredgewidth=0.9, color=MUTED,
        )  # fmt: skip
    if intervals:
        means, places, halves, colours = zip(*intervals, strict=True)
        axes.errorbar(means, places, xerr=halves, fmt="none", ecolor=colours, elinewidth=1.5)
    if claims:
        axes.plot(
            *zip(*claims, strict=True), marker="D", markerfacecolor="none", markeredgecolor=INK,
            markersize=5, markeredgewidth=0.9, linestyle="",
        )  # fmt: skip
    axes.set_yticks(range(len(table.rows)), [short(row) for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    by_error = table.metric == "accuracy_pct" and spread_by_error(axes, "x", values)
    if by_error:
        high = 100 - (100 - max(values)) / 2  # the interval of a few seeds may reach beyond 100
        axes.set_xlim(max(axes.get_xlim()[0], LEAST), min(axes.get_xlim()[1], high))
    elif axes.has_data() and table.metric == "accuracy_pct":
        low, high = axes.get_xlim()
        room = max(0.0, LEAST_SPAN - (high - low)) / 2
        # an interval of a few seeds may claim more than is possible
        axes.set_xlim(max(low - room, LEAST), min(high + room, MOST))
    axes.set_xlabel(metric_text(table) + BY_ERROR * by_error)


def draw_curves(axes: Axes, table: Table, column: Column) -> None:
    """A line per method, the mean over its ok seeds, in a band from lowest to highest seed."""
    floors: list[float] = []
    by_error = False
    for i, row in enumerate(table.rows):
        curve = table.cell(row, column).curve
        if not curve:
            continue
        epochs = [epoch for epoch, _ in curve]
        means = [sum(v) / len(v) for _, v in curve]
        every = max(1, len(epochs) // 6)
        axes.plot(epochs, means, **line_style(i), markevery=(i % every, every))
        axes.fill_between(
            epochs, [min(v) for _, v in curve], [max(v) for _, v in curve],
            color=COLOURS[i % len(COLOURS)], alpha=0.16, linewidth=0,
        )  # fmt: skip
        floors.append(sorted(means)[len(means) // 4])
    if floors:
        # The first epochs lie far below what the figure is read for; a quarter of each curve may
        # fall out of it, so that the rest is not squeezed into one line.
        top = min(100.0, axes.dataLim.y1)
        bottom = max(axes.dataLim.y0, min(floors))
        bottom = min(bottom, top - LEAST_SPAN)
        by_error = spread_by_error(axes, "y", [bottom, top])
        if by_error:
            factor = ((100 - bottom) / (100 - top)) ** 0.05
            low = max(100 - (100 - bottom) * factor, LEAST)
            axes.set_ylim(low, 100 - (100 - top) / factor)
        else:
            margin = 0.05 * (top - bottom)
            axes.set_ylim(bottom - margin, top + margin)
            axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.5), max(high, 1.5))  # one epoch is a point, and no range
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Validation accuracy, %" + BY_ERROR * by_error)


def _has_value(table: Table, column: Column) -> bool:
    return any(table.cell(row, column).estimate for row in table.rows)


def draw_profile(axes: Axes, table: Table, scores: Mapping[str, Strata]) -> None:
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
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("Difference from the control, percentage points")
    axes.set_ylabel("Share of runs at least there")


# ---------------------------------------------------------------- sheets and files


def _sheets(table: Table) -> list[tuple[str, Figure]]:
    """(name of the file, sheet): what this table is about."""
    if table.plan["headline"]["split"] == "audit":
        columns = [c for c in table.columns if with_memory(table, c)]
        return [("memory", _sheet(table, *memory_figure(table), columns or table.columns))]
    found = scalings(table)
    if found:
        across = min(len(found), 2)
        down = -(-len(found) // across)
        figure = Figure(figsize=(4.6 * across, 4.4 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).flatten()
        for axes, scaling in zip(grid, found, strict=False):
            draw_scaling(axes, scaling, looks(found))
            axes.set_title(f"{scaling.what}; {scaling.held}", loc="left")
        for axes in grid[len(found) :]:
            axes.set_axis_off()
        return [("scaling", figure)]
    bars = _sheet(table, draw_accuracy, 0.75 + 0.24 * len(table.rows))
    if any(column.axes for column in table.columns):
        return [("speed", bars)]
    if table.kind == "transfer":
        lines = {"depth": transfer.draw_depth, "labels": transfer.draw_labels}
        probed = [c for c in table.columns if not c.protocol.get("tuning")]
        sheets = [(n, _sheet(table, d, 2.7, probed)) for n, d in lines.items() if probed]
        return [("accuracy", bars), *sheets]
    return [
        ("accuracy", bars),
        ("curves", _sheet(table, draw_curves, 2.7)),
    ]


def _sheet(
    table: Table, draw: Draw, height: float, columns: Sequence[Column] | None = None
) -> Figure:
    columns = table.columns if columns is None else columns
    n = max(1, len(columns))
    down = -(-n // 3)
    across = -(-n // down)  # four are two above two
    figure = Figure(figsize=(3.9 * across, height * down + 0.5), layout="constrained")
    # the names of the methods stand once, at the left
    grid = figure.subplots(down, across, squeeze=False, sharey=draw is draw_accuracy).flatten()
    for axes, column in zip(grid, columns, strict=False):
        draw(axes, table, column)
        axes.set_title(f"{column.dataset}, {column.label}", loc="left")
    for axes in grid[len(columns) :]:
        axes.set_axis_off()
    if draw in (draw_curves, draw_memory, transfer.draw_depth, transfer.draw_labels):
        lines = [
            Line2D([], [], **line_style(i), label=short(row)) for i, row in enumerate(table.rows)
        ]
        _add_key(figure, lines, 2 * across)
    return figure


def _add_key(figure: Figure, lines: list[Line2D], most: int) -> None:
    """Names below the panels, in as many columns as fit; the sheet grows by their height."""
    for n_columns in range(min(most, len(lines)), 0, -1):
        key = figure.legend(
            handles=lines, loc="outside lower center", ncols=n_columns, frameon=False,
            handlelength=3,
        )  # fmt: skip
        extent = key.get_window_extent()
        if extent.width <= figure.bbox.width or n_columns == 1:
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + extent.height / figure.dpi)
            return
        key.remove()
