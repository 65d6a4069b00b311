"""The one table that the page, LaTeX, CSV and figures are drawn from: plan + records, no layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from reports.differences import Difference
from reports.statistics import Estimate
from results.record import Record
from results.store import Plan

ACCIDENTS = ("failed", "oom", "timeout", "killed")


class Published(Protocol):
    """One published number, as `results.published` gives it."""

    @property
    def accuracy_pct(self) -> float: ...
    @property
    def decimals(self) -> int: ...
    @property
    def std(self) -> float | None: ...
    @property
    def std_kind(self) -> str: ...
    @property
    def epochs(self) -> str: ...
    @property
    def augmentation(self) -> str: ...
    @property
    def suite(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def readout(self) -> str: ...
    @property
    def network(self) -> str: ...
    @property
    def note(self) -> str: ...


Lookup = Callable[[str, str], Sequence[Published]]  # row id, dataset


@dataclass(frozen=True)
class Claim:
    """A published number beside ours; difference = ours - published, in percentage points."""

    accuracy_pct: float
    decimals: int  # as printed
    std: float | None
    std_kind: str
    epochs: str
    source: str
    difference: float | None
    row: str
    dataset: str
    column: str | None  # of the same network; None where the table has none
    readout: str  # "" for the headline
    network: str  # in the words of the source
    note: str
    verdict: str  # one of claims.VERDICTS
    why: str


@dataclass(frozen=True)
class Beside:
    """A cell beside the control on the same column, seed by seed where they have the same."""

    difference: Difference  # in the unit of the headline, the control's subtracted
    p_value: float  # Holm-corrected within the column
    distinct: bool


@dataclass(frozen=True)
class Run:
    """One seed of one cell: what the record says, or that there is none."""

    key: str
    seed: int
    status: str  # a record's status, or "missing", or "running"
    reason: str | None
    value: float | None  # the headline; only of an ok run
    stale: bool
    record: Record | None


@dataclass(frozen=True)
class Cell:
    """One place of the table: a method on a column, all seeds."""

    row: str
    column: str
    state: str  # ok, partial, diverged, failed, missing, running, unsupported, unwanted
    runs: tuple[Run, ...] = ()
    estimate: Estimate | None = None  # over the ok seeds
    reason: str | None = None  # why it is not whole, one line
    best: bool = False
    tied: bool = False  # not distinguishable from the best
    claims: tuple[Claim, ...] = ()
    beside: Beside | None = None  # both whole, with three seeds at least
    # split -> readout -> accuracy in percent, over the ok seeds
    readouts: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    # name of a measure -> median over the ok seeds that have it; seconds, bytes, images/s, FLOPs
    cost: Mapping[str, float] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)  # see suites/auditing/measure.py
    speed: Mapping[str, Any] = field(default_factory=dict)  # see suites/costs/measure.py
    audit_failure: str = ""  # why a measurement that was made is not shown
    readout: str = ""  # whose numbers the headline is

    @property
    def n_wanted(self) -> int:
        return len(self.runs)

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed -> headline, of the runs that have one."""
        return {run.seed: run.value for run in self.runs if run.value is not None}

    @property
    def shown_claims(self) -> tuple[Claim, ...]:
        """The claims about the number that the table shows, and not about another readout."""
        return tuple(claim for claim in self.claims if not claim.readout)

    @property
    def n_stale(self) -> int:
        return sum(run.stale for run in self.runs)

    @cached_property
    def curve(self) -> list[tuple[float, list[float]]]:
        """(epoch, validation accuracies of the ok seeds in percent), by epoch."""
        points: dict[float, list[float]] = {}
        for run in self.runs:
            if run.status == "ok" and run.record:
                curves = run.record["curves"]
                for epoch, value in zip(
                    curves.get("epoch", ()), curves.get("val_accuracy_pct", ()), strict=False
                ):
                    if epoch is not None and value is not None:
                        points.setdefault(epoch, []).append(value)
        return sorted(points.items())


@dataclass(frozen=True)
class Row:
    """A method, or a variant of one."""

    id: str
    label: str
    method: str
    source: str
    readout: str
    readouts: tuple[str, ...]
    local: bool | None
    feedback: str  # what reaches earlier parts from later ones besides a gradient; "" if nothing
    description: str
    equations: str  # what the method's file says of itself: equations, notation, sources
    differs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # what makes it a row of its own


TOP5 = ", top 5"  # behind a readout: how often the right class is among its best five


@dataclass(frozen=True)
class Column:
    """A dataset and an architecture under one protocol."""

    id: str
    dataset: str
    architecture: str
    label: str  # short: the dataset stands above it
    protocol: Mapping[str, Any]
    axes: Mapping[str, float] = field(default_factory=dict)  # what a cost is drawn against
    published_as: str = ""  # the dataset as papers name it, where that is another name
    readout: str = ""  # of all methods here, as where they are fine-tuned; "" for each its own
    n_classes: int = 0  # of the dataset; 0 in plans that do not tell


@dataclass(frozen=True)
class Table:
    """Rows x columns. Every pair of a row id and a column id has a cell."""

    plan: Plan
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]  # grouped by dataset
    cells: Mapping[tuple[str, str], Cell]
    set_aside: tuple[str, ...] = ()  # one line per file that could not be read
    claims: tuple[Claim, ...] = ()  # about the table's methods on its datasets, any network

    def cell(self, row: Row, column: Column) -> Cell:
        return self.cells[row.id, column.id]

    def groups(self) -> list[tuple[str, list[Column]]]:
        """(dataset, its columns), in the order of the plan."""
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            found.setdefault(column.dataset, []).append(column)
        return list(found.items())

    @cached_property
    def control(self) -> Row | None:
        """The row that others are held against; see `control_of`."""
        return control_of(self.rows)

    @cached_property
    def runs(self) -> tuple[tuple[Row, Column, Run], ...]:
        """Every wanted run, row by row."""
        return tuple(
            (row, column, run)
            for row in self.rows
            for column in self.columns
            for run in self.cell(row, column).runs
        )

    @property
    def kind(self) -> str:
        """What was done with the cells: "train", "audit", "cost", "transfer"."""
        return str(self.plan.get("kind", "train"))

    @property
    def metric(self) -> str:
        return str(self.plan["headline"]["metric"])

    @cached_property
    def newest(self) -> str | None:
        """When the newest record was finished."""
        return max((r.record["finished_at"] for _, _, r in self.runs if r.record), default=None)


def control_of(rows: Sequence[Row]) -> Row | None:
    """The first row of backprop, or None: end to end, or in table 3 without any training at all."""
    return next((row for row in rows if row.method == "backprop"), None)


def rounding_step(plan: Plan, row: Row, runs: Sequence[Run]) -> float:
    """What one image of the test set makes of the headline, in percentage points.

    0 where the headline is no accuracy, or no run has one.
    """
    if plan["headline"]["metric"] != "accuracy_pct":
        return 0.0
    steps = []
    for run in runs:
        metrics = (run.record or {}).get("metrics") or {}
        readouts: Mapping[str, Any] = metrics.get(str(plan["headline"]["split"])) or {}
        found = readouts.get(row.readout) or next(iter(readouts.values()), None)
        if found and found.get("n"):
            steps.append(100 / (found["n"] * (found.get("draws") or 1)))
    return max(steps, default=0.0)


def lower_is_better(metric: str) -> bool:
    """Whether a small value of the headline is the good one."""
    if metric.endswith("_per_s"):
        return False
    costs = ("loss", "_s", "_bytes", "_j", "_per_image", "_per_prediction")
    return metric.endswith(costs) or metric.startswith("n_params")
