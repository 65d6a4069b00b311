"""A comparison as a page, one file without network, and as CSV; same records, same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from reports import differences, pages
from reports.comparing.comparison import (
    DIFFERS,
    ONLY,
    SAME,
    VERDICTS,
    Comparison,
    Pair,
    about,
    effect_text,
    mean_text,
    notes,
    p_text,
    places_text,
    shift_text,
    summary,
)
from reports.drawing import COLOURS, MUTED, Panel, short, style, svg
from reports.formatting import estimate_text, plural


def render(comparison: Comparison) -> str:
    """The whole page as text."""
    environment = pages.environment()
    environment.globals |= {"estimate_text": estimate_text, "plural": plural,
        "shift_text": shift_text, "mean_text": mean_text, "p_text": p_text,
        "effect_text": effect_text}  # fmt: skip
    n = len(comparison.shared)
    return environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        metric=comparison.metric,
        unit=comparison.a.table.metric,
        sides=[(side.source.name, about(side)) for side in (comparison.a, comparison.b)],
        unreadable=[line for side in (comparison.a, comparison.b) for line in side.unreadable],
        suite=comparison.a.table.plan["suite"],
        summary=summary(comparison),
        notes=notes(comparison),
        differs=DIFFERS,
        order={verdict: i for i, verdict in enumerate(VERDICTS)},
        lone=[
            (f"Only in {side}", [pair for pair in comparison.pairs if pair.verdict == verdict])
            for side, verdict in ONLY.items()
        ],
        settings=[(setting, places_text(places, n)) for setting, places in comparison.settings],
        rules=differences.RULE,
        panels=[(panel.title, Markup(panel.svg)) for panel in _panels(comparison)],
        n_seeds=_n_seeds,
    )


def _n_seeds(pair: Pair) -> str:
    """'3', or '3 and 2' where the sides have not the same number of values."""
    n = [cell.estimate.n if cell and cell.estimate else 0 for cell in (pair.a, pair.b)]
    return str(n[0]) if n[0] == n[1] else f"{n[0]} and {n[1]}"


def _panels(comparison: Comparison) -> list[Panel]:
    """A panel per column: differences with their intervals, methods from top to bottom."""
    found = []
    with style():
        for column, pairs in comparison.groups():
            drawn = [pair for pair in pairs if pair.shift is not None]
            if drawn:
                figure = _drawn(drawn, comparison.metric)
                found.append(Panel(column.id, svg(figure, f"difference-{column.id}")))
    return found


def _drawn(pairs: Sequence[Pair], metric: str) -> Figure:
    figure = Figure(figsize=(4.4, 0.62 + 0.27 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=0.9)
    for i, pair in enumerate(pairs):
        shift = pair.shift or 0.0
        colour = COLOURS[1] if pair.verdict == DIFFERS else COLOURS[0]
        if pair.difference and pair.verdict != SAME:
            axes.errorbar(
                shift, i, xerr=pair.difference.half_width, fmt="none", ecolor=colour,
                elinewidth=1.5, capsize=2.6, capthick=1.2,
            )  # fmt: skip
        axes.plot(
            shift, i, color=colour, markersize=5.4, linestyle="",
            marker="s" if pair.verdict == DIFFERS else "o",
            markerfacecolor=colour if pair.difference else "none",
        )  # fmt: skip
    axes.set_yticks(range(len(pairs)), [short(pair.row) for pair in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    least = 0.1 if metric.endswith("percent") else 0.0  # on less, rounding would look large
    axes.set_xlim(min(low, -least), max(high, least))
    axes.set_xlabel(f"{metric}, B \u2212 A")
    return figure


# ------------------------------------------------------------------------------------- CSV

FIELDS = (
    "suite", "row", "method", "column", "dataset", "architecture", "verdict",
    "status_a", "status_b", "n_a", "n_b", "mean_a", "mean_b", "std_a", "std_b",
    "difference", "low", "high", "test", "df", "p", "p_holm", "hedges_g",
    "train_rate_b_over_a", "seeds_a_only", "seeds_b_only", "sources_differ", "settings", "changes",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """A line per place that a side has runs of; what is not known is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for _, pairs in comparison.groups():
        for pair in pairs:
            writer.writerow(_line(pair, comparison.a.table.plan["suite"]))
    return buffer.getvalue()


def _line(pair: Pair, suite: str) -> dict[str, Any]:
    found = pair.difference if pair.verdict != SAME else None  # which is known, and no test
    lone = dict(pair.unpaired)
    line: dict[str, Any] = {
        "suite": suite, "row": pair.row.id, "method": pair.row.method, "column": pair.column.id,
        "dataset": pair.column.dataset, "architecture": pair.column.architecture,
        "verdict": pair.verdict, "difference": pair.shift, "p_holm": pair.p_value,
        "train_rate_b_over_a": pair.rate, "sources_differ": pair.other_sources,
        "seeds_a_only": _seeds(lone.get("A", ())), "seeds_b_only": _seeds(lone.get("B", ())),
        "settings": "; ".join(f"{s.name}: {s.a} -> {s.b}" for s in pair.settings),
        "changes": "; ".join(
            f"seed {c.seed}: {c.before} -> {c.after}: {c.reason}" for c in pair.changes
        ),
    }  # fmt: skip
    for side, cell in (("a", pair.a), ("b", pair.b)):
        value = cell.estimate if cell else None
        line |= {
            f"status_{side}": cell.state if cell else "missing",
            f"n_{side}": value.n if value else 0,
            f"mean_{side}": value.mean if value else None,
            f"std_{side}": value.std if value else None,
        }
    if found:
        line |= {
            "low": found.mean - found.half_width, "high": found.mean + found.half_width,
            "test": found.test, "df": found.df, "p": found.p_value, "hedges_g": found.effect,
        }  # fmt: skip
    return line


def _seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))
