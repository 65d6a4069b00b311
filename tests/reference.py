"""The reference results and the sources that made them.

    python -m tests.reference                after a change that alters numbers
    python -m tests.reference hashes FILE    when the rule of the hash changes (sources.py)
    python -m tests.reference translate OLD NEW

A page marks what was made by older sources than those of its plan, and no run rewrites these plans:
the first command tells them what today's sources are.

Where the rule changes, old hashes say nothing. In a checkout of the commit before, `hashes` writes
what the cells have by the old rule; there again, with the new sources.py put in, what they have by
the new one. `translate` replaces one by the other in records, plans and tuned settings.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from results import Store
from suites.engine.cell import Cell, Protocol
from suites.engine.plugins import load_methods

STORE = Store(Path(__file__).parent.parent / "results" / "reference")


def todays_sources(record: dict[str, Any]) -> str:
    """The `code_sha` that the cell of a record would have today; "" where none can be the same."""
    cell = record["cell"]
    fields = {field.name for field in dataclasses.fields(Protocol)}
    protocol = Protocol(**{k: v for k, v in cell["protocol"].items() if k in fields})
    names = ("method", "config", "architecture", "dataset")
    try:
        now = Cell.of(*(cell[name] for name in names), protocol, cell["seed"], cell["kind"])
    except ValueError:  # a setting that is no more
        return ""
    return now.code_sha() if now.key == record["key"] else ""


def outdated() -> dict[str, dict[str, str]]:
    """Suite -> key -> today's sources, of the cells whose plan says otherwise."""
    load_methods([])
    found: dict[str, dict[str, str]] = {}
    for suite in sorted(path.stem for path in STORE.plans_dir.glob("*.json")):
        cells = (STORE.read_plan(suite) or {})["cells"]
        said = {cell["key"]: cell["code_sha"] for cell in cells}
        records = STORE.read(said).records
        today = {key: todays_sources(record) for key, record in records.items()}
        found[suite] = {key: sha for key, sha in today.items() if sha != said[key]}
    return {suite: cells for suite, cells in found.items() if cells}


def tell_plans() -> None:
    """Puts today's sources into the plans."""
    for suite, cells in outdated().items():
        plan = STORE.read_plan(suite)
        assert plan is not None
        for cell in plan["cells"]:
            cell["code_sha"] = cells.get(cell["key"], cell["code_sha"])
        STORE.write_plan(plan)
        print(f"{suite}: {len(cells)} cells are of other sources than the plan said")


def hashes() -> dict[str, str]:
    """Key -> hash of the sources by the rule at hand, of all records whose cell there is today."""
    load_methods([])
    keys = [path.stem for path in STORE.records_dir.glob("*.json")]
    found = {k: todays_sources(record) for k, record in STORE.read(keys).records.items()}
    return {key: sha for key, sha in sorted(found.items()) if sha}


def translate(old: dict[str, str], new: dict[str, str]) -> int:
    """Replaces hashes by those of another rule; returns the number of files that this changed.

    Raises:
        ValueError: what is one hash by one rule are two by the other, which says more or less.
    """
    pairs = {(old[key], new[key]) for key in old.keys() & new.keys()}
    other = dict(pairs)
    if not len(pairs) == len(other) == len({after for _, after in pairs}):
        raise ValueError("the rules tell other sources apart: there is no translation")
    n = 0
    tuned = (STORE.root.parent / "tuned").glob("*.json")
    for path in [*STORE.records_dir.glob("*.json"), *STORE.plans_dir.glob("*.json"), *tuned]:
        text = path.read_text(encoding="utf-8")
        after = re.sub(
            r'(?<="code_sha": ")[0-9a-f]{16}(?=")', lambda m: other.get(m[0], m[0]), text
        )
        n += after != text
        path.write_text(after, encoding="utf-8")
    return n


def main(arguments: list[str]) -> None:
    match arguments:
        case []:
            tell_plans()
        case ["hashes", file]:
            Path(file).write_text(json.dumps(hashes(), indent=1), encoding="utf-8")
        case ["translate", old, new]:
            n = translate(*(json.loads(Path(f).read_text(encoding="utf-8")) for f in (old, new)))
            print(f"{n} files have other hashes now")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
