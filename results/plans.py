"""Requests of one suite from several folders, as one: the union of what they ask for.

Plans are united where they agree in profile and headline, and in rows, columns, budgets and keys
that they share. Of what both have the newest is taken; it says, too, which sources are current.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.record import RecordError, canonical_json, moment
from results.store import Plan


def check_plan(plan: Plan, suite: str) -> None:
    """Raises RecordError unless every entry names its place."""
    if plan.get("suite") != suite:
        raise RecordError(f"it holds the plan of suite {plan.get('suite')!r}")
    fields = {
        "rows": ("id",), "columns": ("id",), "cells": ("key", "row", "column", "seed"),
        "unsupported": ("row", "column"), "budgets": ("row", "column"),
        "tuned": ("row", "column"),
        "audits": ("key", "row", "column"),
    }  # fmt: skip
    for name, wanted in fields.items():
        entries = plan.get(name) or []
        fine = isinstance(entries, list) and all(
            isinstance(entry, dict) and all(isinstance(entry.get(f), str | int) for f in wanted)
            for entry in entries
        )
        if not fine:
            raise RecordError(f"the plan of suite {suite!r} has broken {name!r}")
    published = plan.get("published") or []
    if not isinstance(published, list) or not all(isinstance(n, dict) for n in published):
        raise RecordError(f"the plan of suite {suite!r} has broken 'published'")
    left_out = plan.get("left_out") or []
    if not isinstance(left_out, list) or not all(isinstance(line, str) for line in left_out):
        raise RecordError(f"the plan of suite {suite!r} has broken 'left_out'")


def unite(plans: Sequence[Plan]) -> tuple[Plan, list[str]]:
    """One plan of one suite, from those of several folders; and what cannot be united, in lines.

    The plan has those lines, too, as "left_out", for its page.

    Args:
        plans: checked ones, in any order.
    """
    newest, *others = sorted(
        plans,
        key=lambda plan: (
            moment(str(plan.get("created_at"))), len(plan["cells"]), canonical_json(plan),
        ),
        reverse=True,
    )  # fmt: skip
    lines = []
    for other in others:
        if why := unlike(newest, other):
            lines.append(
                f"plan of {newest['suite']}: the request of {newest.get('created_at')} stays, that "
                f"of {other.get('created_at')} is left out ({why}); it was: {other.get('command')}"
            )
        else:
            newest = _union(newest, other)
    lines = list(dict.fromkeys(lines))
    if known := [line for plan in plans for line in plan.get("left_out") or ()] + lines:
        newest = {**newest, "left_out": sorted(set(known))}
    return newest, lines


def unlike(one: Plan, other: Plan) -> str | None:
    """Why two plans cannot share a table; None where they can."""
    for name in ("schema", "profile", "headline", "kind", "top5"):
        if one.get(name) != other.get(name):
            return f"{name} {_short(one.get(name))} and {_short(other.get(name))}"
    points = [(plan.get("tuning") or {}).get("points") for plan in (one, other)]
    if points[0] != points[1]:
        return f"{points[0]} and {points[1]} points of tuning"
    same = {"rows": ("method", "readout"), "columns": ("dataset", "architecture", "protocol")}
    for kind, names in same.items():
        mine = {entry["id"]: entry for entry in one[kind]}
        for entry in other[kind]:
            for name in names:
                if entry["id"] in mine and mine[entry["id"]].get(name) != entry.get(name):
                    return f"{entry['id']} has another {name}"
    shared = _places(one["cells"]) & _places(other["cells"])
    for name, what in (("budgets", "budget"), ("tuned", "tuning")):
        mine = {(b["row"], b["column"]): b for b in one.get(name) or ()}
        theirs = {(b["row"], b["column"]): b for b in other.get(name) or ()}
        for place in sorted(shared):
            if mine.get(place) != theirs.get(place):
                return f"{place[0]} on {place[1]} has another {what}"
    keys = {_of_run(cell): cell["key"] for cell in one["cells"]}
    for cell in other["cells"]:
        if keys.get(_of_run(cell)) not in (None, cell["key"]):
            return f"{cell['row']} on {cell['column']} has other settings"
    return None


def _union(newest: Plan, other: Plan) -> Plan:
    plan = dict(newest)
    for name in ("rows", "columns"):
        known = {entry["id"] for entry in newest[name]}
        plan[name] = [*newest[name], *(e for e in other[name] if e["id"] not in known)]
    refused = _places(newest.get("unsupported") or ())
    sources = {(c["row"], c["column"]): c.get("code_sha") for c in newest["cells"]}
    have = {_of_run(cell) for cell in newest["cells"]}
    plan["cells"] = list(newest["cells"])
    for cell in other["cells"]:
        place = (cell["row"], cell["column"])
        if _of_run(cell) not in have and place not in refused:
            current = {"code_sha": sources[place]} if place in sources else {}
            plan["cells"].append(cell | current)
    asked = _places(newest["cells"]) | refused
    for name in ("unsupported", "budgets", "tuned", "audits"):
        known = _places(newest.get(name) or ())
        taken = known | (asked if name != "audits" else set())
        added = [e for e in other.get(name) or () if (e["row"], e["column"]) not in taken]
        if added or name in newest:
            plan[name] = [*(newest.get(name) or ()), *added]
    if newest.get("tuning"):
        spaces = {**other["tuning"]["spaces"], **newest["tuning"]["spaces"]}
        plan["tuning"] = {**newest["tuning"], "spaces": spaces}
    pairs = newest.get("comparisons") or []
    if other.get("comparisons"):
        plan["comparisons"] = [*pairs, *(p for p in other["comparisons"] if p not in pairs)]
    numbers = newest.get("published") or []
    if other.get("published"):
        plan["published"] = [*numbers, *(n for n in other["published"] if n not in numbers)]
    commands = [line for p in (newest, other) for line in str(p.get("command") or "").splitlines()]
    plan["command"] = "\n".join(dict.fromkeys(commands))
    return plan


def _of_run(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """The place of one run: the points of a tuning share their seed."""
    return (cell["row"], cell["column"], cell["seed"], cell.get("point"))


def _places(entries: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(entry["row"], entry["column"]) for entry in entries}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
