"""python -m suites.status SUITE: what is done, running, queued, failed and missing.

It reads the plan stored by the last request of that suite, the records, and the queue where the
suite was submitted to a cluster; it runs nothing. Exit status: 0 every cell is ok, 1 some are not
yet or failed, 2 the request is wrong.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from reports.formatting import plural
from reports.plan import PlanError, check_plan
from results.record import FINAL, Record, seconds_taken
from results.store import Plan, Store
from slurm import queue
from slurm.arrays import Arrays, alive
from slurm.queue import Entry, SlurmError
from suites.command import Parser, add_results_dir, exit_with, fail, stored_plan
from suites.show import print_in_parts

FIELDS = (
    "status",
    "reason",
    "code_sha",
    "cell",
    "timings",
    "error",
    "log",
    "key",
    "started_at",
    "finished_at",
)
LINES = 3  # of what a failed cell left behind


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    p = Parser(
        prog="python -m suites.status",
        description="Shows, for the last request of a suite, what is done, running, queued, "
        "failed and missing. Reads only; safe to call while a run is under way.",
        epilog="states:\n"
        "  ok, failed, diverged, oom    on record\n"
        "  stale                        on record, made by older sources\n"
        "  killed, timeout              on record; the same request tries again\n"
        "  running, queued              at work; waiting for its turn in a job\n"
        "  interrupted                  has a checkpoint; the same request goes on from there\n"
        "  missing                      not begun\n"
        "  cannot                       the method refuses this network\n\n"
        "exit status: 0 every cell is ok, 1 some are not, 2 the request is wrong\n\n"
        "example:\n  python -m suites.status table1 --results-dir results/runs",
    )
    p.add_argument("suite", help="the suite of a request, as in `suites.run`")
    add_results_dir(p)
    args = p.parse_args(arguments)
    store = Store(args.results_dir)
    plan = stored_plan(store, args.suite)
    try:
        check_plan(plan)
    except PlanError as error:
        fail(str(error))
    return show(plan, store, Console(soft_wrap=True))


@dataclass
class Jobs:
    """The jobs of a suite on a cluster.

    Attributes:
        keys: cells of jobs in the queue -> their entry.
        others: jobs in the queue of earlier requests of the suite, with none of these cells.
        gpu_hours, hours: what all jobs have taken so far; the latter of jobs, whatever they had.
        trouble: why the queue cannot be looked at, where it cannot.
    """

    keys: dict[str, Entry] = field(default_factory=dict)
    others: int = 0
    hours: float = 0.0
    gpu_hours: float = 0.0
    gpus: int = 0  # of a job of the last array
    side_by_side: int = 1  # cells of such a job
    submitted: bool = False
    trouble: str | None = None


def jobs_known(store: Store, suite: str, wanted: set[str]) -> Jobs:
    """What the arrays of a suite and the queue say; Slurm is asked once for all of them."""
    folder = Arrays(store.root.resolve() / "slurm")
    try:
        everything = folder.read()
    except SlurmError as error:
        return Jobs(submitted=True, trouble=str(error))
    arrays = [array for array in everything if array.about["suite"] == suite]
    found = Jobs(submitted=bool(arrays))
    for array in arrays:
        shifts = itertools.chain.from_iterable(array.shifts().values())
        hours = sum(shift["seen"] - shift["started"] for shift in shifts) / 3600
        found.hours += hours
        found.gpu_hours += hours * array.gpus
        found.gpus, found.side_by_side = array.gpus, array.about["side_by_side"]
    # those of other suites may have cells of this one
    waiting = [array for array in everything if array.is_open]
    if not waiting:
        return found
    if not queue.here():
        found.trouble = "jobs were submitted, but there is no squeue here to ask how they are"
        return found
    try:
        entries = folder.entries(waiting)
    except SlurmError as error:
        found.trouble = f"the queue cannot be looked at: {error}"
        return found
    found.keys = {key: entry for key, entry in alive(waiting, entries).items() if key in wanted}
    mine = {array.name for array in arrays}
    known = {(entry.name, entry.task) for entry in found.keys.values()}
    found.others = sum(
        entry.alive and entry.name in mine and place not in known
        for place, entry in entries.items()
    )
    return found


def show(plan: Plan, store: Store, console: Console) -> int:
    """Prints the state of every (row, column) and every failure; returns the exit status."""
    audits = {a["key"]: a for a in plan.get("audits") or ()} if plan.get("audited") else {}
    keys = {cell["key"] for cell in plan["cells"]} | audits.keys()
    summary = store.read(keys, fields=FIELDS)
    for line in summary.unreadable:
        sys.stderr.write(f"warning: unreadable record: {line}\n")
    live = store.live()
    jobs = jobs_known(store, plan["suite"], keys)
    saved = store.saved()
    states: dict[tuple[str, str], Counter[str]] = {}
    for cell in plan["cells"]:
        place = states.setdefault((cell["row"], cell["column"]), Counter())
        place[_state(cell, summary.records, live, jobs, saved)] += 1
    _show_table(plan, states, console)
    for key, sign in live.items():
        if key in keys and "step" in sign:
            console.print(f"running: {sign['cell']}: epoch {sign['epoch']} of {sign['epochs']} "
                          f"on {sign['host']}", markup=False, highlight=False)  # fmt: skip
    for key, record in summary.records.items():
        again = record["status"] not in FINAL and (key in live or key in jobs.keys)
        if record["status"] != "ok" and not again:
            _show_failure(record, store, console)
    total = sum(states.values(), Counter())
    n_ok = total["ok"] + total["stale"]
    console.print(_counts_text(total, f"{len(plan['cells'])} cells"), highlight=False)
    found = Counter(_state(a, summary.records, live, jobs, saved) for a in audits.values())
    audited = found["ok"] + found["stale"]
    if audits:
        console.print(_counts_text(found, plural(len(audits), "audit")), highlight=False)
    if jobs.keys:
        console.print(_queue_text(jobs), markup=False, highlight=False)
    if jobs.others:
        console.print(
            f"{plural(jobs.others, 'job')} of earlier requests in the queue, which suites.cancel "
            "takes out, too", highlight=False,
        )  # fmt: skip
    if jobs.trouble:
        console.print(jobs.trouble, markup=False, highlight=False)
    if jobs.submitted:
        _show_hours(plan, summary.records, jobs, console)
    return 0 if n_ok + audited == len(plan["cells"]) + len(audits) else 1


def _show_table(
    plan: Plan, states: Mapping[tuple[str, str], Counter[str]], console: Console
) -> None:
    legend = "stale: made by older sources" if any(c["stale"] for c in states.values()) else None
    gaps = {(gap["row"], gap["column"]) for gap in plan["unsupported"]}

    def text(row: str, column: str) -> str:
        counts = states.get((row, column), Counter())
        return (
            "cannot" if (row, column) in gaps else ", ".join(f"{n} {s}" for s, n in counts.items())
        )

    title = f"{plan['suite']}, profile {plan['profile']}: {plan['command']}"
    columns = {
        # the name of a data set over that of the network, as in the table of results
        column["id"].replace("/", "\n", 1): [text(row["id"], column["id"]) for row in plan["rows"]]
        for column in plan["columns"]
    }
    print_in_parts(console, title, [row["label"] for row in plan["rows"]], columns)
    if legend:
        console.print(legend, highlight=False)


def _state(
    cell: Mapping[str, str],
    records: Mapping[str, Record],
    live: Mapping[str, Any],
    jobs: Jobs,
    saved: set[str],
) -> str:
    record, key = records.get(cell["key"]), cell["key"]
    if record is not None and record["status"] == "ok":
        return "ok" if record["code_sha"] == cell["code_sha"] else "stale"
    if record is not None and record["status"] in FINAL:
        return str(record["status"])
    if key in live:
        return "running"
    if key in jobs.keys:
        return "queued"
    if record is not None:
        return str(record["status"])
    return "interrupted" if {key, cell.get("begins")} & saved else "missing"


def _show_failure(record: Record, store: Store, console: Console) -> None:
    """What became of a cell, its last words, and where there are more."""
    cell = record["cell"]
    console.print(
        f"{record['status']}: {cell['method']} on {cell['dataset']}/{cell['architecture']}, "
        f"seed {cell['seed']}: {record['reason']}",
        markup=False,
        highlight=False,
    )
    for line in (record.get("error") or "").splitlines()[-LINES:]:
        console.print(f"    {line}", markup=False, highlight=False, style="dim")
    log = store.root / (record.get("log") or "")
    if log.is_file():
        console.print(f"    log: {log}", markup=False, highlight=False, style="dim")


def _counts_text(states: Counter[str], all_of_them: str) -> str:
    """'38 of 42 cells ok, 3 missing, 1 failed'; stale ones are ok as well."""
    parts = [f"{states['ok'] + states['stale']} of {all_of_them} ok"]
    parts += [f"{n} {state}" for state, n in states.items() if state not in ("ok", "stale")]
    return ", ".join(parts)


def _queue_text(jobs: Jobs) -> str:
    """How many jobs run and wait, and for what: "3 jobs running, 40 waiting (Priority)"."""
    entries = {(entry.name, entry.task): entry for entry in jobs.keys.values()}.values()
    waiting = Counter(entry.reason for entry in entries if entry.waiting)
    parts = [f"{plural(len(entries) - waiting.total(), 'job')} running"]
    parts += [f"{n} waiting ({reason})" for reason, n in waiting.most_common()]
    text = "in the queue: " + ", ".join(parts)
    if any(entry.stuck for entry in entries):
        text += "; some will not start without your help, by scontrol or suites.cancel"
    return text


def _show_hours(plan: Plan, records: Mapping[str, Record], jobs: Jobs, console: Console) -> None:
    """What the cluster has spent, and what is left by the cells that are on record."""
    places = {cell["key"]: (cell["row"], cell["column"]) for cell in plan["cells"]}
    records = {key: record for key, record in records.items() if key in places}
    took: dict[tuple[str, str], list[float]] = {}
    for key, record in records.items():
        if record["status"] == "ok":
            took.setdefault(places[key], []).append(seconds_taken(record) / 3600)
    middle = {place: statistics.median(hours) for place, hours in took.items()}
    left = [p for k, p in places.items() if records.get(k, {}).get("status") not in FINAL]
    unit = "GPU-hours" if jobs.gpus else "hours"
    factor = max(1, jobs.gpus) / jobs.side_by_side
    spent = jobs.gpu_hours if jobs.gpus else jobs.hours
    text = f"{spent:.1f} {unit} of jobs spent"
    if left and middle:
        typical = statistics.median(middle.values())
        hours = sum(middle.get(place, typical) for place in left) * factor
        known = sum(place in middle for place in left)
        text += f", about {hours:.1f} left"
        if known < len(left):
            text += f" ({len(left) - known} cells have no finished one of their kind to go by)"
    console.print(text, highlight=False)


if __name__ == "__main__":
    exit_with(main)
