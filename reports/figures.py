"""The figures: accuracy with intervals and learning curves, as inline SVG and as files.

On the page a figure is one small SVG per column of the table, laid out by the browser, so that it
is legible on a telephone; in the files the same panels share one sheet.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from reports.caption import metric_text
from reports.speed import Scaling, scalings
from reports.table import Cell, Column, Row, Table
from results.files import replacing

# Okabe and Ito's colours, told apart with any colour vision; the yellow is left out, too light for
# paper. Markers and dashes tell lines apart in greyscale. The page replaces every colour by a CSS
# variable, which is how one SVG serves the light and the dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1b")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
MOST_LINES = 9  # in one figure, to be told apart
MOST_TICKS = 100  # of single seeds: more are a smear
LEAST_SPAN = 1.0  # percentage points on an axis: on less, chance would look large
INK, MUTED, RULE = "#1a1a1a", "#6e6e6f", "#d9d9da"
_VARIABLES = {c: f"var(--c{i})" for i, c in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
}
Draw = Callable[[Axes, Table, Column], None]
FILE_TYPES = ("pdf", "png")


@dataclass(frozen=True)
class Panel:
    """One column of the table as a picture."""

    title: str
    svg: str  # safe to put into a page as it is


def accuracy_panels(table: Table) -> list[Panel]:
    """One panel per column that has a value: mean, interval, single seeds, published number."""
    height = 0.62 + 0.27 * len(table.rows)
    columns = [c for c in table.columns if _has_value(table, c)]
    return _panels(table, columns, draw_accuracy, (4.4, height))


def curve_panels(table: Table) -> list[Panel]:
    """One panel per column that has a curve: validation accuracy after each epoch."""
    columns = [c for c in table.columns if any(_curve(table.cell(r, c)) for r in table.rows)]
    return _panels(table, columns, draw_curves, (4.4, 2.9))


def pareto_panels(table: Table) -> list[Panel]:
    """Two panels per column: the headline against training time, and against memory."""
    found = []
    for column in table.columns:
        for draw in (draw_against_time, draw_against_memory):
            if len(_points(table, column, PARETO[draw.__name__][0])) > 1:
                found += _panels(table, [column], draw, (4.4, 2.9))
    return found


def memory_panels(table: Table) -> list[Panel]:
    """One panel per architecture whose audit has it: peak training memory against depth."""
    columns = [c for c in table.columns if _with_memory(table, c)]
    draw, height = _memory_figure(table)
    return _panels(table, columns, draw, (4.4, 0.1 + height))


def memory_has_lines(table: Table) -> bool:
    """Whether the panels of memory have a line per method, which needs a key."""
    return _memory_figure(table)[0] is draw_memory


def _memory_figure(table: Table) -> tuple[Draw, float]:
    """What draws a panel of memory, and its height in inches."""
    most = max((len(_with_memory(table, c)) for c in table.columns), default=0)
    return (draw_slopes, 0.7 + 0.2 * most) if most > MOST_LINES else (draw_memory, 2.8)


def _with_memory(table: Table, column: Column) -> list[int]:
    """Indices of the rows whose memory was measured in a column."""
    return [i for i, row in enumerate(table.rows)
            if table.cell(row, column).audit.get("memory_depths")]  # fmt: skip


def scaling_panels(table: Table) -> list[Panel]:
    """One panel per size that columns differ in: time per image against it."""
    found = []
    drawn = scalings(table)
    looks = _looks(drawn)
    with _style():
        for i, scaling in enumerate(drawn):
            figure = Figure(figsize=(4.4, 3.0 + 0.17 * len(scaling.lines)), layout="constrained")
            draw_scaling(figure.subplots(), scaling, looks)
            title = f"{scaling.what.capitalize()} against {scaling.axis}; {scaling.held}"
            found.append(Panel(title, _svg(figure, f"scaling-{i}")))
    return found


def swatches(table: Table) -> list[tuple[str, str]]:
    """(label of a method, SVG of its line and marker), the key to the curves."""
    found = []
    with _style():
        for i, row in enumerate(table.rows):
            figure = Figure(figsize=(0.42, 0.16))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.plot([0, 0.5, 1], [0, 0, 0], **line_style(i), markevery=[1])
            axes.set_xlim(-0.05, 1.05)
            found.append((row.label, _svg(figure, f"key-{i}")))
    return found


def write_files(table: Table, folder: Path) -> list[Path]:
    """Writes accuracy and curves, or what else the table is about, as .pdf and .png sheets.

    Raises:
        OSError: the folder cannot be written to.
    """
    paths = []
    with _style():
        for name, figure in _sheets(table):
            for kind in FILE_TYPES:
                paths.append(folder / f"{name}.{kind}")
                _save_atomically(figure, paths[-1], kind)
    return paths


def line_style(index: int) -> dict[str, Any]:
    """The look of the method in row `index`, the same in every figure."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.2,
        "linewidth": 1.4,
    }


# ---------------------------------------------------------------- one panel


def draw_accuracy(axes: Axes, table: Table, column: Column) -> None:
    """Methods from top to bottom, the headline from left to right."""
    for i, row in enumerate(table.rows):
        cell = table.cell(row, column)
        if cell.estimate is None:
            axes.annotate(
                "not supported" if cell.state == "unsupported" else cell.state,
                (0.015, i), xycoords=("axes fraction", "data"), va="center",
                color=MUTED, fontsize=7.5, fontstyle="italic",
            )  # fmt: skip
            continue
        look = line_style(i)
        values = cell.estimate.values
        if len(values) <= MOST_TICKS:
            axes.plot(
                values, [i + 0.24] * len(values), linestyle="", marker="|", markersize=5,
                markeredgewidth=0.9, color=MUTED,
            )  # fmt: skip
        if cell.estimate.half_width is not None:
            axes.errorbar(
                cell.estimate.mean, i, xerr=cell.estimate.half_width, fmt="none",
                ecolor=look["color"], elinewidth=1.5, capsize=2.6, capthick=1.2,
            )  # fmt: skip
        axes.plot(
            cell.estimate.mean, i, marker=look["marker"], color=look["color"], markersize=5.4,
            linestyle="",
        )  # fmt: skip
        for claim in cell.claims:
            axes.plot(
                claim.accuracy_pct, i, marker="D", markerfacecolor="none", markeredgecolor=INK,
                markersize=5, markeredgewidth=0.9, linestyle="",
            )  # fmt: skip
    axes.set_yticks(range(len(table.rows)), [_short(row) for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    if axes.has_data() and table.metric == "accuracy_pct":
        low, high = axes.get_xlim()
        room = max(0.0, LEAST_SPAN - (high - low)) / 2
        # an interval of a few seeds may claim more than is possible
        axes.set_xlim(low - room, min(high + room, 101.0))
    axes.set_xlabel(metric_text(table))


# function that draws -> (names of the measure, the first known counts; its label; divisor)
PARETO: dict[str, tuple[tuple[str, ...], str, float]] = {
    "draw_against_time": (("train_s",), "training, s", 1),
    "draw_against_memory": (
        ("peak_allocated_bytes", "peak_rss_growth_bytes"), "peak memory, MiB", 2**20,
    ),
}  # fmt: skip


def _points(table: Table, column: Column, names: tuple[str, ...]) -> dict[int, tuple[float, float]]:
    """Index of a row -> (cost, headline), where both are known."""
    found = {}
    for i, row in enumerate(table.rows):
        cell = table.cell(row, column)
        cost = next((cell.cost[name] for name in names if cell.cost.get(name)), None)
        if cost and cell.estimate:
            found[i] = (cost, cell.estimate.mean)
    return found


def draw_against_time(axes: Axes, table: Table, column: Column) -> None:
    """The headline over seconds of training."""
    _draw_pareto(axes, table, column, "draw_against_time")


def draw_against_memory(axes: Axes, table: Table, column: Column) -> None:
    """The headline over peak memory in training."""
    _draw_pareto(axes, table, column, "draw_against_memory")


def _draw_pareto(axes: Axes, table: Table, column: Column, which: str) -> None:
    """Methods as points; a line through those that no other one beats in both."""
    names, label, divisor = PARETO[which]
    points = {i: (cost / divisor, value) for i, (cost, value)
              in _points(table, column, names).items()}  # fmt: skip
    for i, (cost, value) in points.items():
        axes.plot(cost, value, **(line_style(i) | {"linestyle": "", "markersize": 6}))
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points.values(), key=lambda p: (p[0], -p[1])):
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
    axes.set_ylabel(metric_text(table))


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


def _looks(drawn: Sequence[Scaling]) -> dict[str, dict[str, Any]]:
    """Row id -> its look, the same in all these figures, over as few colours as they need."""
    rows = dict.fromkeys(line.row for scaling in drawn for line in scaling.lines)
    return {row: line_style(i) for i, row in enumerate(rows)}


def draw_scaling(axes: Axes, scaling: Scaling, looks: Mapping[str, dict[str, Any]]) -> None:
    """Milliseconds per image over a size, both logarithmic; the slope of each line in the key."""
    ways: dict[str, int] = {}
    for line in scaling.lines:
        nth = ways[line.row] = ways.get(line.row, -1) + 1  # one colour a method, dashes by its ways
        look = looks[line.row] | {"linestyle": DASHES[nth % len(DASHES)]}
        label = f"{line.label}: slope {line.slope:.2f}"
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
        for i in _with_memory(table, column)
    )
    for y, (kib, i) in enumerate(found):
        row = table.rows[i]
        local = bool(row.local)
        axes.plot(
            max(kib, 0.1), y, marker="o" if local else "s", linestyle="", markersize=5,
            color=COLOURS[0] if local else COLOURS[1],
        )  # fmt: skip
        if row.id == "backprop":
            axes.axvline(kib, color=MUTED, linewidth=0.8, linestyle=DASHES[1], zorder=1)
    axes.set_yticks(range(len(found)), [_short(table.rows[i]) for _, i in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("KiB per added block")


def draw_curves(axes: Axes, table: Table, column: Column) -> None:
    """A line per method, the mean over its ok seeds, in a band from lowest to highest seed."""
    floors: list[float] = []
    for i, row in enumerate(table.rows):
        curve = _curve(table.cell(row, column))
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
        margin = 0.05 * (top - bottom)
        axes.set_ylim(bottom - margin, top + margin)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.5), max(high, 1.5))  # one epoch is a point, and no range
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Validation accuracy, %")


def _has_value(table: Table, column: Column) -> bool:
    return any(table.cell(row, column).estimate for row in table.rows)


def _curve(cell: Cell) -> list[tuple[float, list[float]]]:
    """(epoch, values of the ok seeds in percent), by epoch; epochs without a value are left out."""
    points: dict[float, list[float]] = {}
    for run in cell.runs:
        if run.status == "ok" and run.record:
            curves = run.record["curves"]
            for epoch, value in zip(
                curves.get("epoch", ()), curves.get("val_accuracy_pct", ()), strict=False
            ):
                if epoch is not None and value is not None:
                    points.setdefault(epoch, []).append(value)
    return sorted(points.items())


# ---------------------------------------------------------------- sheets and files


@contextmanager
def _style() -> Iterator[None]:
    look: Any = {
        "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
        "svg.hashsalt": "bpfree",
        "pdf.fonttype": 42,
        "text.parse_math": False,  # a label is not markup
        "font.size": 8.5,
        "axes.labelsize": 8.5,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    with mpl.rc_context(look), warnings.catch_warnings():
        # A label in a script that the file's font lacks is shown as boxes, not as a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _panels(
    table: Table, columns: Sequence[Column], draw: Draw, size: tuple[float, float]
) -> list[Panel]:
    found = []
    with _style():
        for column in columns:
            figure = Figure(figsize=size, layout="constrained")
            draw(figure.subplots(), table, column)
            title = f"{column.dataset}, {column.label}"
            found.append(Panel(title, _svg(figure, f"{draw.__name__}-{column.id}")))
    return found


def _sheets(table: Table) -> list[tuple[str, Figure]]:
    """(name of the file, sheet): what this table is about."""
    if table.plan["headline"]["split"] == "audit":
        columns = [c for c in table.columns if _with_memory(table, c)]
        return [("memory", _sheet(table, *_memory_figure(table), columns or table.columns))]
    found = scalings(table)
    if found:
        across = min(len(found), 2)
        down = -(-len(found) // across)
        figure = Figure(figsize=(4.6 * across, 4.4 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).flatten()
        for axes, scaling in zip(grid, found, strict=False):
            draw_scaling(axes, scaling, _looks(found))
            axes.set_title(f"{scaling.what}; {scaling.held}", loc="left")
        for axes in grid[len(found) :]:
            axes.set_axis_off()
        return [("scaling", figure)]
    return [
        ("accuracy", _sheet(table, draw_accuracy, 0.75 + 0.24 * len(table.rows))),
        ("curves", _sheet(table, draw_curves, 2.7)),
    ]


def _sheet(
    table: Table, draw: Draw, height: float, columns: Sequence[Column] | None = None
) -> Figure:
    columns = table.columns if columns is None else columns
    n = max(1, len(columns))
    across = min(n, 3)
    down = -(-n // across)
    figure = Figure(figsize=(3.9 * across, height * down + 0.5), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, column in zip(grid, columns, strict=False):
        draw(axes, table, column)
        axes.set_title(f"{column.dataset}, {column.label}", loc="left")
    for axes in grid[len(columns) :]:
        axes.set_axis_off()
    if draw is draw_curves:
        lines = [
            Line2D([], [], **line_style(i), label=_short(row)) for i, row in enumerate(table.rows)
        ]
        figure.legend(
            handles=lines, loc="outside lower center", ncols=min(len(lines), 2 * across) or 1,
            frameon=False, handlelength=3,
        )  # fmt: skip
    return figure


def _short(row: Row) -> str:
    """A label that leaves room for the drawing; a legend leaves labels out that start with "_"."""
    label = row.label.lstrip("_") or row.id
    return label if len(label) <= 30 else label[:29] + "\u2026"


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an SVG element for a page: no prologue, no fixed size, colours as variables."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):  # one salt a panel: identifiers must not clash
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"(?<=[:\s])#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m[0].lower(), m[0]), text)
    width = re.search(r'width="([\d.]+)pt"', text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    largest = f"{float(width[1]) * 4 / 3:.0f}px" if width else "none"
    return text.replace("<svg", f'<svg style="max-width: {largest}"', 1).strip()


def _save_atomically(figure: Figure, path: Path, kind: str) -> None:
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    figure.set_canvas(FigureCanvasAgg(figure))
    with replacing(path) as part:
        figure.savefig(part, format=kind, dpi=180, facecolor="white", metadata=metadata)
