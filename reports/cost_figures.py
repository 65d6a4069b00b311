"""Figures of what methods cost: accuracy against cost, growth with size, memory by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from reports.caption import metric_text
from reports.drawing import (
    BY_ERROR,
    COLOURS,
    DASHES,
    HOLLOW,
    MUTED,
    Draw,
    Panel,
    line_style,
    panels,
    short,
    shortened,
    spread_by_error,
    style,
    svg,
)
from reports.speed import Scaling, scalings
from reports.table import Column, Table

MOST_LINES = 9  # in one figure, to be told apart
LEAST_KIB = 0.1  # where an axis of memory by the block ends


def pareto_panels(table: Table) -> list[Panel]:
    """Two panels per column: the headline against training time, and against memory."""
    found = []
    for draw in (draw_against_time, draw_against_memory):
        columns = [c for c in table.columns if len(_points(table, c, draw.__name__)[1]) > 1]
        against = "training time" if draw is draw_against_time else "memory"
        found += [
            replace(panel, title=f"{panel.title}, against {against}")
            for panel in panels(table, columns, draw, (4.4, 2.9))
        ]
    order = {column.id: i for i, column in enumerate(table.columns)}
    return sorted(found, key=lambda panel: order[panel.column.id] if panel.column else 0)


def memory_panels(table: Table) -> list[Panel]:
    """One panel per architecture whose audit has it: peak training memory against depth."""
    columns = [c for c in table.columns if with_memory(table, c)]
    draw, height = memory_figure(table)
    return panels(table, columns, draw, (4.4, 0.1 + height))


def memory_has_lines(table: Table) -> bool:
    """Whether the panels of memory have a line per method, which needs a key."""
    return memory_figure(table)[0] is draw_memory


def memory_figure(table: Table) -> tuple[Draw, float]:
    """What draws a panel of memory, and its height in inches."""
    most = max((len(with_memory(table, c)) for c in table.columns), default=0)
    return (draw_slopes, 0.7 + 0.2 * most) if most > MOST_LINES else (draw_memory, 2.8)


def with_memory(table: Table, column: Column) -> list[int]:
    """Indices of the rows whose memory was measured in a column."""
    return [i for i, row in enumerate(table.rows)
            if table.cell(row, column).audit.get("memory_depths")]  # fmt: skip


def scaling_panels(table: Table) -> list[Panel]:
    """One panel per size that columns differ in: time per image against it."""
    found = []
    drawn = scalings(table)
    look_of = looks(drawn)
    with style():
        for i, scaling in enumerate(drawn):
            figure = Figure(figsize=(4.4, 3.0 + 0.17 * len(scaling.lines)), layout="constrained")
            draw_scaling(figure.subplots(), scaling, look_of)
            title = f"{scaling.what.capitalize()} against {scaling.axis}; {scaling.held}"
            found.append(Panel(title, svg(figure, f"scaling-{i}")))
    return found


# ---------------------------------------------------------------- one panel


# function that draws -> what it draws over, the first that is known: (its name, label, divisor)
PARETO = {
    "draw_against_time": (("train_s", "training, s", 1),),
    "draw_against_memory": (
        ("peak_allocated_bytes", "peak device memory, MiB", 2**20),
        ("peak_rss_growth_bytes", "process memory growth, MiB", 2**20),
    ),
}


def _points(table: Table, column: Column, which: str) -> tuple[str, dict[int, tuple[float, float]]]:
    """Label of the cost; index of a row -> (cost, headline), where both are known."""
    cells = {i: table.cell(row, column) for i, row in enumerate(table.rows)}
    for name, label, divisor in PARETO[which]:
        found = {
            i: (cell.cost[name] / divisor, cell.estimate.mean)
            for i, cell in cells.items() if cell.estimate and cell.cost.get(name)
        }  # fmt: skip
        if found:
            return label, found
    return "", {}


def draw_against_time(axes: Axes, table: Table, column: Column) -> None:
    """The headline over seconds of training."""
    _draw_pareto(axes, table, column, "draw_against_time")


def draw_against_memory(axes: Axes, table: Table, column: Column) -> None:
    """The headline over peak memory in training."""
    _draw_pareto(axes, table, column, "draw_against_memory")


def _draw_pareto(axes: Axes, table: Table, column: Column, which: str) -> None:
    """Methods as points; a line through those that no other one beats in both."""
    label, points = _points(table, column, which)
    whole = {i for i in points if table.cell(table.rows[i], column).state == "ok"}
    for i, (cost, value) in points.items():
        look = line_style(i) | {"linestyle": "", "markersize": 6}
        axes.plot(cost, value, **(look if i in whole else look | HOLLOW))
    front: list[tuple[float, float]] = []
    for cost, value in sorted((points[i] for i in whole), key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=0.9, zorder=1,
                  drawstyle="steps-post")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.08)
    axes.set_xlabel(label)
    by_error = table.metric == "accuracy_pct" and spread_by_error(
        axes, "y", [value for _, value in points.values()]
    )
    axes.set_ylabel(metric_text(table) + BY_ERROR * by_error)


def draw_memory(axes: Axes, table: Table, column: Column) -> None:
    """Peak bytes over number of blocks, both logarithmic, one line per method."""
    for i, row in enumerate(table.rows):
        audit = table.cell(row, column).audit
        if audit.get("memory_depths"):
            mib = [b / 2**20 for b in audit["memory_bytes"]]
            axes.plot(audit["memory_depths"], mib, **line_style(i))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("blocks")
    axes.set_ylabel("peak memory, MiB")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")


def looks(drawn: Sequence[Scaling]) -> dict[str, dict[str, Any]]:
    """Row id -> its look, the same in all these figures, over as few colours as they need."""
    rows = dict.fromkeys(line.row for scaling in drawn for line in scaling.lines)
    return {row: line_style(i) for i, row in enumerate(rows)}


def draw_scaling(axes: Axes, scaling: Scaling, looks: Mapping[str, dict[str, Any]]) -> None:
    """Milliseconds per image over a size, both logarithmic; the slope of each line in the key."""
    ways: dict[str, int] = {}
    for line in scaling.lines:
        nth = ways[line.row] = ways.get(line.row, -1) + 1  # one colour a method, dashes by its ways
        look = looks[line.row] | {"linestyle": DASHES[nth % len(DASHES)]}
        label = f"{shortened(line.label)}: slope {line.slope:.2f}"
        axes.plot(line.sizes, line.ms, **look, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({size for line in scaling.lines for size in line.sizes})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(scaling.axis)
    axes.set_ylabel("ms per image")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 200 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.12, -0.18), frameon=False, handlelength=3,
        fontsize=7.5,
    )  # fmt: skip


def draw_slopes(axes: Axes, table: Table, column: Column) -> None:
    """Bytes per added block, methods from the least to the most: for more than lines can show."""
    found = sorted(
        (table.cell(table.rows[i], column).audit["memory_slope_bytes"] / 2**10, i)
        for i in with_memory(table, column)
    )
    for y, (kib, i) in enumerate(found):
        row = table.rows[i]
        local = bool(row.local)
        axes.plot(
            max(kib, LEAST_KIB), y, marker="o" if local else "s", linestyle="", markersize=5,
            color=COLOURS[0] if local else COLOURS[1],
        )  # fmt: skip
        if row.id == "backprop":
            axes.axvline(
                max(kib, LEAST_KIB), color=MUTED, linewidth=0.8, linestyle=DASHES[1], zorder=1
            )
    axes.set_yticks(range(len(found)), [short(table.rows[i]) for _, i in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("KiB per added block")
