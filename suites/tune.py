"""python -m suites.tune SUITE: the same tuning budget for every method of a table.

Exit status: 0 every point was tried (a point that diverged is an answer), 1 some failed or are not
on record, 2 the request itself is wrong and nothing was run, 130 interrupted (the same command goes
on).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from reports.formatting import plural
from reports.plan import TUNING
from reports.tuning import KIND, Tuning, tunings
from results import tuned
from results.store import Store
from results.tuned import Chosen
from slurm import site
from suites import options, points
from suites.catalogue import SUITES
from suites.command import Parser, exit_with
from suites.engine.cell import Cell
from suites.request import MOST_CELLS, Request, Wanted
from suites.run import add_launching, start
from suites.show import show_tuning
from suites.suite import RequestError, Row, Suite
from suites.todo import not_ok

POINTS = 8
SEED = 0
FILE = "tuned.json"  # in the folder of the report, where the user names no other

EXAMPLES = f"""\
examples:
  python -m suites.tune table1
      {POINTS} points for each method of the default profile, and a page; about ten minutes
  python -m suites.tune table1 --points 16 --methods backprop hff ff
      more points, some methods; the first {POINTS} are the same, and are not trained again
  python -m suites.tune table1 --epochs 5 --dry-run
      what would be tried: every point with its settings
  python -m suites.run table1 --tuned reports/out/table1{TUNING}/{FILE}
      the table with the chosen settings
  python -m suites.tune table1 --profile standard --data-dir ~/data --points 16 \\
          --write results/tuned/table1-standard.json
      tunes on real data; `standard` of table1 takes the settings from that file by itself
  python -m reports.build table1{TUNING}
      the page again, from what is on record by now

how it is done:
  Point 0 of every method is its default settings. The others are the same points of one Sobol
  sequence for all methods, scaled to the search space that each declares (its `space`). A point is
  a cell like any other, of seed {SEED}: it is kept, resumed and never trained twice. The best
  validation accuracy wins, the first of equal ones; the test set has no part in it. Points that
  diverge or fail are spent, too. Powers of two for N spread best.
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `suites.tune`."""
    p = Parser(
        prog="python -m suites.tune",
        description="Tunes every method of a suite with the same number of points, on the "
        "validation split, and writes a page, and a file of the chosen settings.",
        epilog=EXAMPLES,
    )
    what = options.add_places(p)
    what.add_argument(
        "--points", type=int, default=POINTS, metavar="N",
        help=f"the budget of each method on each dataset and network (default: {POINTS})",
    )  # fmt: skip
    p.set_defaults(sources=None, finetune=None, weights=None, seeds=None, audit=False, tuned=None)
    add_launching(options.add_how(p))
    options.add_where(p).add_argument(
        "--write", type=Path, metavar="FILE",
        help="put the chosen settings into FILE, where those of other places stay "
        f"(default: <report-dir>/<suite>{TUNING}/{FILE})",
    )  # fmt: skip
    site.add_flags(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "suites.tune", *arguments])
    return start(args, command, resolve, report)


# ------------------------------------------------------------------ from options to a request


def resolve(
    args: argparse.Namespace, command: str, extra_methods: Sequence[str], device: str
) -> Request:
    """The points that the arguments stand for. Raises RequestError, TunedError."""
    suite = options.suite_of(args)
    if suite.kind != "train":
        raise RequestError(f"tuning is for training, which {suite.name!r} is not about")
    if args.points < 2:
        raise RequestError(
            f"--points must be at least 2, not {args.points}: the first is the default settings"
        )
    check_file(target(args, suite), suite, asked=args.write is not None)
    profiles = {
        name: dataclasses.replace(profile, seeds=1, tuned=False)
        for name, profile in suite.profiles.items()
    }
    untuned = options.expanded(
        args, dataclasses.replace(suite, profiles=profiles), command, extra_methods, device
    )
    return tried(untuned, args.points, target(args, suite))


def target(args: argparse.Namespace, suite: Suite) -> Path:
    """The file that the chosen settings go to."""
    return Path(args.write or args.report_dir / f"{suite.name}{TUNING}" / FILE)


def check_file(path: Path, suite: Suite, asked: bool) -> None:
    """Proves that chosen settings can be put into a file, before anything is computed.

    Args:
        asked: it is the user's choice; the folder of the report is made by others.

    Raises:
        TunedError: what is there is something else.
        RequestError: it cannot be written.
    """
    if path.exists():
        tuned.for_suite(path, suite.name)
    if asked and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise RequestError(f"--write {path}: there is no folder {path.parent} to write to")


def tried(untuned: Request, n_points: int, file: Path) -> Request:
    """The request for n points of each place that a request has one cell for.

    Args:
        file: where the chosen settings will go, for the page.

    Raises:
        RequestError: a method declares no search space, or there is nothing to choose by.
    """
    n_cells = len(untuned.wanted) * n_points
    if n_cells > MOST_CELLS:
        raise RequestError(
            f"{n_cells} points asked for ({len(untuned.wanted)} pairs of method and column, "
            f"{n_points} points each); at most {MOST_CELLS} at a time"
        )
    columns = Counter((c["dataset"], c["architecture"]) for c in untuned.plan["columns"])
    if twice := [where for where, n in columns.items() if n > 1]:
        raise RequestError(
            f"{untuned.suite.name!r} has several protocols on {', '.join(twice[0])}: settings can "
            "be chosen for one only"
        )
    rows = {row.id: row for row in untuned.rows}
    spaces = {w.row: space_of(rows[w.row]) for w in untuned.wanted}
    wanted: list[Wanted] = []
    cells: list[dict[str, Any]] = []
    for place in untuned.wanted:
        if not place.cell.protocol.val_fraction:
            raise RequestError(
                f"{untuned.suite.name!r}, profile {untuned.profile!r}, keeps no images of "
                f"{place.column} for validation, so there is nothing to choose by"
            )
        row = rows[place.row]
        for number, settings in enumerate(
            points.settings(row.spaces(), n_points, row.settings, place.cell.config)
        ):
            cell = with_settings(place.cell, settings)
            wanted.append(Wanted(place.row, place.column, cell, number))
            cells.append(
                {
                    "key": cell.key, "row": place.row, "column": place.column, "seed": SEED,
                    "code_sha": cell.code_sha(), "point": number, "settings": settings,
                }
            )  # fmt: skip
    check_budget(wanted, n_points)
    # point by point, so that an unfinished sweep already shows every method
    wanted.sort(key=lambda w: w.point or 0)
    suite = dataclasses.replace(
        untuned.suite,
        name=untuned.suite.name + TUNING,
        title=f"Tuning for {untuned.suite.name}: the same budget for every method",
        headline={"split": "val", "metric": "accuracy_pct"},
    )
    plan = {
        **untuned.plan,
        "suite": suite.name,
        "title": suite.title,
        "kind": KIND,
        "headline": dict(suite.headline),
        "cells": cells,
        "tuning": {
            "of": untuned.suite.name,
            "points": n_points,
            "spaces": spaces,
            "file": str(file),
        },
        "audits": [],
        "comparisons": [],
    }
    once: dict[str, Wanted] = {}  # settings of few choices may come twice: one record is for both
    for w in wanted:
        once.setdefault(w.cell.key, w)
    return Request(suite, untuned.profile, tuple(once.values()), plan, untuned.rows)


def space_of(row: Row) -> dict[str, dict[str, Any]]:
    """What is tuned of a row, as data: field -> range, without what makes the row what it is.

    Raises:
        RequestError: its method declares nothing of the kind.
    """
    space = row.spaces()
    found = {name: values.as_dict() for name, values in space.items() if name not in row.settings}
    if not found:
        raise RequestError(
            f"method {row.id!r} declares no search space to tune it in: give its class one, as in "
            'space = {"lr": LogUniform(1e-4, 1e-2)} (CONTRIBUTING.md), or name others by --methods'
        )
    if len(space) > points.COLUMNS:
        raise RequestError(
            f"method {row.id!r} has {len(space)} fields in its search space; at most "
            f"{points.COLUMNS} can be tuned"
        )
    return found


def with_settings(cell: Cell, settings: Mapping[str, Any]) -> Cell:
    """The same cell with other hyper-parameters."""
    return Cell.of(
        cell.method, {**cell.config, **settings}, cell.architecture, cell.dataset, cell.protocol,
        SEED, cell.kind,
    )  # fmt: skip


def check_budget(wanted: Sequence[Wanted], n_points: int) -> None:
    """Checks what makes a tuning fair: as many points for each method on each column."""
    found = Counter((w.row, w.column) for w in wanted)
    unequal = {place: n for place, n in found.items() if n != n_points}
    if unequal:  # no `assert`, which `python -O` leaves out
        raise AssertionError(f"the budget is {n_points} points, but not for {unequal}")


# ---------------------------------------------------------------------- from records to a file


def report(args: argparse.Namespace, request: Request, store: Store, console: Console) -> int:
    """Builds the page, writes the chosen settings where all points are on record, and tells."""
    from reports import build as reports  # matplotlib: not needed before now
    from reports.tuning_page import with_chosen

    suite = SUITES[request.plan["tuning"]["of"]]
    path = target(args, suite)
    try:
        table, paths = reports.built(request.suite.name, store, args.report_dir, plan=request.plan)
        found = tunings(table)
        show_tuning(table, found, console)
        left = sum(t.counts["missing"] for t in found)
        if not left:
            tried = {(t.row.id, t.column.dataset, t.column.architecture) for t in found}
            tuned.merge(path, suite.name, chosen(found, request), tried)
            paths.append(path)
    except (reports.ReportError, tuned.TunedError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    lines = [line for line in not_ok(request, store) if ": diverged: " not in line]
    if left:
        lines.append(f"not on record: {plural(left, 'point')}; no settings were written")
    for t in found:
        if t.best is None and t.complete:
            lines.append(f"no point of {t.row.id} on {t.column.id} is ok: nothing is chosen there")
    for line in [*lines, *map(str, paths)]:
        console.print(line, markup=False, highlight=False)
    if not left and (command := with_chosen(request.plan, here=True)):
        console.print(f"the table with what was chosen: {command}", markup=False, highlight=False)
    return 1 if left or any(t.counts["failed"] for t in found) else 0


def chosen(found: Sequence[Tuning], request: Request) -> list[Chosen]:
    """The best point of each place, with where it comes from; none where no point is ok."""
    entries = []
    for t in found:
        if t.best is None or t.best.run.record is None or t.best.run.value is None:
            continue
        cell = t.best.run.record["cell"]
        entries.append(
            Chosen(
                row=t.row.id,
                dataset=t.column.dataset,
                architecture=t.column.architecture,
                settings=dict(t.best.settings),
                method=cell["method"],
                method_version=cell["method_version"],
                profile=request.profile,
                protocol=cell["protocol"],
                seed=SEED,
                point=t.best.number,
                points=len(t.points),
                ok=t.counts["ok"],
                diverged=t.counts["diverged"],
                failed=t.counts["failed"],
                val_accuracy_pct=t.best.run.value,
                untuned_val_accuracy_pct=t.untuned.run.value,
                key=t.best.run.key,
                code_sha=t.best.run.record["code_sha"],
                date=max(p.run.record["finished_at"] for p in t.points if p.run.record),
                command=request.plan["command"],
            )
        )
    return entries


if __name__ == "__main__":
    exit_with(main)
