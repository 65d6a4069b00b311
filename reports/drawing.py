"""How figures look: colours, markers, panels of a page as SVG, sheets as files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from reports.table import Column, Row, Table
from results.files import replacing

# Okabe and Ito's colours, told apart with any colour vision; the yellow is left out, too light for
# paper. Markers and dashes tell lines apart in greyscale. The page replaces every colour by a CSS
# variable, which is how one SVG serves the light and the dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1b")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
INK, MUTED, RULE = "#1a1a1a", "#6e6e6f", "#d9d9da"
MOST = 100.4  # ends an axis of accuracies in percent: room for a marker at 100, no tick above
PNG_DPI = 180
BY_ERROR = ", log error"  # behind the label of an axis that is spread by it
ERROR_TICKS = (90, 50, 30, 20, 10, 5, 2, 1, 0.5, 0.2)  # percent; an axis says 10, 50, 70 … 99.8
LEAST_ERROR = 0.05  # percent, where such an axis ends
HOLLOW: dict[str, Any] = {"markerfacecolor": "none"}  # some of the seeds are not ok
_VARIABLES = {c: f"var(--c{i})" for i, c in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
}
Draw = Callable[[Axes, Table, Column], None]


@dataclass(frozen=True)
class Panel:
    """One column of the table as a picture."""

    title: str
    svg: str  # safe to put into a page as it is
    column: Column | None = None  # where it is about one


def line_style(index: int) -> dict[str, Any]:
    """The look of the method in row `index`, the same in every figure."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.2,
        "linewidth": 1.4,
    }


@contextmanager
def style() -> Iterator[None]:
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


def panels(
    table: Table, columns: Sequence[Column], draw: Draw, size: tuple[float, float]
) -> list[Panel]:
    found = []
    with style():
        place = None
        for column in columns:
            figure = Figure(figsize=size, layout=None if place else "constrained")
            axes = figure.subplots()
            draw(axes, table, column)
            if place is None:  # room for labels, worked out once: it takes as long as the drawing
                figure.draw_without_rendering()
                place = axes.get_position()
                figure.set_layout_engine("none")
                place.x0 += 0.02  # for a longer number in another panel,
                place.x1 -= 0.02  # at either end
            axes.set_position(place)
            title = f"{column.dataset}, {column.label}"
            found.append(Panel(title, svg(figure, f"{draw.__name__}-{column.id}"), column))
    return found


def short(row: Row) -> str:
    """A label that leaves room for the drawing; a legend leaves labels out that start with "_"."""
    return shortened(row.label.lstrip("_") or row.id)


def shortened(label: str) -> str:
    """At most 30 letters of a label."""
    return label if len(label) <= 30 else label[:29] + "\u2026"


def spread_by_error(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> bool:
    """Spreads an axis of accuracies by the logarithm of the error where errors differ much.

    Beside a method that learns little, the better ones would lie on each other: so 98 and 99 % are
    as far apart as 80 and 90 %. The axis is left as it is where errors are within a factor of 4,
    or one is next to none.

    Args:
        values: accuracies in percent that the axis is for.
    """
    errors = [100 - value for value in values]
    if not errors or min(errors) < 4 * LEAST_ERROR or max(errors) < 4 * min(errors):
        return False
    getattr(axes, f"set_{which}scale")("function", functions=(_magnitude, _accuracy))
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator([100 - error for error in ERROR_TICKS]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
    return True


def _magnitude(accuracy: Any) -> Any:
    """Where an accuracy in percent lies on an axis that is spread by the error."""
    return -np.log10(np.maximum(100 - np.asarray(accuracy, float), LEAST_ERROR))


def _accuracy(magnitude: Any) -> Any:
    return 100 - 10 ** -np.asarray(magnitude, float)


def svg(figure: Figure, salt: str) -> str:
    """The figure as an SVG element for a page: no prologue, no fixed size, colours as variables."""
    buffer = io.StringIO()
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    with mpl.rc_context({"svg.hashsalt": salt}):  # one salt a panel: identifiers must not clash
        # savefig would go through everything once more, to find out what there is
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"(?<=[:\s])#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m[0].lower(), m[0]), text)
    text = re.sub(r"<[^>]*>", lambda m: _short_tag(m[0]), text)
    text = re.sub(r">\s+<", "><", text)
    width = re.search(r'width="([\d.]+)pt"', text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    largest = f"{float(width[1]) * 4 / 3:.0f}px" if width else "none"
    return text.replace("<svg", f'<svg style="max-width: {largest}"', 1).strip()


def _short_tag(tag: str) -> str:
    """A tag without what cannot be seen, or is the page's to say: half of the file is that."""
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a point
    tag = re.sub(r"font-family: [^;\"]*; ?", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
    return re.sub(r"\s+", " ", tag)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes a sheet as .pdf and as .png; returns the paths. Raises OSError."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it has its layout now, which takes as long as the drawing
    paths = [stem.with_suffix(".pdf"), stem.with_suffix(".png")]
    with replacing(paths[0]) as part:
        FigureCanvasPdf(figure).print_pdf(part, metadata={"CreationDate": None})
    figure.dpi = PNG_DPI
    with replacing(paths[1]) as part:
        FigureCanvasAgg(figure).print_png(part, metadata={"Software": None})
    return paths
