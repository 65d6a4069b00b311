"""python -m suites.submit SUITE: the cells of a table as jobs of a Slurm cluster.

It returns when the jobs are in the queue. Exit status: 0 submitted, or nothing was left to submit;
1 with --wait, some cell is not ok; 2 the request itself is wrong or Slurm refuses; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from reports.formatting import plural
from results.store import Store
from slurm import queue, site
from slurm.site import Site
from suites import options, preflight
from suites.catalogue import SUITES
from suites.cluster.packing import packs
from suites.cluster.sweep import Sweep, require
from suites.command import Parser, command_on, exit_with, fail
from suites.progress import Display
from suites.request import Request
from suites.show import show_dry_run, show_list
from suites.suite import RequestError
from suites.todo import STALE, cells_text, jobs_of, not_ok, remaining, store_plan

RETRIES = 2

EXAMPLES = """\
examples:
  python -m suites.submit table1 --profile standard --data-dir /data --site site.toml
      the cells that have no record and are not in the queue, as arrays of jobs; returns at once
  python -m suites.submit table1 --profile standard --data-dir /data --site site.toml --wait
      the same, and stays: shows what ends, submits again what was killed, until all is done
  python -m suites.status table1
      what is done, running, queued, failed and missing
  python -m suites.cancel table1
      takes the jobs out of the queue; checkpoints stay, and submitting again goes on
  python -m reports.build table1
      the page, from whatever is on record by now

The same command may be given again at any time, from any machine that sees the results directory:
nothing is trained twice. The site file says what your cluster wants; docs/slurm.md has one to copy.
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `suites.submit`."""
    p = Parser(
        prog="python -m suites.submit",
        description="Submits the cells of a suite that have no record yet as jobs of a Slurm "
        "cluster, and returns.",
        epilog=EXAMPLES,
    )
    options.add_what(p)
    how = options.add_how(p)
    how.add_argument(
        "--wait",
        action="store_true",
        help="follow the jobs, and submit again what was killed (Ctrl-C ends the following, not "
        "the jobs)",
    )
    options.add_where(p)
    site.add_flags(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(arguments)
    console = Console(stderr=False, soft_wrap=True)
    command = shlex.join(["python", "-m", "suites.submit", *arguments])
    try:
        request, sweep = prepare(args, command, console)
        if sweep is None:
            return 0
        if args.wait:
            follow(sweep, console, args.fresh)
            bad = not_ok(request, sweep.store)
            for line in bad:
                console.print(line, markup=False, highlight=False)
            return 1 if bad else 0
        sent = sweep.submit()
    except options.REFUSALS as error:
        fail(str(error))
    console.print(str(sent), highlight=False)
    console.print(
        f"`{command_on('suites.status', request.suite.name, args.results_dir)}` shows how they are",
        highlight=False,
    )
    return 0


def prepare(
    args: argparse.Namespace,
    command: str,
    console: Console,
    resolve: options.Resolve = options.resolve,
) -> tuple[Request, Sweep | None]:
    """The request, and its cells as a sweep; None where it was only to be shown.

    Raises:
        options.REFUSALS: it cannot be sent.
    """
    extra = options.load(args)
    if args.list:
        show_list(console, SUITES)
        raise SystemExit(0)
    where = site.from_flags(args)
    device = "cuda" if where.gpus else "cpu"
    request = options.narrowed(resolve(args, command, extra, device), args.only)
    preflight.check_interval(args)
    _check_jobs(where, args.ranks, request)
    store = Store(args.results_dir)
    options.make_sample(args)
    todo, stale = remaining(request, store, args.fresh)
    jobs = jobs_of(args, request, request.wanted, device)
    sweep = Sweep(store, request.suite.name, jobs, where, args.plugin)
    if args.dry_run:
        show_dry_run(console, request, todo, stale)
        queued = sweep.queued() if queue.here() else set()
        left = [job for key, job in sweep.unfinished().items() if key not in queued]
        n_jobs = len(list(packs(left, where)))
        console.print(
            f"{plural(len(queued), 'cell')} in the queue; the others would make about "
            f"{plural(n_jobs, 'job')}",
            highlight=False,
        )
        return request, None
    require()
    sweep.queued()  # where Slurm does not answer, nothing shall be written down
    preflight.check_writable(store, args.report_dir)
    sweep.sizes = preflight.check_data(request, store, args.data_dir, args.download, args.fresh)
    preflight.check_shares(args.ranks, request, sweep.sizes)
    if args.fresh:
        _supersede(request, sweep)
    if note := store_plan(request, store):
        console.print(note, markup=False, highlight=False)
    console.print(
        f"{request.suite.name}, profile {request.profile}: {cells_text(request)}, "
        f"{len(jobs) - len(todo)} on record; jobs of {plural(where.cpus, 'core')}, "
        f"{plural(where.gpus, 'GPU') if where.gpus else 'no GPU'}, {where.minutes} minutes"
        + (f", {where.nodes} nodes each" if where.nodes > 1 else ""),
        highlight=False,
    )
    if stale:
        console.print(STALE.format(len(stale)), highlight=False)
    return request, sweep


def _check_jobs(where: Site, ranks: int, request: Request) -> None:
    """Raises RequestError where jobs of this kind do not fit the cells."""
    n_gpus = where.gpus * where.nodes
    preflight.check_ranks(ranks, request, n_gpus or None)
    if ranks % where.nodes:
        raise RequestError(
            f"--nodes {where.nodes}: they train a cell together, each in as many processes; "
            f"--ranks {ranks} cannot be shared out evenly"
        )
    n_used = ranks * where.side_by_side
    if n_gpus > n_used:
        raise RequestError(
            f"jobs get {plural(n_gpus, 'GPU')}, of which cells would use {n_used}: have cells "
            f"trained together by --ranks {n_gpus}, or --side-by-side {n_gpus}, or ask for fewer"
        )
    if request.suite.kind == "cost" and where.side_by_side > 1:
        raise RequestError(
            f"--side-by-side {where.side_by_side}: {request.suite.name!r} times one cell at a time"
        )


def _supersede(request: Request, sweep: Sweep) -> None:
    """Puts the records out of the way. Raises RequestError while cells are in the queue."""
    if queued := sweep.queued():
        raise RequestError(
            f"--fresh: {plural(len(queued), 'cell')} of these are in the queue; first take them "
            f"out of it by `{command_on('suites.cancel', request.suite.name, sweep.store.root)}`"
        )
    for wanted in request.wanted:
        sweep.store.supersede(wanted.cell.key)


def follow(sweep: Sweep, console: Console, fresh: bool = False) -> None:
    """Submits, and shows what becomes of the cells until all have ended. Raises SlurmError.

    Args:
        fresh: records were put out of the way, which the same command would do again.
    """
    without = " (without --fresh)" if fresh else ""
    jobs = list(sweep.unfinished().values())
    display = Display(console, jobs, sweep.store.live_dir)
    try:
        with display:
            sweep.follow(display.end, display.tick, display.say, RETRIES)
    except KeyboardInterrupt:
        if not sweep.sent:
            console.print(f"interrupted; the same command{without} goes on", highlight=False)
            raise SystemExit(130) from None
        console.print(
            f"no longer following; the jobs go on. The same command{without} follows them again, "
            f"`{command_on('suites.cancel', sweep.suite, sweep.store.root)}` takes them out of the "
            "queue",
            highlight=False,
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    exit_with(main)
