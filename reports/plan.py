"""Checks a stored plan before it is laid out, so that a broken one is named and not a KeyError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAN_SCHEMA = 1

_LISTS = {
    "rows": ("id",),
    "columns": ("id", "dataset", "architecture"),
    "cells": ("key", "row", "column", "seed", "code_sha"),
    "unsupported": ("row", "column", "reason"),
}


# lists that a plan may have: what each entry must tell
_OPTIONAL = {
    "budgets": ("row", "column", "protocol"),
    "audits": ("key", "row", "column", "code_sha"),
    "tuned": ("row", "column", "points", "settings"),
}
KIND = "tune"  # of the plan of a tuning
TUNING = "-tune"  # at the end of the name under which the plan of a suite's tuning is stored


class PlanError(ValueError):
    """A stored plan that cannot be laid out; the message says which part."""


def asked_for_by(suite: str) -> str:
    """The command that a plan of this name comes from."""
    if suite.endswith(TUNING):
        return f"python -m suites.tune {suite.removesuffix(TUNING)}"
    return f"python -m suites.run {suite}"


def check_plan(plan: Mapping[str, Any]) -> None:
    """Raises PlanError unless every field that a report reads is there and refers to others."""
    schema = plan.get("schema")
    if not isinstance(schema, int):
        raise PlanError("the plan has no schema version")
    if schema > PLAN_SCHEMA:
        raise PlanError(
            f"the plan has schema {schema}, newer than {PLAN_SCHEMA}, the newest this version "
            "reads; update bpfree"
        )
    for name in ("suite", "title", "profile"):
        if not isinstance(plan.get(name), str):
            raise PlanError(f"the plan has no {name!r}")
    headline = plan.get("headline")
    if not isinstance(headline, Mapping) or not {"split", "metric"} <= headline.keys():
        raise PlanError("the plan has no 'headline' with 'split' and 'metric'")
    for name, fields in {**_LISTS, **_OPTIONAL}.items():
        entries = plan.get(name)
        if entries is None and name in _OPTIONAL:
            continue
        if not isinstance(entries, list):
            raise PlanError(f"the plan has no list {name!r}")
        for i, entry in enumerate(entries):
            missing = [f for f in fields if not isinstance(entry, Mapping) or f not in entry]
            if missing:
                raise PlanError(f"{name}[{i}] of the plan has no {missing[0]!r}")
    ids = {kind: {e["id"] for e in plan[kind]} for kind in ("rows", "columns")}
    for name in ("cells", "unsupported", *_OPTIONAL):
        for i, entry in enumerate(plan.get(name) or ()):
            for kind, known in (("row", ids["rows"]), ("column", ids["columns"])):
                if entry[kind] not in known:
                    raise PlanError(f"{name}[{i}] of the plan names an unknown {kind}")
