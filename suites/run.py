"""python -m suites.run SUITE: train the cells of a table that have no record yet, then report.

Exit status: 0 every cell is ok, 1 some cell is not (the report is still built), 2 the request
itself is wrong and nothing was run, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from rich.console import Console

from results.store import Store
from slurm import site
from suites import options, preflight
from suites.catalogue import SUITES
from suites.command import Parser, exit_with, fail
from suites.engine.trial import Job
from suites.launching import local
from suites.progress import Display
from suites.request import Request
from suites.show import show_dry_run, show_list, show_table
from suites.suite import RequestError
from suites.todo import STALE, cells_text, jobs_of, not_ok, once, remaining, store_plan

EXAMPLES = """\
examples:
  python -m suites.run table1
      the default: profile `quick`, embedded data, about five minutes on two CPU cores
  python -m suites.run table1 --methods hff ff --seeds 5
      two methods only, five seeds; what is on record already is not trained again
  python -m suites.run table1 --profile standard --datasets mnist --data-dir ~/data --download
      MNIST, fetched into ~/data first
  python -m suites.run table1 --plugin my_method.py
      one more row: the method that my_method.py registers (see CONTRIBUTING.md)
  python -m suites.run audit --plugin my_method.py --methods mine backprop
      how far the training signals of your method travel, measured
  python -m suites.run noprop-table1 --profile paper --data-dir ~/data
      the table of a paper under its own protocol
  python -m suites.run table1 --dry-run
      what would be trained

A run that was interrupted, by Ctrl-C or by the power cut, is continued by the same command.
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `suites.run`."""
    p = Parser(
        prog="python -m suites.run",
        description="Trains the cells of a suite that have no record yet and writes its report: "
        "an HTML page, a LaTeX table, a CSV file and figures.",
        epilog=EXAMPLES,
    )
    options.add_what(p)
    add_launching(options.add_how(p))
    options.add_where(p)
    site.add_flags(p)
    return p


def add_launching(how: argparse._ArgumentGroup) -> None:
    """Adds where cells are run, and side by side with how many others."""
    how.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="local: worker processes on this machine (the default); slurm: jobs of a cluster, "
        "which are submitted and followed",
    )
    how.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes side by side; the cores are divided between them "
        "(default: one per core, or one per GPU)",
    )
    how.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: cuda where there is one",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "suites.run", *arguments])
    return start(args, command, options.resolve, report)


Report = Callable[[argparse.Namespace, Request, Store, Console], int]


def start(args: argparse.Namespace, command: str, resolve: options.Resolve, report: Report) -> int:
    """Runs the cells that the arguments stand for, where they say; returns the exit status.

    Args:
        report: what is made of the records in the end; returns the exit status.
    """
    console = Console(stderr=False, soft_wrap=True)
    try:
        if args.launcher == "slurm":
            for name in ("workers", "device"):
                if getattr(args, name) not in (None, "auto"):
                    raise RequestError(
                        f"--{name} is for --launcher local; of a job on a cluster, --cpus, --gpus "
                        "and --side-by-side say what it gets"
                    )
            from suites import submit

            request, sweep = submit.prepare(args, command, console, resolve)
            if sweep is None:
                return 0
            submit.follow(sweep, console, args.fresh)
            return report(args, request, sweep.store, console)
        if used := site.flags_used(args):
            raise RequestError(f"{used[0]} is for jobs on a cluster: add --launcher slurm")
        extra = options.load(args)
        if args.list:
            show_list(console, SUITES)
            return 0
        device = preflight.check_device(args.device)
        request = options.narrowed(resolve(args, command, extra, device), args.only)
        preflight.check_interval(args)
        n_gpus = torch.cuda.device_count() if device == "cuda" else None
        preflight.check_ranks(args.ranks, request, n_gpus)
        preflight.check_workers(args.workers, request.suite)
        store = Store(args.results_dir)
        options.make_sample(args)
        if args.dry_run:
            todo, stale = remaining(request, store, args.fresh)
            show_dry_run(console, request, todo, stale)
            return 0
        preflight.check_writable(store, args.report_dir)
        sizes = preflight.check_data(request, store, args.data_dir, args.download, args.fresh)
        preflight.check_shares(args.ranks, request, sizes)
    except options.REFUSALS as error:
        fail(str(error))
    status = carry_out(args, request, store, device, console)
    return report(args, request, store, console) if status is None else status


def carry_out(
    args: argparse.Namespace, request: Request, store: Store, device: str, console: Console
) -> int | None:
    """Trains what has no record; returns the exit status where it was interrupted, else None."""
    if args.fresh:
        for wanted in request.wanted:
            store.supersede(wanted.cell.key)
    todo, stale = remaining(request, store)
    jobs = jobs_of(args, request, todo, device)
    n_cells = len(once(request.wanted))
    # From what was asked for, not from what is left: the number of threads of a worker follows
    # from it, and sums over threads round differently. So the same command gives the same bits.
    n_asked = max(len(request.wanted), len(request.plan["cells"]))  # --only runs some of them
    workers = args.workers or local.default_workers(device, n_asked, args.ranks)
    if request.suite.kind == "cost":
        workers = 1  # what runs beside it would be timed as well
    console.print(
        f"{request.suite.name}, profile {request.profile}: {cells_text(request)}, "
        f"{n_cells - len(jobs)} on record, {len(jobs)} to run{_begun(store, jobs)} on {device} "
        f"with {workers} "
        f"worker{'s' if workers > 1 else ''}"
        + (f" of {args.ranks} processes" if args.ranks > 1 else ""),
        highlight=False,
    )
    if stale:
        console.print(STALE.format(len(stale)), highlight=False)
    if note := store_plan(request, store):
        console.print(note, markup=False, highlight=False)
    if jobs:
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGHUP, _interrupt)  # the terminal is gone
        display = Display(console, jobs, store.live_dir)
        launcher = local.Launcher(workers, args.plugin, ranks=args.ranks)
        try:
            with display:
                launcher.run(jobs, display.end, display.tick)
        except KeyboardInterrupt:
            left = len(remaining(request, store)[0])
            if not left:
                console.print(
                    "interrupted; all cells are on record, and the same command writes the report",
                    highlight=False,
                )
                return 130
            console.print(
                f"interrupted: {n_cells - left} of {n_cells} cells are on "
                "record; the same command goes on with the others from where they were"
                + (" (without --fresh)" if args.fresh else ""),
                highlight=False,
            )
            return 130
    return None


def _begun(store: Store, jobs: Sequence[Job]) -> str:
    """How many of the cells have a checkpoint to go on from: " (2 of them begun)", or ""."""
    saved = store.saved()
    n = sum(job.cell.key in saved for job in jobs)
    return f" ({n} of them begun)" if n else ""


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def report(args: argparse.Namespace, request: Request, store: Store, console: Console) -> int:
    """Builds the report, prints where it is, returns 0 if every cell is ok, else 1."""
    from reports import build as reports  # matplotlib: not needed before now
    from reports.locality import contradictions

    try:
        # the plan at hand, not the stored one: another run may have written its own by now
        table, paths = reports.built(request.suite.name, store, args.report_dir, plan=request.plan)
        show_table(table, console, {w.cell.key for w in request.wanted} if args.only else ())
    except reports.ReportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    bad = not_ok(request, store)
    declared = [f"not as declared: {line}" for line in contradictions(table)]
    for line in [*bad, *declared, *map(str, paths)]:
        console.print(line, markup=False, highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    exit_with(main)
