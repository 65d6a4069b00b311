"""The page of a tuning: budgets, what they bought, and how each hyper-parameter matters."""

from __future__ import annotations

import csv
import io
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reports import pages
from reports.commands import PLACES, without
from reports.drawing import COLOURS, INK, MUTED, Panel, style, svg
from reports.drilldown import anchor
from reports.formatting import NOTHING, first_line, plural, setting_text, signed, when
from reports.table import Column, Table
from reports.tuning import (
    COUNTED,
    Point,
    Tuning,
    label,
    range_text,
    settings_text,
    tunings,
)
from results.files import write_atomically
from results.store import Plan

LEAST_SPAN = 1.0  # percentage points on an axis: on less, chance would look large
OF_TUNING = ("--points", "--write")  # flags that a table does not have
SPREAD = 4.0  # times the distance from the best to the middle is drawn; the rest lies at the foot


def write(table: Table, folder: Path, command: str = "") -> list[Path]:
    """Writes the page, with the command that builds it again, and the points as CSV.

    Raises:
        OSError: the folder cannot be written to.
    """
    texts = {
        "index.html": render(table, command),
        f"{table.plan['suite']}.csv": to_csv(tunings(table)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def render(table: Table, again: str = "") -> str:
    """The whole page as text, the same bytes for the same records."""
    found = tunings(table)
    environment = pages.environment()
    environment.filters |= {
        "signed": signed, "when": when, "first_line": first_line, "name": label,
        "value": setting_text, "range": range_text, "settings": settings_text,
    }  # fmt: skip
    environment.globals |= {
        "plural": plural,
        "value_of": _value_text,
        "anchor": anchor,
        "notes": _notes,
    }
    groups = [(c, [t for t in found if t.column.id == c.id]) for c in table.columns]
    return environment.get_template("tuning.html.j2").render(
        plan=table.plan,
        newest=table.newest,
        again=again,
        chosen=with_chosen(table.plan),
        n_points=table.plan["tuning"]["points"],
        verdict=_verdict(found),
        groups=[(column, _protocol(column), lines) for column, lines in groups if lines],
        counted=COUNTED,
        spaces=_spaces(found),
        panels={(t.row.id, t.column.id): _panels(t) for t in found},
        unsupported=table.plan["unsupported"],
        labels={row.id: row.label for row in table.rows},
        set_aside=table.set_aside,
    )


def _verdict(found: Sequence[Tuning]) -> str:
    n = {state: sum(t.counts[state] for t in found) for state in COUNTED}
    head = "Unfinished" if n["missing"] else "Complete"
    parts = [f"{n[state]} {state}" for state in COUNTED if n[state]]
    stale = sum(point.run.stale for t in found for point in t.points)
    more = f"; {stale} made by older sources (†)" if stale else ""
    return f"{head}: of {plural(sum(n.values()), 'point')} {', '.join(parts)}{more}."


def _protocol(column: Column) -> str:
    """'30 epochs, batch size 64, augmentation crop4'."""
    protocol = column.protocol
    parts = [plural(protocol["epochs"], "epoch")] if "epochs" in protocol else []
    parts += [f"{label(name)} {protocol[name]}" for name in ("batch_size", "augmentation")
              if protocol.get(name) not in (None, "none")]  # fmt: skip
    return ", ".join(parts)


def _spaces(found: Sequence[Tuning]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Method -> (field, range, untuned value) of each field; where tables differ, several."""
    spaces: dict[str, list[tuple[str, str, str]]] = {}
    for tuning in found:
        untuned = tuning.untuned.settings
        spaces.setdefault(
            tuning.row.label,
            [(label(f), range_text(r), setting_text(untuned[f])) for f, r in tuning.space.items()],
        )
    return list(spaces.items())


def _notes(tuning: Tuning) -> list[str]:
    """What to know of the chosen settings before trusting them."""
    notes = ["as untuned"] * (tuning.best is tuning.untuned)
    if tuning.best and tuning.best.run.stale:
        notes.append("† made by older sources")
    if tuning.n_level and tuning.standard_error is not None:
        points = plural(tuning.n_level, "other point")
        notes.append(f"{points} level with it (standard error {tuning.standard_error:.2f})")
    return notes + [f"{edge} of its range" for edge in tuning.edges]


def with_chosen(plan: Plan, here: bool = False) -> str:
    """The command that makes the table with the chosen settings, or ''.

    Args:
        here: with the folders of this run, where seed 0 is on record already.
    """
    file, command = plan["tuning"].get("file"), str(plan["command"])
    if not file or not command.startswith("python -m suites.tune"):
        return ""
    try:
        left_out = OF_TUNING if here else (*PLACES, *OF_TUNING)
        words = without(command.replace("suites.tune", "suites.run", 1), left_out)
    except ValueError:  # not as a shell would read it
        return ""
    return shlex.join([*words, "--tuned", file])


def _value_text(point: Point | None) -> str:
    """The validation accuracy of a point in percent, to two decimals."""
    value = point.run.value if point else None
    return NOTHING if value is None else f"{value:.2f}"


# -------------------------------------------------------------------------------- sensitivity


def _panels(tuning: Tuning) -> list[tuple[str, Markup]]:
    """One panel per hyper-parameter: validation accuracy against it, all other fields ignored."""
    if tuning.best is None:
        return []
    with style():
        drawn = [
            Panel(label(name), _draw(tuning, name, values)) for name, values in tuning.space.items()
        ]
    return [(panel.title, Markup(panel.svg)) for panel in drawn]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest accuracy on the axis: what failed to learn must not squeeze the rest."""
    top = max(values)
    reach = max(LEAST_SPAN, SPREAD * (top - statistics.median(values)))
    return max(min(*values, top - LEAST_SPAN), top - reach), top


def _draw(tuning: Tuning, name: str, values: Mapping[str, Any]) -> str:
    figure = Figure(figsize=(2.7, 1.9), layout="constrained")
    axes = figure.subplots()
    bottom, top = limits([p.run.value for p in tuning.points if p.run.value is not None])
    places = [*values.get("values", ())]
    if places and tuning.untuned.settings[name] not in places:
        places.append(tuning.untuned.settings[name])
    looks: dict[str, dict[str, Any]] = {
        "ok": {"marker": "o", "color": COLOURS[0], "markersize": 4.2},
        "low": {"marker": "v", "color": COLOURS[0], "markersize": 4.2},
        "none": {"marker": "x", "color": MUTED, "markersize": 4.2},
        "untuned": {"marker": "s", "markerfacecolor": "none", "color": INK, "markersize": 7},
        "best": {"marker": "D", "color": COLOURS[1], "markersize": 5.4},
    }
    points: dict[str, list[tuple[float, float]]] = {look: [] for look in looks}
    for point in tuning.points:
        value, x = point.run.value, point.settings[name]
        x = places.index(x) if places else x
        if value is None and point.state == "missing":
            continue
        kind = "none" if value is None else "ok" if value >= bottom else "low"
        at = (x, bottom if value is None else max(value, bottom))
        points[kind].append(at)
        points["untuned"] += [at] * (point is tuning.untuned)
        points["best"] += [at] * (point is tuning.best)
    for look, found in points.items():
        axes.plot([x for x, _ in found], [y for _, y in found], linestyle="", **looks[look])
    if places:
        axes.set_xticks(range(len(places)), [setting_text(v) for v in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.grid(axis="x", visible=False)
    else:
        _set_axis(axes, values, tuning.untuned.settings[name])
    margin = 0.08 * (top - bottom)
    axes.set_ylim(bottom - margin, top + margin)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(label(name))
    axes.set_ylabel("Validation, %")
    return svg(figure, f"{tuning.row.id}-{tuning.column.id}-{name}")


def _set_axis(axes: Axes, values: Mapping[str, Any], untuned: float) -> None:
    """The whole of a range, its ends and middle marked, and the untuned value wherever it is."""
    low, high = values["low"], values["high"]
    first, last = min(low, untuned), max(high, untuned)
    if values["scale"] == "log" and first > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        middle, room = math.sqrt(low * high), (last / first) ** 0.05
        axes.set_xlim(first / room, last * room)
    else:
        middle, space = (low + high) / 2, 0.05 * (last - first)
        axes.set_xlim(first - space, last + space)
    ticks = [low, float(f"{middle:.3g}"), high]
    axes.set_xticks(ticks, [setting_text(float(x)) for x in ticks])


# --------------------------------------------------------------------------------------- CSV


def to_csv(found: Sequence[Tuning]) -> str:
    """One line per point: its settings, what became of it, and its validation accuracy."""
    first = ["row", "method", "dataset", "architecture", "point", "status", "reason", "stale",
             "val_accuracy_pct", "best", "key"]  # fmt: skip
    fields = sorted({name for tuning in found for name in tuning.space})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *fields], lineterminator="\n")
    writer.writeheader()
    for tuning in found:
        for point in tuning.points:
            run = point.run
            writer.writerow(
                {
                    "row": tuning.row.id, "method": tuning.row.method,
                    "dataset": tuning.column.dataset, "architecture": tuning.column.architecture,
                    "point": point.number, "status": run.status, "reason": run.reason,
                    "stale": run.stale, "val_accuracy_pct": run.value,
                    "best": point is tuning.best, "key": run.key, **point.settings,
                }
            )  # fmt: skip
    return text.getvalue()
