"""python -m suites.status SUITE: what is done, running, failed and missing.

It reads the plan stored by the last `suites.run` of that suite and the records; it runs nothing.
Exit status: 0 every cell is ok, 1 some are not yet or failed, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as TextTable

from results.record import RecordError
from results.store import Plan, Store, Summary
from suites.run import SUITES, Parser, exit_with, fail
from suites.suite import RequestError, choose


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    p = Parser(
        prog="python -m suites.status",
        description="Shows, for the last request of a suite, what is done, running, failed and "
        "missing. Reads only; safe to call while a run is under way.",
        epilog="example:\n  python -m suites.status table1 --results-dir results/runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("suite", help=f"one of: {', '.join(SUITES)}")
    p.add_argument("--results-dir", type=Path, default=Path("results/runs"), metavar="DIR",
                   help="store of records (default: results/runs)")  # fmt: skip
    args = p.parse_args(arguments)
    store = Store(args.results_dir)
    try:
        name = choose("suite", [args.suite], list(SUITES))[0]
        plan = store.read_plan(name)
    except (RequestError, RecordError) as error:
        fail(str(error))
    if plan is None:
        fail(
            f"no request of {name!r} is stored in {store.root}; start one with "
            f"`python -m suites.run {name}`, or point --results-dir elsewhere"
        )
    return show(plan, store, Console(soft_wrap=True))


def show(plan: Plan, store: Store, console: Console) -> int:
    """Prints the state of every (row, column) and every failure; returns the exit status."""
    summary = store.read(cell["key"] for cell in plan["cells"])
    for line in summary.unreadable:
        sys.stderr.write(f"warning: unreadable record set aside: {line}\n")
    live = store.live()
    states: dict[tuple[str, str], Counter[str]] = {}
    for cell in plan["cells"]:
        place = states.setdefault((cell["row"], cell["column"]), Counter())
        place[_state(cell, summary, live)] += 1
    legend = "stale: made by older sources" if any(c["stale"] for c in states.values()) else None
    table = TextTable(title=f"{plan['suite']}, profile {plan['profile']}: {plan['command']}",
                      title_justify="left", caption=legend,
                      caption_justify="left")  # fmt: skip
    table.add_column("")
    for column in plan["columns"]:
        table.add_column(column["id"])
    gaps = {(gap["row"], gap["column"]) for gap in plan["unsupported"]}
    for row in plan["rows"]:
        texts = []
        for column in plan["columns"]:
            where = (row["id"], column["id"])
            counts = states.get(where, Counter())
            texts.append(
                "cannot" if where in gaps else ", ".join(f"{n} {s}" for s, n in counts.items())
            )
        table.add_row(row["label"], *texts)
    console.print(table, markup=False)
    for key, sign in live.items():
        if any(cell["key"] == key for cell in plan["cells"]) and "step" in sign:
            console.print(f"running: {sign['cell']}: epoch {sign['epoch']} of {sign['epochs']} "
                          f"on {sign['host']}", markup=False, highlight=False)  # fmt: skip
    for record in summary.records.values():
        if record["status"] != "ok":
            console.print(
                f"{record['status']}: {record['cell']['method']} on {record['cell']['dataset']}/"
                f"{record['cell']['architecture']}, seed {record['cell']['seed']}: "
                f"{record['reason']}",
                markup=False,
                highlight=False,
            )
    total = sum(states.values(), Counter())
    n_ok = total["ok"] + total["stale"]
    console.print(f"{n_ok} of {len(plan['cells'])} cells ok", highlight=False)
    return 0 if n_ok == len(plan["cells"]) else 1


def _state(cell: dict[str, str], summary: Summary, live: dict[str, dict[str, object]]) -> str:
    record = summary.records.get(cell["key"])
    if record is not None and record["status"] == "ok":
        return "ok" if record["code_sha"] == cell["code_sha"] else "stale"
    if cell["key"] in live:
        return "running"
    return record["status"] if record is not None else "missing"


if __name__ == "__main__":
    exit_with(main)
