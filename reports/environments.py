"""On what the records were made: equal environments are told once, with their number of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.table import Table

# What may move a number. Host names and job ids may not, so they do not split a group.
_FIELDS = (
    ("os", "system"),
    ("cpu", "processor"),
    ("threads", "threads"),
    ("gpu", "GPU"),
    ("driver", "driver"),
    ("cuda", "CUDA"),
    ("python", "Python"),
    ("deterministic", "deterministic kernels"),
)


@dataclass(frozen=True)
class Environment:
    """One kind of machine and software: facts as (name, text), and how many records it made."""

    facts: tuple[tuple[str, str], ...]
    n_records: int
    hosts: tuple[str, ...]


def grouped(table: Table) -> list[Environment]:
    """The environments of all records of the table, the one with most records first."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    facts_of: dict[int, tuple[tuple[str, str], ...]] = {}  # equal ones are mostly one object
    for _, _, run in table.runs:
        if run.record:
            environment = run.record["environment"]
            if id(environment) not in facts_of:
                facts_of[id(environment)] = _facts(environment)
            host = str(environment.get("host") or "?")
            groups.setdefault(facts_of[id(environment)], []).append(host)
    found = [
        Environment(facts, len(hosts), tuple(sorted(set(hosts)))) for facts, hosts in groups.items()
    ]
    return sorted(found, key=lambda e: (-e.n_records, e.facts))


def _facts(environment: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = []
    for name, label in _FIELDS:
        value = environment.get(name)
        if value is not None:
            text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
            facts.append((label, text))
    commit = environment.get("git_commit")
    if commit:
        dirty = ", with uncommitted changes" if environment.get("git_dirty") else ""
        facts.append(("sources", f"commit {str(commit)[:12]}{dirty}"))
    packages = environment.get("packages") or {}
    if packages:
        listed = ", ".join(f"{name}\u00a0{packages[name]}" for name in sorted(packages))
        facts.append(("packages", listed))
    return tuple(facts)
