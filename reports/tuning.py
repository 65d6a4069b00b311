"""Equal tuning, as it is read: the points of each method on a column, the best of them, the gain.

Of the records only what the validation split says is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reports.formatting import plural, setting_text
from reports.plan import KIND as KIND
from reports.plan import PlanError
from reports.table import ACCIDENTS, Column, Row, Run, Table
from results.store import Plan

COUNTED = ("ok", "diverged", "failed", "missing")
EDGE = 0.1  # of a range: a value this near to an end calls for a wider range


@dataclass(frozen=True)
class Point:
    """One point of a search space, tried: the values that it sets, and what became of the cell."""

    number: int  # 0 is the row's untuned settings
    settings: Mapping[str, Any]
    run: Run

    @property
    def state(self) -> str:
        """One of COUNTED."""
        if self.run.status in ACCIDENTS:
            return "failed"
        return self.run.status if self.run.status in COUNTED else "missing"


@dataclass(frozen=True)
class Tuning:
    """What was tried of one method on one column.

    Attributes:
        space: field -> its range, as data: "scale" ("log", "linear", "choice"), "low" and "high",
            or "values".
    """

    row: Row
    column: Column
    points: tuple[Point, ...]
    space: Mapping[str, Mapping[str, Any]]

    @cached_property
    def counts(self) -> Counter[str]:
        """How many points are in which state of COUNTED."""
        return Counter(point.state for point in self.points)

    @property
    def complete(self) -> bool:
        """Whether the whole budget was used: every point has a record, of whatever kind."""
        return not self.counts["missing"]

    @cached_property
    def best(self) -> Point | None:
        """The point of the highest validation accuracy, the first of equal ones; None without."""
        ok = [point for point in self.points if point.run.value is not None]
        return max(ok, key=lambda p: (p.run.value, -p.number), default=None)

    @property
    def untuned(self) -> Point:
        """The row's settings as they are without tuning."""
        return self.points[0]

    @property
    def gain(self) -> float | None:
        """Percentage points of validation accuracy that tuning is worth; at least 0."""
        before = self.untuned.run.value
        best = self.best.run.value if self.best else None
        return None if before is None or best is None else best - before

    @cached_property
    def edges(self) -> list[str]:
        """Where the best value is in the outer tenth of a range: "lr near the low end"."""
        if self.best is None:
            return []
        found = []
        for name, values in self.space.items():
            if values["scale"] == "choice":
                continue
            u = _coordinate(self.best.settings[name], values)
            if u < EDGE and values["low"] == 0:
                continue  # a decay, or a share, of none: there is nothing beyond
            if not EDGE <= u <= 1 - EDGE:
                found.append(f"{label(name)} near the {'low' if u < EDGE else 'high'} end")
        return found

    @cached_property
    def standard_error(self) -> float | None:
        """Percentage points by which the best accuracy is uncertain, for its number of images."""
        record = self.best.run.record if self.best else None
        if self.best is None or self.best.run.value is None or record is None:
            return None
        n = (record["metrics"].get("val") or {}).get(self.row.readout, {}).get("n")
        if not n:
            return None
        # at 100 % half an image is left, too
        share = min(max(self.best.run.value / 100, 0.5 / n), 1 - 0.5 / n)
        return 100 * math.sqrt(share * (1 - share) / n)

    @cached_property
    def n_level(self) -> int:
        """How many other points are within one standard error of the best."""
        values = [p.run.value for p in self.points if p is not self.best]
        if self.best is None or self.best.run.value is None or self.standard_error is None:
            return 0
        least = self.best.run.value - self.standard_error
        return sum(value is not None and value >= least for value in values)


def _coordinate(value: float, values: Mapping[str, Any]) -> float:
    """Where in a range a value lies by the range's scale: 0 at its low end, 1 at the other."""
    low, high = values["low"], values["high"]
    if values["scale"] == "log":
        return math.log(value / low) / math.log(high / low) if value > 0 else -math.inf
    return (value - low) / (high - low)


def tunings(table: Table) -> list[Tuning]:
    """Every method on every column, row by row.

    Raises:
        PlanError: methods have different budgets, or the plan does not say what was tuned.
    """
    n_points, spaces = _of_plan(table.plan)
    places: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for wanted in table.plan["cells"]:
        places.setdefault((wanted["row"], wanted["column"]), []).append(wanted)
    found = []
    for row in table.rows:
        for column in table.columns:
            entries = places.get((row.id, column.id))
            if entries is None:
                continue
            runs = table.cell(row, column).runs  # in the order of the plan: all have one seed
            points = tuple(
                Point(entry["point"], entry["settings"], run)
                for entry, run in zip(entries, runs, strict=True)
            )
            if [point.number for point in points] != list(range(n_points)):
                raise PlanError(
                    f"{row.id} on {column.id} has {plural(len(points), 'point')}, and the budget "
                    f"of every method is {n_points}"
                )
            found.append(Tuning(row, column, points, spaces[row.id]))
    return found


def _of_plan(plan: Plan) -> tuple[int, Mapping[str, Mapping[str, Any]]]:
    """The number of points, and the space of each row. Raises PlanError."""
    about = plan.get("tuning")
    if not isinstance(about, Mapping) or not {"points", "spaces", "of"} <= about.keys():
        raise PlanError("the plan has no 'tuning' with 'of', 'points' and 'spaces'")
    for i, cell in enumerate(plan["cells"]):
        if "point" not in cell or not isinstance(cell.get("settings"), Mapping):
            raise PlanError(f"cells[{i}] of the plan has no 'point' with 'settings'")
        if cell["row"] not in about["spaces"]:
            raise PlanError(f"the plan has no search space of {cell['row']}")
    return about["points"], about["spaces"]


def settings_text(settings: Mapping[str, Any]) -> str:
    """'lr 0.0021, margin 0.13'."""
    return ", ".join(f"{label(name)} {setting_text(value)}" for name, value in settings.items())


def label(field: str) -> str:
    """A field of a configuration, for reading: 'weight decay'."""
    return field.replace("_", " ")


def range_text(values: Mapping[str, Any]) -> str:
    """'1e-4 to 0.01, logarithmic', or '1, 2, 4 or 8'."""
    if values["scale"] == "choice":
        *others, last = map(setting_text, values["values"])
        return f"{', '.join(others)} or {last}"
    text = f"{setting_text(values['low'])} to {setting_text(values['high'])}"
    return text + (", logarithmic" if values["scale"] == "log" else "")


# ------------------------------------------------------- tuned values on the page of another table


@dataclass(frozen=True)
class Budget:
    """How the settings of a column came about.

    Attributes:
        points: of tuning, by row id; 0 where a row has its untuned settings.
    """

    column: Column
    points: Mapping[str, int]


def budgets(table: Table) -> list[Budget]:
    """How the settings came about, by column; nothing where no row's were tuned."""
    tuned = {(t["row"], t["column"]): t["points"] for t in table.plan.get("tuned") or ()}
    found = []
    for column in table.columns if tuned else ():
        rows = [row.id for row in table.rows if table.cell(row, column).runs]
        found.append(Budget(column, {row: tuned.get((row, column.id), 0) for row in rows}))
    return found


def budget_sentence(table: Table) -> str:
    """'Settings: tuned with 16 points per method on digits, mlp-2x500; …', or ''."""
    labels = {row.id: row.label for row in table.rows}
    texts: dict[str, list[str]] = {}
    for budget in budgets(table):
        by_points: dict[int, list[str]] = {}
        for row, n in budget.points.items():
            by_points.setdefault(n, []).append(labels[row])
        parts: list[str] = []
        for n, rows in sorted(by_points.items(), key=lambda item: -len(item[1])):
            what = f"tuned with {plural(n, 'point')}" if n else "default settings"
            parts.append(what + (f" for {', '.join(rows)}" if parts else ""))
        where = f"{budget.column.dataset}, {budget.column.label}"
        texts.setdefault(" but ".join(parts), []).append(where)
    if not texts:
        return ""
    lines = [f"{' and '.join(w)}: {what}" for what, w in texts.items()]
    found = f"Settings: {'; '.join(lines) if len(texts) > 1 else next(iter(texts))}."
    since = dict.fromkeys(why for t in table.plan.get("tuned") or () for why in t.get("since", ()))
    return found + (f" Some values were found {'; '.join(since)}." if since else "")


def tuned_lines(table: Table) -> list[tuple[Row, Column, str, str]]:
    """Row, column, values and budget of all that is tuned in a table, row by row."""
    found = {(t["row"], t["column"]): t for t in table.plan.get("tuned") or ()}
    lines = []
    for row in table.rows:
        for column in table.columns:
            if entry := found.get((row.id, column.id)):
                budget = plural(entry["points"], "point")
                since = entry.get("since") or ()
                values = settings_text(entry["settings"])
                lines.append((row, column, values, ", ".join([budget, *since])))
    return lines
