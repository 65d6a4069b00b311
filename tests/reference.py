"""python -m tests.reference: tells the plans of the reference results what today's sources are.

A page marks what was made by older sources than those of its plan, and no run rewrites these plans:
so it is to be called after a change that alters numbers, see CONTRIBUTING.md.
"""

from __future__ import annotations

import dataclasses
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


def main() -> None:
    for suite, cells in outdated().items():
        plan = STORE.read_plan(suite)
        assert plan is not None
        for cell in plan["cells"]:
            cell["code_sha"] = cells.get(cell["key"], cell["code_sha"])
        STORE.write_plan(plan)
        print(f"{suite}: {len(cells)} cells are of other sources than the plan said")


if __name__ == "__main__":
    main()
