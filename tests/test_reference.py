"""The committed reference results: whole, readable, and what the README says of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from reports.build import read
from reports.differences import difference
from reports.formatting import signed
from reports.markdown import render
from results import Store
from results.published import published
from suites import options, run, tune
from tests import reference

ROOT = Path(__file__).parent.parent
STORE = Store(ROOT / "results" / "reference")
KEYS = sorted(path.stem for path in STORE.records_dir.glob("*.json"))
PLANS = {path.stem: STORE.read_plan(path.stem) for path in STORE.plans_dir.glob("*.json")}
UNFINISHED: set[str] = set()  # whose README says how far it is


def keys_of(*suites: str) -> set[str]:
    return {cell["key"] for name in suites for cell in (PLANS[name] or {})["cells"]}


POINTS = keys_of(*PLANS.keys() & {"table1-tune"})  # of a tuning: its page has them all
TABLES = PLANS.keys() & {"table1"}  # the README has them as built, and not record by record


def test_there_are_some_and_a_plan_asks_for_each() -> None:
    assert set(KEYS) != set()
    assert set(KEYS) <= keys_of(*PLANS)
    assert keys_of(*PLANS.keys() - UNFINISHED) <= set(KEYS)


def test_their_plans_know_todays_sources() -> None:
    """Else their pages would show what other sources have made as today's."""
    assert reference.outdated() == {}, "call `python -m tests.reference`, and commit the plans"


@pytest.mark.parametrize("suite", sorted(PLANS))
def test_their_commands_still_ask_for_these_cells(suite: str) -> None:
    """A page prints them, cell by cell, for who wants to run one again.

    Of a tuning, this also holds the points: a field that pushed others aside would move them.
    """
    plan = PLANS[suite]
    assert plan is not None
    _, _, module, *words = shlex.split(plan["command"])
    parser, resolve = {
        "suites.run": (run.parser, options.resolve), "suites.tune": (tune.parser, tune.resolve),
    }[module]  # fmt: skip
    request = resolve(parser().parse_args(words), plan["command"], [], "cpu")
    assert {cell["key"] for cell in plan["cells"]} <= {w.cell.key for w in request.wanted}


@pytest.mark.parametrize("key", KEYS)
def test_a_reference_record_says_how_it_was_made(key: str) -> None:
    record = STORE.read([key]).records[key]  # which checks that the key is the hash of the cell
    if key in POINTS and record["status"] == "diverged":  # an answer, too
        return
    assert record["status"] == "ok" and record["metrics"]["test"]
    assert re.match(r"python -m suites\.(run|tune) ", record["command"])
    assert " /" not in record["command"]  # a folder of the machine that made it
    assert record["environment"]["cpu"] and record["environment"]["packages"]["torch"]
    assert record["environment"]["git_commit"] and not record["environment"]["git_dirty"]


def test_a_table_is_the_one_that_its_command_builds() -> None:
    text = (STORE.root / "README.md").read_text(encoding="utf-8")
    for suite in TABLES - UNFINISHED:
        built, *_ = render(read(suite, STORE, published)).split("\n\n")
        assert built in text
        assert f"python -m reports.build {suite} --results-dir results/reference" in text


# names in the table of differences -> row, readout; backprop's is its only one
SIDES = {
    "backprop": ("backprop", "last"),
    "Mono-Forward": ("mono-forward", "last"),
    "Mono-Forward (cosine)": ("mono-forward-cosine", "last"),
    "HFF": ("hff", "last"),
    "greedy local (predsim)": ("greedy-predsim", "last"),
    "Forward-Forward": ("ff", "goodness"),
    "NoProp-DT, sampled": ("noprop", "sampled"),
    "NoProp-DT, mean": ("noprop", "mean"),
    "backprop through its blocks, mean": ("noprop-backprop", "mean"),
    "uSF": ("usf", "last"),
    "feedback alignment": ("fa", "last"),
    "DFA": ("dfa", "last"),
}


def test_the_differences_that_the_text_tells_are_those_of_the_records() -> None:
    plan = PLANS["table1"]
    assert plan is not None
    records = STORE.read(cell["key"] for cell in plan["cells"]).records
    text = (STORE.root / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (.+) \u2212 (.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    assert len(lines) == 10
    for one, other, told in lines:
        found = []
        for column in plan["columns"]:
            sides: list[dict[int, float]] = [{}, {}]
            for side, (row, readout) in zip(sides, (SIDES[other], SIDES[one]), strict=True):
                for cell in plan["cells"]:
                    if (cell["row"], cell["column"]) == (row, column["id"]):
                        metrics = records[cell["key"]]["metrics"]["test"][readout]
                        side[cell["seed"]] = metrics["accuracy_pct"]
            d = difference(*sides, step=0.01)
            found.append(f"{signed(d.mean, 2)} \u00b1 {d.half_width:.2f}" if d else "")
        assert [text.strip() for text in told.split("|")] == found, one


@pytest.mark.parametrize("key", sorted(set(KEYS) - POINTS - keys_of(*TABLES)))
def test_the_table_beside_them_tells_their_numbers(key: str) -> None:
    """A line of results/reference/README.md names each record, with its headline."""
    record = STORE.read([key]).records[key]
    accuracy = next(iter(record["metrics"]["test"].values()))["accuracy_pct"]
    text = (STORE.root / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^.*\b{key}\b.*$", text, flags=re.MULTILINE)
    assert f"| {accuracy:.2f} |" in line
