"""Requests: what a suite and the wishes of a user expand to, and the plan that reports read."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from methods import METHODS, Method
from methods.base import resolve_config
from results.store import Plan
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Protocol
from suites.engine.datasets import DATASETS, bare_task
from suites.suite import Profile, RequestError, Row, Suite, choose, rows_of

AUDITED = "synthetic"  # the data set that an audit is made on
MOST_CELLS = 100_000  # more is a slip of the finger, and would fill the memory before any work


@dataclass(frozen=True)
class Wanted:
    """One wanted cell and its place in the table."""

    row: str
    column: str
    cell: Cell

    def __str__(self) -> str:
        return f"{self.row} on {self.column}, seed {self.cell.seed}"


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked: the cells to run and the plan that reports read."""

    suite: Suite
    profile: str
    wanted: tuple[Wanted, ...]
    plan: Plan


def expand(
    suite: Suite,
    profile_name: str,
    command: str,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    architectures: Sequence[str] | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    extra_methods: Sequence[str] = (),
    audit: bool = False,
) -> Request:
    """Resolves a request to cells and a plan, before any work is done.

    Args:
        methods: row ids or names of methods; datasets, architectures: names; None for the
            profile's own.
        seeds: number of seeds, 0 to seeds − 1. epochs: replaces every protocol's own.
        extra_methods: methods that the user brought, shown below the suite's own.
        audit: also measure the locality of every method on every architecture of the table.

    Raises:
        RequestError: an unknown name, a number below 1, or an option that this suite lacks.
    """
    profile = suite.profiles[choose("profile", [profile_name], list(suite.profiles))[0]]
    for name, value in (("--seeds", seeds), ("--epochs", epochs)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, not {value}")
    if suite.kind == "audit" and (epochs is not None or audit):
        option = "--audit" if audit else "--epochs"
        raise RequestError(f"{option} is for training, and {suite.name!r} trains nothing")
    rows = _chosen_rows(suite, profile, methods, extra_methods)
    data_names = choose("dataset", datasets, list(DATASETS)) if datasets else profile.datasets
    arch_names = (
        choose("architecture", architectures, list(ARCHITECTURES))
        if architectures
        else profile.architectures
    )
    n_seeds = profile.seeds if seeds is None else seeds
    n_cells = len(rows) * len(data_names) * len(arch_names) * n_seeds
    if n_cells > MOST_CELLS:
        raise RequestError(
            f"{n_cells} cells asked for ({len(rows)} rows, {len(data_names)} datasets, "
            f"{len(arch_names)} architectures, {n_seeds} seeds); at most {MOST_CELLS} at a time"
        )

    wanted: list[Wanted] = []
    columns, unsupported, budgets, audits = [], [], [], []
    audit_cells: dict[str, Wanted] = {}
    for dataset in data_names:
        for architecture in arch_names:
            column = f"{dataset}/{architecture}"
            protocol = profile.protocol(dataset, architecture)
            if epochs is not None:
                protocol = dataclasses.replace(protocol, epochs=epochs)
            present = [row for row in rows if profile.wanted(row.id, dataset, architecture)]
            if not present:
                continue
            columns.append(
                {
                    "id": column,
                    "dataset": dataset,
                    "architecture": architecture,
                    "protocol": dataclasses.asdict(protocol) if suite.kind == "train" else {},
                }
            )
            for row in present:
                place = (row.id, dataset, architecture)
                settings = {**row.settings, **profile.settings(*place)}
                reason = why_not(METHODS[row.method], settings, architecture, dataset)
                if reason is not None:
                    unsupported.append({"row": row.id, "column": column, "reason": reason})
                    continue
                own = dict(profile.budget(*place)) if epochs is None else {}
                if own:
                    budgets.append({"row": row.id, "column": column, "protocol": own})
                if why_not(METHODS[row.method], settings, architecture, AUDITED) is None:
                    audited = audit_cell(row.method, settings, architecture)
                    audits.append(
                        {
                            "key": audited.key, "row": row.id, "column": column,
                            "code_sha": audited.code_sha(),
                        }
                    )  # fmt: skip
                    audit_cells.setdefault(
                        audited.key, Wanted(row.id, f"audit/{architecture}", audited)
                    )
                for seed in range(n_seeds):
                    cell = Cell.of(
                        row.method, settings, architecture, dataset,
                        dataclasses.replace(protocol, **own), seed, suite.kind,
                    )  # fmt: skip
                    wanted.append(Wanted(row.id, column, cell))
    if not columns:
        raise RequestError(
            f"suite {suite.name!r} has no place for these rows on these datasets and "
            "architectures: name fewer, or others; --list shows what the profile has"
        )
    if not wanted:
        raise RequestError(
            f"nothing to run: no method asked for can do any of it; {unsupported[0]['row']} on "
            f"{unsupported[0]['column']}: {unsupported[0]['reason']}"
        )
    # seed by seed, so that an unfinished sweep already shows every method
    wanted.sort(key=lambda w: w.cell.seed)
    plan: Plan = {
        "schema": 1,
        "suite": suite.name,
        "title": suite.title,
        "profile": profile_name,
        "profile_note": profile.note + _changes(profile, datasets, architectures, seeds, epochs),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "headline": dict(suite.headline),
        "rows": [_describe(row) for row in rows],
        "columns": columns,
        "cells": [
            {
                "key": w.cell.key,
                "row": w.row,
                "column": w.column,
                "seed": w.cell.seed,
                "code_sha": w.cell.code_sha(),
            }
            for w in wanted
        ],
        "unsupported": unsupported,
        "budgets": budgets,
        "audits": audits if suite.kind == "train" else [],
    }
    if audit and suite.kind == "train":
        wanted.extend(audit_cells.values())
    return Request(suite, profile_name, tuple(wanted), plan)


def _changes(
    profile: Profile,
    datasets: Sequence[str] | None,
    architectures: Sequence[str] | None,
    seeds: int | None,
    epochs: int | None,
) -> str:
    """What a request changes of its profile, as a sentence for the page."""
    changed = [
        text
        for text, differs in (
            (f"{epochs} epochs", epochs is not None),
            (f"{seeds} seeds", seeds not in (None, profile.seeds)),
            (", ".join(datasets or ()), datasets and set(datasets) != set(profile.datasets)),
            (
                ", ".join(architectures or ()),
                architectures and set(architectures) != set(profile.architectures),
            ),
        )
        if differs
    ]
    return f" Here with {'; '.join(changed)} instead of the profile's own." if changed else ""


def audit_cell(method: str, settings: Mapping[str, Any], architecture: str) -> Cell:
    """The cell that measures the locality of a method with these settings on an architecture."""
    return Cell.of(method, dict(settings), architecture, AUDITED, Protocol(epochs=1), 0, "audit")


def _chosen_rows(
    suite: Suite, profile: Profile, methods: Sequence[str] | None, extra_methods: Sequence[str]
) -> list[Row]:
    if methods is None:
        return rows_of(dict.fromkeys([*(profile.methods or suite.methods), *extra_methods]))
    rows = rows_of(dict.fromkeys([*suite.methods, *extra_methods]))
    everything = list({row.id: row for row in [*rows_of(sorted(METHODS)), *rows]}.values())
    everything.sort(key=lambda row: row not in rows)  # the suite's own first, in their order
    names = list(dict.fromkeys([r.id for r in everything] + [r.method for r in everything]))
    chosen = choose("method", methods, names)
    ids = {row.id for row in everything}
    # the name of a method stands for all its rows, unless it is the name of one of them
    return [r for r in everything if r.id in chosen or (r.method in chosen and r.method not in ids)]


def why_not(
    cls: type[Method], settings: Mapping[str, Any], architecture: str, dataset: str
) -> str | None:
    """Why a method cannot train an architecture on a dataset, or None."""
    task = bare_task(dataset)
    reason = ARCHITECTURES[architecture].refuse(task)
    if reason is not None:
        return reason
    try:
        config = resolve_config(cls, settings)
        with torch.device("meta"):  # shapes without memory
            blocks = ARCHITECTURES[architecture].blocks(task, cls.style(config))
        return cls.refuse(blocks, task, config)
    except Exception as error:  # a third party's code; its author needs the place
        raise RequestError(
            f"method {cls.name!r} cannot be asked whether it can train {architecture} "
            f"({type(error).__name__}: {error}); `python -m suites.check` helps to find out why"
        ) from error


def _describe(row: Row) -> dict[str, Any]:
    cls = METHODS[row.method]
    return {
        "id": row.id,
        "label": row.label,
        "method": row.method,
        "source": cls.source,
        "readout": cls.traits.readouts[0],
        "readouts": list(cls.traits.readouts),
        "local": cls.traits.local_updates,
        "feedback": cls.traits.feedback,
        "description": (inspect.getdoc(cls) or "").partition("\n")[0],
        "equations": (inspect.getdoc(sys.modules[cls.__module__]) or "").strip(),
        "differs": departures(cls),
    }


def departures(cls: type[Method]) -> list[str]:
    """The `Differs:` notes of a method's file: what departs from its paper, one line each.

    Those of another method in the same file are left out.
    """
    source = inspect.getsource(sys.modules[cls.__module__])
    for other in METHODS.values():
        if other.__module__ == cls.__module__ and other not in cls.__mro__:
            source = source.replace(inspect.getsource(other), "")
    found = re.findall(r"^ *Differs: ((?:.+\n)(?: {6,}.+\n)*)", source, flags=re.MULTILINE)
    return [" ".join(note.split()) for note in found]
