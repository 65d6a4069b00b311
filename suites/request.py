"""Requests: what a suite and the wishes of a user expand to, and the plan that reports read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from methods import METHODS
from reports.formatting import plural
from reports.plan import check_plan
from results.store import Plan
from results.tuned import Chosen, Tuned
from suites.description import UNTRAINED, describe
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Kind, Protocol
from suites.engine.datasets import DATASETS
from suites.engine.execution import CHOICES
from suites.engine.precision import PRECISIONS
from suites.images import names
from suites.places import OfTransfer, Place, places, protocols
from suites.refusals import why_not
from suites.suite import Profile, RequestError, Row, Suite, choose, everywhere, rows_of

AUDITED = "synthetic"  # the data set that an audit is made on
MOST_CELLS = 100_000  # more is a slip of the finger, and would fill the memory before any work


@dataclass(frozen=True)
class Wanted:
    """One wanted cell and its place in the table.

    Attributes:
        point: of tuning: the number of its settings; None elsewhere.
    """

    row: str
    column: str
    cell: Cell
    point: int | None = None

    def __str__(self) -> str:
        which = f"seed {self.cell.seed}" if self.point is None else f"point {self.point}"
        return f"{self.row} on {self.column}, {which}"


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked: the cells to run and the plan that reports read.

    Raises:
        PlanError: a plan that no report could lay out, before anything is trained for it.
    """

    suite: Suite
    profile: str
    wanted: tuple[Wanted, ...]
    plan: Plan
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        check_plan(self.plan)


def expand(
    suite: Suite,
    profile_name: str,
    command: str,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    tunings: Sequence[str] | None = None,
    weights: str = "",
    architectures: Sequence[str] | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    execution: Sequence[str] | None = None,
    extra_methods: Sequence[str] = (),
    audit: bool = False,
    device: str = "cpu",
    tuned: Tuned | None = None,
) -> Request:
    """Resolves a request to cells and a plan, before any work is done.

    Args:
        methods: row ids or names of methods; datasets, sources, architectures: names; None for
            the profile's own. Sources are for transfer, and so are:
        tunings: "none", "itself", "backprop": a column for each; weights: hash of their file.
        seeds: number of seeds, 0 to seeds − 1.
        epochs, precision, execution: replace every protocol's own.
        extra_methods: methods that the user brought, shown below the suite's own.
        audit: also measure the locality of every method on every architecture of the table.
        device: "cpu" or "cuda", which is part of what a cost means.
        tuned: values that go over the settings of the places that they are for.

    Raises:
        RequestError: an unknown name, a number below 1, or an option that this suite lacks.
    """
    profile = suite.profiles[choose("profile", [profile_name], list(suite.profiles))[0]]
    _check_options(
        suite, seeds=seeds, epochs=epochs, sources=sources, tunings=tunings, audit=audit,
        precision=precision, execution=execution,
    )  # fmt: skip
    rows = _chosen_rows(suite, profile, methods, extra_methods)
    data_names = _named("dataset", datasets, DATASETS) or profile.datasets
    of_transfer = OfTransfer(
        _named("dataset", sources, DATASETS), tuple(dict.fromkeys(tunings or ())), weights
    )
    arch_names = _named("architecture", architectures, ARCHITECTURES) or profile.architectures
    if suite.kind == "cost" and (datasets or architectures):
        # a budget thins out its own places; those that the user names are all meant
        profile = dataclasses.replace(profile, wanted=everywhere)
    n_seeds = profile.seeds if seeds is None else seeds
    n_cells = len(rows) * len(data_names) * len(arch_names) * n_seeds
    if n_cells > MOST_CELLS:
        raise RequestError(
            f"{n_cells} cells asked for ({len(rows)} rows, {len(data_names)} datasets, "
            f"{len(arch_names)} architectures, {n_seeds} seeds); at most {MOST_CELLS} at a time"
        )

    changed: dict[str, Any] = {
        "epochs": epochs, "precision": precision,
        "execution": None if execution is None else tuple(sorted(set(execution))),
    }  # fmt: skip
    changed = {name: value for name, value in changed.items() if value is not None}
    own = [
        protocol for dataset, architecture in itertools.product(data_names, arch_names)
        for protocol in protocols(profile, dataset, architecture)
    ]  # fmt: skip
    columns = list(places(suite, profile, rows, data_names, arch_names, of_transfer, changed))
    entries = _Entries(suite.kind, profile, epochs, n_seeds, device, tuned)
    for place in columns:
        for row in place.rows:
            entries.add(place, row)
    if not columns:
        raise RequestError(
            f"suite {suite.name!r} has no place for these rows on these datasets and "
            "architectures: name fewer, or others; --list shows what the profile has"
        )
    if not entries.wanted:
        first = entries.unsupported[0]
        raise RequestError(
            f"nothing to run: no method asked for can do any of it; {first['row']} on "
            f"{first['column']}: {first['reason']}"
        )
    note = (
        profile.note
        + (" Every method has its default settings." if profile.tuned and not entries.tuned else "")
        + _changes(profile, datasets, of_transfer, architectures, seeds, changed, own)
        + _part(suite, profile, rows)
    )
    audit = audit and suite.kind == "train"
    # seed by seed, so that an unfinished sweep already shows every method
    wanted = sorted(entries.wanted, key=lambda w: w.cell.seed)
    plan = _plan(suite, profile_name, note, command, rows, columns, entries, wanted, audit)
    audits = tuple(entries.audit_cells.values()) if audit else ()
    return Request(suite, profile_name, (*wanted, *audits), plan, tuple(rows))


def _check_options(
    suite: Suite,
    *,
    seeds: int | None,
    epochs: int | None,
    sources: Sequence[str] | None,
    tunings: Sequence[str] | None,
    audit: bool,
    precision: str | None,
    execution: Sequence[str] | None,
) -> None:
    """Raises RequestError for a number below 1 or an option that this suite lacks."""
    for name, value in (("--seeds", seeds), ("--epochs", epochs)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, not {value}")
    for name, given, kinds in (
        ("--epochs", epochs is not None, ("train", "transfer")),
        ("--sources", sources is not None, ("transfer",)),
        ("--finetune", tunings is not None, ("transfer",)),
        ("--audit", audit, ("train",)),
    ):
        if given and suite.kind not in kinds:
            what = "for transfer" if kinds == ("transfer",) else "for training"
            raise RequestError(f"{name} is {what}, which {suite.name!r} is not about")
    for name, choices, known in (
        ("precision", None if precision is None else [precision], list(PRECISIONS)),
        ("execution", execution, list(CHOICES)),
    ):
        if choices is not None:
            choose(name, choices, known)
            if suite.kind == "audit":
                raise RequestError(f"--{name}: {suite.name!r} compares bits, in plain float32")


@dataclass
class _Entries:
    """What the entries of a table come to: their cells, and what the plan says of them.

    Attributes:
        epochs: those that the user asked for, in place of every protocol's own.
        chosen: tuned values, from a file.
        audit_cells: key -> the audit behind one or more entries.
    """

    kind: Kind
    profile: Profile
    epochs: int | None
    n_seeds: int
    device: str
    chosen: Tuned | None
    wanted: list[Wanted] = field(default_factory=list)
    audit_cells: dict[str, Wanted] = field(default_factory=dict)
    unsupported: list[dict[str, Any]] = field(default_factory=list)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    tuned: list[dict[str, Any]] = field(default_factory=list)

    def add(self, place: Place, row: Row) -> None:
        """The cells of one row in one column, or why there are none."""
        dataset, architecture = place.dataset, place.architecture
        here = {"row": row.id, "column": place.column["id"]}
        untuned = {**row.settings, **self.profile.settings(row.id, dataset, architecture)}
        values = _tuned_values(self.chosen, row, dataset, architecture)
        settings = {**untuned, **(values.settings if values else {})}
        made_for = place.protocol.source or dataset
        reason = why_not(METHODS[row.method], settings, architecture, made_for)
        if reason is not None:
            self.unsupported.append({**here, "reason": reason})
            return
        own = dict(self.profile.budget(row.id, dataset, architecture))
        if own.get("epochs") and self.epochs is not None:
            del own["epochs"]
        if own.get("epochs") == 0 and place.protocol.weights:
            own["weights"] = ""  # the control that starts from nothing
        if own:
            self.budgets.append({**here, "protocol": own})
        # how far signals travel does not depend on rates: one audit for all data sets
        if why_not(METHODS[row.method], untuned, architecture, AUDITED) is None:
            audit = audit_cell(row.method, untuned, architecture)
            self.audits.append({"key": audit.key, **here, "code_sha": audit.code_sha()})
            self.audit_cells.setdefault(audit.key, Wanted(row.id, f"audit/{architecture}", audit))
        protocol = dataclasses.replace(place.protocol, **own)
        if protocol.tuning == "itself" and row.method == "backprop" and not settings:
            protocol = dataclasses.replace(protocol, tuning="backprop")  # the same, once
        first = Cell.of(
            row.method, settings, architecture, dataset, protocol, 0, self.kind, self.device
        )
        if values is not None:
            self.tuned.append(_of_tuning(values, here, first))
        self.wanted += [
            Wanted(row.id, here["column"], first.with_seed(seed)) for seed in range(self.n_seeds)
        ]


def _plan(
    suite: Suite,
    profile_name: str,
    note: str,
    command: str,
    rows: Sequence[Row],
    columns: Sequence[Place],
    entries: _Entries,
    wanted: Sequence[Wanted],
    audited: bool,
) -> Plan:
    """What reports read: the table that was asked for, and the key of each of its cells."""
    untrained = {w.row for w in wanted} - {w.row for w in wanted if w.cell.protocol.epochs}
    return {
        "schema": 1,
        "suite": suite.name,
        "title": suite.title,
        "profile": profile_name,
        "profile_note": note,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "headline": dict(suite.headline),
        "kind": suite.kind,
        "top5": suite.top5,
        "rows": [
            describe(row, suite.kind) | (UNTRAINED if row.id in untrained else {}) for row in rows
        ],
        "columns": [place.column for place in columns],
        "cells": [
            {
                "key": w.cell.key,
                "row": w.row,
                "column": w.column,
                "seed": w.cell.seed,
                "code_sha": w.cell.code_sha(),
            }
            # the training on the source has a checkpoint of its own
            | (
                {"begins": w.cell.pretraining().key}
                if w.cell.reads_source and w.cell.protocol.epochs
                else {}
            )
            for w in wanted
        ],
        "unsupported": entries.unsupported,
        "budgets": entries.budgets,
        "tuned": entries.tuned,
        "audits": entries.audits if suite.kind == "train" else [],
        "comparisons": [
            list(pair) for pair in suite.comparisons if {*pair} <= {r.id for r in rows}
        ],
        "audited": audited,
    }


def _tuned_values(tuned: Tuned | None, row: Row, dataset: str, architecture: str) -> Chosen | None:
    """The values for a place, where there are some. Raises RequestError for another method's."""
    values = tuned.at(row.id, dataset, architecture) if tuned else None
    if tuned and values and values.method != row.method:
        raise RequestError(
            f"{tuned.path}: the values for {row.id!r} are those of method {values.method!r}, and "
            f"here it is {row.method!r}"
        )
    return values


def _of_tuning(values: Chosen, here: Mapping[str, str], cell: Cell) -> dict[str, Any]:
    """What the page tells of tuned values: which, by how many points, what has changed since."""
    since = []
    then, now = values.protocol, cell.protocol.as_dict()
    differ = sorted(name for name in {**then, **now} if then.get(name) != now.get(name))
    if differ:
        changes = (f"{n} {then.get(n)}, here {now.get(n)}" for n in differ)
        since.append(f"under another protocol ({'; '.join(changes)})")
    if values.method_version != cell.method_class().version:
        since.append("for another version of the method")
    elif values.code_sha != cell.code_sha():
        since.append("by older sources")
    return {**here, "points": values.points, "settings": values.settings, "since": since}


def _named(kind: str, wanted: Sequence[str] | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    """The wanted datasets or architectures; those of a family need not be registered."""
    if not wanted:
        return ()
    family = []
    for name in wanted:
        photos = names.parse(name) if kind == "dataset" else None
        if photos and photos.first is None and not photos.n_classes:
            raise RequestError(
                f"dataset {name!r}: say how many classes the folder {photos.folder!r} has, as in "
                f"{photos.with_classes}; known without: {', '.join(names.CLASSES)}"
            )
        with contextlib.suppress(KeyError):
            family.append(known[name].name)
    return tuple(choose(kind, wanted, list(dict.fromkeys([*known, *family]))))


def _changes(
    profile: Profile,
    datasets: Sequence[str] | None,
    of_transfer: OfTransfer,
    architectures: Sequence[str] | None,
    seeds: int | None,
    changed: Mapping[str, Any],
    own: Sequence[Protocol],
) -> str:
    """What a request changes of its profile, as a sentence for the page.

    Args:
        changed: fields of protocols; own: the profile's, before that.
    """
    other = {name for name, value in changed.items() if any(getattr(p, name) != value for p in own)}
    told = [
        text
        for text, differs in (
            (plural(changed.get("epochs", 0), "epoch"), "epochs" in other),
            (str(changed.get("precision")), "precision" in other),
            (", ".join(changed.get("execution", ())), "execution" in other),
            ("" if seeds is None else plural(seeds, "seed"), seeds not in (None, profile.seeds)),
            (f"from {', '.join(of_transfer.sources)}", of_transfer.sources),
            (f"fine-tuning {', '.join(of_transfer.tunings)}", of_transfer.tunings),
            (f"weights of a file with SHA-256 {of_transfer.weights}…", of_transfer.weights),
            (", ".join(datasets or ()), datasets and set(datasets) != set(profile.datasets)),
            (
                ", ".join(architectures or ()),
                architectures and set(architectures) != set(profile.architectures),
            ),
        )
        if differs
    ]
    return f" Here with {'; '.join(told)} instead of the profile's own." if told else ""


def _part(suite: Suite, profile: Profile, rows: Sequence[Row]) -> str:
    """A sentence for the page where some of the profile's rows were not asked for."""
    whole = [row.id for row in rows_of(profile.methods or suite.methods)]
    n_asked = len({row.id for row in rows} & set(whole))
    more = f", and {plural(len(rows) - n_asked, 'other')}" if len(rows) > n_asked else ""
    return f" {n_asked} of its {plural(len(whole), 'row')}{more}." if n_asked < len(whole) else ""


def audit_cell(method: str, settings: Mapping[str, Any], architecture: str) -> Cell:
    """The cell that measures the locality of a method with these settings on an architecture."""
    return Cell.of(method, dict(settings), architecture, AUDITED, Protocol(epochs=1), 0, "audit")


def _chosen_rows(
    suite: Suite, profile: Profile, methods: Sequence[str] | None, extra_methods: Sequence[str]
) -> list[Row]:
    if methods is None:
        standing = rows_of(profile.methods or suite.methods)
        served = {row.method for row in standing}  # a suite of the user's may have rows of them
        return standing + rows_of(name for name in extra_methods if name not in served)
    rows = rows_of(dict.fromkeys([*suite.methods, *extra_methods]))
    # the suite's own first, in their order, and with their settings
    own = {row.id: row for row in rows}
    everything = [*own.values(), *(r for r in rows_of(sorted(METHODS)) if r.id not in own)]
    names = list(dict.fromkeys([r.id for r in everything] + [r.method for r in everything]))
    chosen = choose("method", methods, names)
    ids = {row.id for row in everything}
    # the name of a method stands for all its rows, unless it is the name of one of them
    return [r for r in everything if r.id in chosen or (r.method in chosen and r.method not in ids)]
