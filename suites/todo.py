"""The cells of a request beside what is on record: which are left, and the jobs that run them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from reports.formatting import plural
from results.record import FINAL, RecordError
from results.store import HEAD, Store
from suites.engine.trial import Job
from suites.request import Request, Wanted

STALE = (
    "{} of those on record were made by older sources: they are shown as stale (\u2020, and by "
    "--dry-run); `--fresh --only KEY ...` trains some of a request again, `--fresh` all of it"
)


def once(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Each cell once: two places of a table may be one."""
    return list({w.cell.key: w for w in wanted}.values())


def cells_text(request: Request) -> str:
    """ "57 cells", or "50 cells in 57 places"."""
    n_places, n_cells = len(request.wanted), len(once(request.wanted))
    return plural(n_cells, "cell") + (f" in {n_places} places" if n_cells < n_places else "")


def remaining(request: Request, store: Store, fresh: bool = False) -> tuple[list[Wanted], set[str]]:
    """The wanted cells that have no finished record, each once, and the keys of stale records.

    Unreadable records count as none, with a warning.

    Args:
        fresh: records do not count.
    """
    summary = store.read((w.cell.key for w in request.wanted), fields=HEAD)
    for line in summary.unreadable:
        sys.stderr.write(f"warning: unreadable record: {line}\n")
    cells = once(request.wanted)
    if fresh:
        return cells, set()
    todo, stale = [], set()
    for wanted in cells:
        record = summary.records.get(wanted.cell.key)
        if record is None or record["status"] not in FINAL:
            todo.append(wanted)
        elif record["code_sha"] != wanted.cell.code_sha():
            stale.add(wanted.cell.key)
    return todo, stale


def store_plan(request: Request, store: Store) -> str:
    """Stores what is asked for; a note where a request with other cells is no more the last one."""
    try:
        before = store.read_plan(request.plan["suite"])
    except RecordError:
        before = None  # nobody could have read it
    store.write_plan(request.plan)
    left = {cell["key"] for cell in (before or {}).get("cells", ())}
    left -= {cell["key"] for cell in request.plan["cells"]}
    if not before or not left or before["command"] == request.plan["command"]:
        return ""  # or a method's file was mended, which is no other request
    return (
        f"`reports.build` makes the page of this request from now on; the one before, with "
        f"{plural(len(left), 'other cell')}, was: {before['command']}"
    )


def not_ok(request: Request, store: Store) -> list[str]:
    """A line for each wanted cell that is not ok: what it is, and what became of it."""
    records = store.read((w.cell.key for w in request.wanted), fields=HEAD).records
    lines = []
    for wanted in request.wanted:
        found = records.get(wanted.cell.key)
        if found is None or found["status"] != "ok":
            what = f"{found['status']}: {found['reason']}" if found else "no record"
            lines.append(f"not ok: {wanted}: {what}")
    return lines


def jobs_of(
    args: argparse.Namespace, request: Request, wanted: Sequence[Wanted], device: str
) -> list[Job]:
    """The cells, each once, with all it takes to run them."""
    return [
        Job(
            cell=w.cell,
            label=str(w),
            suite=request.suite.name,
            profile=request.profile,
            command=request.plan["command"],
            results_dir=args.results_dir,
            data_dir=args.data_dir,
            weights=args.weights,
            device=device,
            checkpoint_s=args.checkpoint_every,
            ranks=args.ranks if w.cell.kind == "train" else 1,
            told="val" if request.suite.headline["split"] == "val" else "test",
        )
        for w in once(wanted)
    ]
