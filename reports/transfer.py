"""Transfer as it is drawn: what features are worth by block, and by number of labelled images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports.drawing import COLOURS, MOST, Draw, Panel, line_style, panels
from reports.statistics import Estimate
from reports.table import Cell, Column, Table

BLOCK = re.compile(r"linear, block (\d+)")
SHOTS = re.compile(r"linear, (\d+) per class")


def depth_panels(table: Table) -> list[Panel]:
    """One panel per column: accuracy of a linear probe on each block."""
    return _panels(table, draw_depth, BLOCK)


def label_panels(table: Table) -> list[Panel]:
    """One panel per column: accuracy of a linear probe by number of labelled images."""
    return _panels(table, draw_labels, SHOTS)


def _panels(table: Table, draw: Draw, name: re.Pattern[str]) -> list[Panel]:
    if table.kind != "transfer":
        return []
    columns = [c for c in table.columns if any(_found(table.cell(r, c), name) for r in table.rows)]
    return panels(table, columns, draw, (4.4, 2.9))


def _found(cell: Cell, name: re.Pattern[str]) -> list[tuple[int, Estimate]]:
    """(number in the name of a readout, test accuracy), by number."""
    readouts = cell.readouts.get("test", {})
    matches = ((name.fullmatch(readout), value) for readout, value in readouts.items())
    return sorted((int(match[1]), value) for match, value in matches if match)


def draw_depth(axes: Axes, table: Table, column: Column) -> None:
    """A line per method over its blocks: mean over seeds, in a band from lowest to highest."""
    lines = [_found(table.cell(row, column), BLOCK) for row in table.rows]
    depths = {len(points) for points in lines if points}
    if len(depths) > 1:  # else the shorter ones would be squeezed into a corner
        for i, points in enumerate(lines):
            _line(axes, i, [(block / len(points), value) for block, value in points])
        axes.set_xlabel("Block, as a share of the method's blocks")
    else:
        for i, points in enumerate(lines):
            _line(axes, i, points)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.5), max(high, 1.5))  # one block is a point, and no range
        axes.set_xlabel("Block")
    _accuracy_axis(axes)


def draw_labels(axes: Axes, table: Table, column: Column) -> None:
    """A line per method over numbers of labelled images of each class; last, all of them."""
    numbers: dict[int, None] = {}
    for row in table.rows:
        numbers |= dict.fromkeys(n for n, _ in _found(table.cell(row, column), SHOTS))
    places = {n: place for place, n in enumerate(sorted(numbers))}
    for i, row in enumerate(table.rows):
        cell = table.cell(row, column)
        points = [(places[n], value) for n, value in _found(cell, SHOTS)]
        if cell.estimate:
            points.append((len(places), cell.estimate))
        _line(axes, i, points)
    axes.set_xticks(range(len(places) + 1), [*map(str, places), "all"])
    axes.set_xlabel("Labelled images of each class")
    _accuracy_axis(axes)


def _accuracy_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, MOST))  # around a single value there is room for the impossible
    axes.set_ylabel("Test accuracy, %")


def _line(axes: Axes, index: int, points: Sequence[tuple[float, Estimate]]) -> None:
    if not points:
        return
    x = [place for place, _ in points]
    axes.plot(x, [value.mean for _, value in points], **line_style(index))
    axes.fill_between(
        x, [min(value.values) for _, value in points], [max(value.values) for _, value in points],
        color=COLOURS[index % len(COLOURS)], alpha=0.16, linewidth=0,
    )  # fmt: skip
