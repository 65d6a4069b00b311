"""Two folders of results, laid out alike: every cell of A beside the cell of B that is the same.

Where both folders have a plan of the suite, rows and columns of the plans are the places. Where one
has none, or is looked at as of one commit, its records are put into places by what they are of:
method, settings, network, data and protocol; versions may differ. Records that no plan asks for are
about test accuracy, by the readout that comes first in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.assemble import build_table
from reports.formatting import plural, setting_text
from reports.plan import PlanError, check_plan
from reports.table import Table
from reports.tuning import KIND
from results.record import FINAL, Record, RecordError, canonical_json, parse
from results.store import Plan, Store, is_record, without_collector

VERSIONS = ("version", "method_version", "dataset_version", "source_version", "tuning_version")
ACCURACY = {"split": "test", "metric": "accuracy_pct"}
Place = tuple[str, str]  # row, column


class CompareError(ValueError):
    """A comparison that cannot be made; the message is one line: what, where, how to fix it."""


@dataclass(frozen=True)
class Source:
    """One side as it was asked for: a folder, or the records that one commit made in it."""

    name: str  # "A" or "B"
    text: str  # as given
    store: Store
    commit: str = ""


@dataclass(frozen=True)
class Side:
    """One side, read and laid out."""

    source: Source
    table: Table
    unreadable: tuple[str, ...] = ()
    ignored: int = 0  # records of audits and costs, which need a plan to be read by
    also: int = 0  # records of cells that the other side's plan asks for, and this one's does not


def source_of(name: str, text: str) -> Source:
    """A side from "DIR" or "DIR@COMMIT". Raises CompareError."""
    folder, _, commit = text.rpartition("@")
    if Path(text).exists() or not folder:
        folder, commit = text, ""
    elif len(commit) < 4 or not set(commit.lower()) <= set("0123456789abcdef"):
        raise CompareError(
            f"{text}: what stands behind @ is a commit, at least 4 hexadecimal digits; and there "
            "is no folder of this name"
        )
    store = Store(folder)
    if why := store.why_not():
        raise CompareError(why)
    return Source(name, text, store, commit.lower())


def aligned(
    a: Source, b: Source, suite: str | None = None, cells_of: str | None = None
) -> tuple[Side, Side]:
    """Both sides in tables whose rows and columns have the same names for the same work.

    Args:
        cells_of: "A" or "B", whose plan says which cells are compared; None: each has its own.

    Raises:
        CompareError: there is nothing that could be compared, or it is not clear what.
        OSError: a folder cannot be read.
    """
    with without_collector():
        plans = {source.name: _plans(source) for source in (a, b)}
        suite = suite or _suite(plans)
        guides = {n: found[suite] for n, found in plans.items() if suite and suite in found}
        for name, plan in guides.items():
            try:
                check_plan(plan)
            except (PlanError, TypeError) as error:
                where = (a if name == "A" else b).store.plans_dir / f"{suite}.json"
                raise CompareError(f"{where}: {error}; ask for the suite again") from error
        if cells_of and cells_of not in guides:
            raise CompareError(
                f"--cells-of {cells_of}: {cells_of} has no plan" + (f" of {suite}" if suite else "")
            )
        also = {} if cells_of else {s.name: _also(s, guides) for s in (a, b) if not s.commit}
        if cells_of:
            guides = dict.fromkeys("AB", guides[cells_of])
        if any(guide.get("kind") == KIND for guide in guides.values()):
            raise CompareError(
                f"{suite} is a tuning, whose points are no seeds of one thing; compare what was "
                "trained with the chosen settings"
            )
        headlines = [dict(guide["headline"]) for guide in guides.values()] or [ACCURACY]
        if headlines[0] != headlines[-1]:
            texts = [f"{h['split']} {h['metric']}" for h in headlines]
            raise CompareError(f"the plans of {suite} are about {texts[0]} and {texts[1]}")
        both = [_read(source, guides.get(source.name)) for source in (a, b)]
        one, other = both[0].plan, both[1].plan
        if not (one and other):
            one, other = _laid_out(both, suite, headlines[0])
        return _side(both[0], one, also), _side(both[1], other, also)


def _also(source: Source, guides: Mapping[str, Plan]) -> int:
    """How many cells of the other side's plan are on record here, and not in the plan here."""
    if len(guides) < 2:
        return 0
    here, there = guides[source.name], guides["B" if source.name == "A" else "A"]
    others = {cell["key"] for cell in there["cells"]} - {cell["key"] for cell in here["cells"]}
    with os.scandir(source.store.records_dir) as entries:
        return sum(e.name.removesuffix(".json") in others for e in entries if is_record(e.name))


def _side(read: _Read, plan: Plan, also: Mapping[str, int]) -> Side:
    try:
        table = build_table(plan, read.records)
    except PlanError as error:
        raise CompareError(f"{read.source.text}: {error}") from error
    n = also.get(read.source.name, 0)
    return Side(read.source, table, tuple(read.unreadable), read.ignored, n)


def _plans(source: Source) -> dict[str, Plan]:
    """suite -> plan, of all that are stored and can be read."""
    found = {}
    for path in sorted(source.store.plans_dir.glob("[!.]*.json")):
        try:
            plan = source.store.read_plan(path.stem)
        except RecordError as error:
            raise CompareError(f"{error}; ask for the suite again, or delete the file") from error
        if plan is not None:
            found[path.stem] = plan
    return found


def _suite(plans: Mapping[str, Mapping[str, Plan]]) -> str | None:
    """The suite that is meant where none is named; None: whatever is on record."""
    both = sorted(set(plans["A"]) & set(plans["B"]))
    either = both or sorted(set(plans["A"]) | set(plans["B"]))
    if len(either) > 1:
        where = "both have plans of" if both else "there are plans of"
        raise CompareError(f"{where} {', '.join(either)}; choose one with --suite")
    return either[0] if either else None


@dataclass
class _Read:
    """What was read of one side.

    Attributes:
        guide: the plan that is stored; plan: the same, unless only one commit is looked at.
        records: by key; planned: those that the guide asks for, of any commit.
        ignored: how many records need a plan to be read by.
    """

    source: Source
    guide: Plan | None
    records: dict[str, Record] = field(default_factory=dict)
    planned: dict[str, Record] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    ignored: int = 0

    @property
    def plan(self) -> Plan | None:
        return None if self.source.commit else self.guide


def _read(source: Source, guide: Plan | None) -> _Read:
    found = _Read(source, guide)
    keys = [cell["key"] for cell in guide["cells"]] if guide else []
    if found.plan is not None:
        summary = source.store.read(keys)
        found.records = found.planned = summary.records
        found.unreadable = summary.unreadable
        return found
    with os.scandir(source.store.records_dir) as entries:
        names = sorted(entry.name for entry in entries if is_record(entry.name))
    if not source.commit:
        summary = source.store.read({name.partition(".")[0] for name in names})
        found.records, found.unreadable = summary.records, summary.unreadable
    else:
        found.planned = source.store.read(keys).records
        _read_commit(found, names)
    return found


def _read_commit(found: _Read, names: Iterable[str]) -> None:
    """The records that one commit made, superseded ones included; of a cell the one that counts."""
    source = found.source
    ranks: dict[str, tuple[bool, bool, str]] = {}
    commits: dict[str, int] = {}
    for name in names:
        path = source.store.records_dir / name
        try:
            record = parse(path.read_bytes())
        except FileNotFoundError:
            continue
        except ValueError as error:
            found.unreadable.append(f"{path}: {error}")
            continue
        commit = str(record["environment"].get("git_commit") or "unknown")
        commits[commit[:12]] = commits.get(commit[:12], 0) + 1
        key, final = record["key"], record["status"] in FINAL
        rank = (final, name == f"{key}.json", record["finished_at"])
        if commit.startswith(source.commit) and rank > ranks.get(key, (False, False, "")):
            ranks[key] = rank
            found.records[key] = record
    if not found.records:
        known = ", ".join(f"{commit} ({plural(n, 'record')})" for commit, n in commits.items())
        raise CompareError(
            f"no record in {source.store.root} is of commit {source.commit}; there are: "
            f"{known or 'none'}"
        )


# ------------------------------------------------------------------------------ the layout

_SETTINGS = ("config", "protocol")


def identity(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell is of, all seeds alike: versions are no part of it."""
    found = {k: v for k, v in cell.items() if k not in (*VERSIONS, "seed")}
    if isinstance(found.get("protocol"), Mapping):
        found["protocol"] = {k: v for k, v in found["protocol"].items() if k not in VERSIONS}
    return found


def _text(record: Record) -> str:
    return canonical_json(identity(record["cell"]))


def _laid_out(
    sides: Sequence[_Read], suite: str | None, headline: Mapping[str, Any]
) -> tuple[Plan, Plan]:
    """A plan for each of two sides: its own, or one that is made up from its records."""
    guides = [side.guide for side in sides if side.guide]
    known = {_text(record) for side in sides for record in side.planned.values()}
    groups = [_groups(side, known, suite, bool(guides)) for side in sides]
    twin = _twins(*groups)
    places: dict[str, list[Place]] = {}
    for side in sides:
        for cell in side.guide["cells"] if side.guide else ():
            if record := side.planned.get(cell["key"]):
                text, place = _text(record), (cell["row"], cell["column"])
                of_this = places.setdefault(twin.get(text, text), [])
                of_this += [place] * (place not in of_this)
    rows = {row["id"]: row for guide in reversed(guides) for row in guide["rows"]}
    columns = {column["id"]: column for guide in reversed(guides) for column in guide["columns"]}
    unnamed: dict[str, list[Record]] = {}
    for found in groups:
        for text, records in found.items():
            if (text := twin.get(text, text)) not in places:
                unnamed.setdefault(text, []).extend(records)
    _name(unnamed, rows, columns, places)
    about = guides[0] if guides else {}
    plans = []
    for side, found in zip(sides, groups, strict=True):
        cells = _cells(found, twin, places)
        used = [{cell[kind] for cell in cells} for kind in ("row", "column")]
        made_up = {
            "schema": 1,
            "suite": suite or "",
            "title": about.get("title", "All records"),
            "profile": about.get("profile", ""),
            "headline": headline,
            "kind": about.get("kind", "train"),
            "rows": [row for name, row in rows.items() if name in used[0]],
            "columns": [column for name, column in columns.items() if name in used[1]],
            "cells": cells,
            "unsupported": [],
        }
        plans.append(side.plan or made_up)
    return plans[0], plans[1]


def _groups(
    side: _Read, known: set[str], suite: str | None, guided: bool
) -> dict[str, list[Record]]:
    """Records by what they are of, those that belong to the suite or that a plan asks for."""
    found: dict[str, list[Record]] = {}
    for key in sorted(side.records):
        record = side.records[key]
        text = _text(record)
        if text not in known:
            if suite and record["suite"] != suite:
                continue
            if not guided and record["cell"].get("kind", "train") not in ("train", "transfer"):
                side.ignored += 1
                continue
        found.setdefault(text, []).append(record)
    return found


def _twins(a: Mapping[str, list[Record]], b: Mapping[str, list[Record]]) -> dict[str, str]:
    """Text of B -> text of A, of what differs in settings or protocol alone, if it is unique."""
    loose: dict[str, tuple[list[str], list[str]]] = {}
    for i, (one, other) in enumerate(((a, b), (b, a))):
        for text in one.keys() - other.keys():
            cell = identity(one[text][0]["cell"])
            rest = canonical_json({k: v for k, v in cell.items() if k not in _SETTINGS})
            loose.setdefault(rest, ([], []))[i].append(text)
    return {of_b[0]: of_a[0] for of_a, of_b in loose.values() if len(of_a) == len(of_b) == 1}


def _name(
    unnamed: Mapping[str, list[Record]],
    rows: dict[str, dict[str, Any]],
    columns: dict[str, dict[str, Any]],
    places: dict[str, list[Place]],
) -> None:
    """Makes places for what no plan has a place for."""
    cells = {text: identity(records[0]["cell"]) for text, records in unnamed.items()}
    row_ids = _labels(
        {t: {name: c.get(name) for name in ("method", "config")} for t, c in cells.items()},
        lambda cell: str(cell["method"]),
        rows,
    )
    column_ids = _labels(
        {t: {k: v for k, v in c.items() if k not in ("method", "config")}
         for t, c in cells.items()},
        lambda cell: f"{cell.get('dataset')}/{cell.get('architecture')}",
        columns,
    )  # fmt: skip
    for text in sorted(cells, key=lambda text: (row_ids[text], column_ids[text])):
        cell, row, column = cells[text], row_ids[text], column_ids[text]
        tested = (record["metrics"].get("test") or {} for record in unnamed[text])
        readout = next((next(iter(found)) for found in tested if found), "last")
        rows.setdefault(
            row, {"id": row, "label": row, "method": str(cell.get("method")), "readout": readout}
        )
        columns.setdefault(
            column,
            {
                "id": column, "dataset": str(cell.get("dataset")),
                "architecture": str(cell.get("architecture")),
                "protocol": cell.get("protocol") or {},
            },
        )  # fmt: skip
        places[text] = [(row, column)]


def _cells(
    groups: Mapping[str, list[Record]], twin: Mapping[str, str], places: Mapping[str, list[Place]]
) -> list[dict[str, Any]]:
    """The cells of a plan: every record in its place."""
    finished: dict[tuple[str, str, int], str] = {}
    cells: dict[tuple[str, str, int], dict[str, Any]] = {}
    for text, records in groups.items():
        for record in records:
            seed = record["cell"].get("seed")
            seed = seed if isinstance(seed, int) else 0
            for row, column in places[twin.get(text, text)]:
                # two versions of a method may have made records of one place: the last counts
                place = (row, column, seed)
                if record["finished_at"] >= finished.get(place, ""):
                    finished[place] = record["finished_at"]
                    cells[place] = {
                        "key": record["key"], "row": row, "column": column, "seed": seed,
                        "code_sha": record["code_sha"],
                    }  # fmt: skip
    return [cells[place] for place in sorted(cells)]


def _labels(
    things: Mapping[str, Mapping[str, Any]], short: Any, taken: Mapping[str, Any]
) -> dict[str, str]:
    """Names for things: short where that tells them apart, else with the fields that differ."""
    by_short: dict[str, dict[str, dict[str, Any]]] = {}
    for thing in things.values():
        by_short.setdefault(short(thing), {})[canonical_json(thing)] = flat(thing)
    found = {}
    for name, thing in things.items():
        rivals = by_short[short(thing)]
        mine = flat(thing)
        differing = [
            field for field in sorted({f for rival in rivals.values() for f in rival})
            if len({canonical_json(rival.get(field)) for rival in rivals.values()}) > 1
        ]  # fmt: skip
        told = ", ".join(
            f"{field.rpartition('.')[2]}={setting_text(mine.get(field))}" for field in differing
        )
        found[name] = short(thing) + (f" ({told})" if told else "")
        if found[name] in taken:
            found[name] += " (not in the plan)"
    return found


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by the path to them: {"protocol.epochs": 5}."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, Mapping):
            found |= flat(inner, f"{path}.")
        else:
            found[path] = inner
    return found
