"""The committed reference results: whole, readable, and what the README says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from results import Store

ROOT = Path(__file__).parent.parent
STORE = Store(ROOT / "results" / "reference")
KEYS = sorted(path.stem for path in STORE.records_dir.glob("*.json"))


def test_there_are_some_and_a_plan_asks_for_each() -> None:
    plans = [STORE.read_plan(path.stem) for path in STORE.plans_dir.glob("*.json")]
    wanted = {cell["key"] for plan in plans if plan is not None for cell in plan["cells"]}
    assert wanted == set(KEYS) != set()


@pytest.mark.parametrize("key", KEYS)
def test_a_reference_record_says_how_it_was_made(key: str) -> None:
    record = STORE.read([key]).records[key]  # which checks that the key is the hash of the cell
    assert record["status"] == "ok" and record["metrics"]["test"]
    assert record["command"].startswith("python -m suites.run ")
    assert record["environment"]["cpu"] and record["environment"]["packages"]["torch"]
    assert record["environment"]["git_commit"] and not record["environment"]["git_dirty"]


@pytest.mark.parametrize("key", KEYS)
def test_the_table_beside_them_tells_their_numbers(key: str) -> None:
    """A line of results/reference/README.md names each record, with its headline."""
    record = STORE.read([key]).records[key]
    accuracy = next(iter(record["metrics"]["test"].values()))["accuracy_pct"]
    text = (STORE.root / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^.*\b{key}\b.*$", text, flags=re.MULTILINE)
    assert f"| {accuracy:.2f} |" in line
