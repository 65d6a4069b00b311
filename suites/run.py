"""python -m suites.run SUITE: train the cells of a table that have no record yet, then report.

Exit status: 0 every cell is ok, 1 some cell is not (the report is still built), 2 the request
itself is wrong and nothing was run, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console

from methods import METHODS, PluginError
from results.record import FINAL
from results.store import HEAD, Store
from suites import (
    ablation_hff,
    audit,
    ff_mnist,
    hff_table,
    layercnn_cifar,
    local_loss,
    noprop_table1,
    table1,
    table2,
)
from suites.engine import datasets, local
from suites.engine.datasets import DatasetError
from suites.engine.execution import CHOICES
from suites.engine.trial import Job
from suites.progress import Display
from suites.request import Request, Wanted, expand
from suites.show import show_dry_run, show_list, show_table
from suites.suite import RequestError, Suite, choose, rows_of

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        table1,
        table2,
        audit,
        ff_mnist,
        noprop_table1,
        local_loss,
        layercnn_cifar,
        hff_table,
        ablation_hff,
    )
}

EXAMPLES = """\
examples:
  python -m suites.run table1
      the default: profile `quick`, embedded data, about three minutes on two CPU cores
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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (python -m {self.prog.removeprefix('python -m ')} --help explains)")


def fail(message: str) -> NoReturn:
    """Ends the program with one line and exit status 2."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    raise SystemExit(2)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Ends the program with main's exit status; Ctrl-C before any work is 130, without a trace."""
    try:
        status = main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = 130
    raise SystemExit(status)


def parser() -> argparse.ArgumentParser:
    """The command line of `suites.run`."""
    p = Parser(
        prog="python -m suites.run",
        description="Trains the cells of a suite that have no record yet and writes its report: "
        "an HTML page, a LaTeX table, a CSV file and figures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("suite", nargs="?", help=f"what to compare: {', '.join(SUITES)}")
    p.add_argument(
        "--list",
        action="store_true",
        help="show suites, profiles, methods, datasets and architectures, and stop",
    )
    what = p.add_argument_group("what is compared")
    what.add_argument(
        "--profile",
        default="quick",
        metavar="NAME",
        help="budget: quick (minutes, laptop, embedded data; the default); most suites have "
        "standard (one GPU, hours) and paper (the published budgets), see --list",
    )
    what.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="rows of the table: a method, or one variant of it (greedy-sim)",
    )
    what.add_argument("--datasets", nargs="+", metavar="NAME", help="instead of the profile's")
    what.add_argument("--architectures", nargs="+", metavar="NAME", help="likewise")
    what.add_argument("--seeds", type=int, metavar="N", help="how many, from 0 (default: profile)")
    what.add_argument("--epochs", type=int, metavar="N", help="instead of the profile's")
    what.add_argument(
        "--precision",
        metavar="NAME",
        help="of products: float32, or bf16 (automatic mixed precision), instead of the profile's",
    )
    what.add_argument(
        "--execution",
        nargs="+",
        metavar="NAME",
        help="choices that change speed, memory and rounding: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in CHOICES.items()),
    )
    what.add_argument(
        "--audit",
        action="store_true",
        help="also measure how far each method's training signals travel, and show it",
    )
    what.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="a file that registers methods of your own; may be repeated",
    )
    how = p.add_argument_group(
        "how it is run", "Not part of a result's key; --workers may change the last digits."
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
    how.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where datasets lie, in torchvision's layout"
    )
    how.add_argument(
        "--download", action="store_true", help="fetch missing datasets into --data-dir first"
    )
    how.add_argument(
        "--checkpoint-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="training time between two checkpoints of a cell (default: 30)",
    )
    how.add_argument("--dry-run", action="store_true", help="show what would be trained, and stop")
    how.add_argument(
        "--fresh",
        action="store_true",
        help="train again what is on record; old records are kept as superseded",
    )
    out = p.add_argument_group("where results go")
    out.add_argument(
        "--results-dir",
        type=Path,
        default=Path("results/runs"),
        metavar="DIR",
        help="store of records (default: results/runs)",
    )
    out.add_argument(
        "--report-dir",
        type=Path,
        default=Path("reports/out"),
        metavar="DIR",
        help="pages and tables (default: reports/out)",
    )
    return p  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(arguments)
    console = Console(stderr=False, soft_wrap=True)
    try:
        extra = local.load_methods(args.plugin)
        if args.list:
            show_list(console, SUITES)
            return 0
        device = check_device(args.device)
        command = shlex.join(["python", "-m", "suites.run", *arguments])
        request = resolve(args, command, extra, device)
        check_numbers(args, request.suite)
        store = Store(args.results_dir)
        if args.dry_run:
            todo = {wanted.cell.key for wanted in remaining(request, store)[0]}
            show_dry_run(console, request, todo)
            return 0
        check_writable(store, args.report_dir)
        check_data(request, args.data_dir, args.download)
    except (RequestError, PluginError, DatasetError) as error:
        fail(str(error))
    return carry_out(args, request, store, device, console)


def resolve(
    args: argparse.Namespace, command: str, extra_methods: Sequence[str], device: str
) -> Request:
    """The request that the arguments stand for. Raises RequestError."""
    if args.suite is None:
        raise RequestError("say which suite to run, e.g. table1, or --list")
    suite = SUITES[choose("suite", [args.suite], list(SUITES))[0]]
    check_rows(args.methods or (), suite)
    return expand(
        suite,
        args.profile,
        command,
        methods=args.methods,
        datasets=args.datasets,
        architectures=args.architectures,
        seeds=args.seeds,
        epochs=args.epochs,
        precision=args.precision,
        execution=args.execution,
        extra_methods=extra_methods,
        audit=args.audit,
        device=device,
    )


def check_rows(names: Sequence[str], suite: Suite) -> None:
    """Raises RequestError for a row that only another suite has, with its settings."""
    here = {name for row in rows_of([*suite.methods, *METHODS]) for name in (row.id, row.method)}
    for name in names:
        for other in SUITES.values():
            if name not in here and name in {row.id for row in rows_of(other.methods)}:
                raise RequestError(
                    f"{name!r} is a row of suite {other.name!r}, not of {suite.name!r}: "
                    f"python -m suites.run {other.name} --methods {name}"
                )


def check_device(wanted: str) -> str:
    """The device to train on. Raises RequestError."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RequestError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or a machine and a "
            "torch build with CUDA"
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def check_numbers(args: argparse.Namespace, suite: Suite) -> None:
    """Raises RequestError for numbers that make no sense."""
    if suite.kind == "cost" and args.workers not in (None, 1):
        raise RequestError(
            f"--workers {args.workers}: {suite.name!r} times one cell at a time, since whatever "
            "runs beside it slows it down"
        )
    if args.workers is not None and args.workers < 1:
        raise RequestError(f"--workers must be at least 1, not {args.workers}")
    if args.checkpoint_every < 0:
        raise RequestError(f"--checkpoint-every must not be negative, not {args.checkpoint_every}")


def check_writable(store: Store, report_dir: Path) -> None:
    """Proves that results and report can be written, before anything is computed."""
    try:
        store.prepare()
    except OSError as error:
        raise RequestError(
            f"results directory {store.root} cannot be written to ({error.strerror}); "
            "choose another with --results-dir"
        ) from None
    try:
        report_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report_dir):
            pass
    except OSError as error:
        raise RequestError(
            f"report directory {report_dir} cannot be made ({error.strerror}); "
            "choose another with --report-dir"
        ) from None


def check_data(request: Request, data_dir: Path | None, download: bool) -> None:
    """Reads every dataset once, so that a broken file ends the run before it begins."""
    for name in dict.fromkeys(w.cell.dataset for w in request.wanted):
        datasets.load(name, data_dir, 0.1, download)


def remaining(request: Request, store: Store) -> tuple[list[Wanted], int]:
    """The wanted cells that have no finished record, and how many records are stale.

    Unreadable records are set aside, with a warning.
    """
    summary = store.read((w.cell.key for w in request.wanted), set_aside=True, fields=HEAD)
    for line in summary.unreadable:
        sys.stderr.write(f"warning: unreadable record set aside: {line}\n")
    todo, n_stale = [], 0
    for wanted in request.wanted:
        record = summary.records.get(wanted.cell.key)
        if record is None or record["status"] not in FINAL:
            todo.append(wanted)
        else:
            n_stale += record["code_sha"] != wanted.cell.code_sha()
    return todo, n_stale


def carry_out(
    args: argparse.Namespace, request: Request, store: Store, device: str, console: Console
) -> int:
    """Trains what has no record, builds the report and returns the exit status."""
    if args.fresh:
        for wanted in request.wanted:
            store.supersede(wanted.cell.key)
    todo, n_stale = remaining(request, store)
    jobs = [
        Job(
            cell=w.cell,
            label=str(w),
            suite=request.suite.name,
            profile=request.profile,
            command=request.plan["command"],
            results_dir=args.results_dir,
            data_dir=args.data_dir,
            device=device,
            checkpoint_s=args.checkpoint_every,
        )
        for w in todo
    ]
    # From what was asked for, not from what is left: the number of threads of a worker follows
    # from it, and sums over threads round differently. So the same command gives the same bits.
    workers = args.workers or local.default_workers(device, len(request.wanted))
    if request.suite.kind == "cost":
        workers = 1  # what runs beside it would be timed as well
    n_done = len(request.wanted) - len(jobs)
    console.print(
        f"{request.suite.name}, profile {request.profile}: {len(request.wanted)} cells, "
        f"{n_done} on record, {len(jobs)} to run on {device} with {workers} "
        f"worker{'s' if workers > 1 else ''}",
        highlight=False,
    )
    if n_stale:
        console.print(
            f"{n_stale} of those on record were made by older sources: they are shown as stale; "
            "--fresh trains them again",
            highlight=False,
        )
    store.write_plan(request.plan)
    if jobs:
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGHUP, _interrupt)  # the terminal is gone
        display = Display(console, jobs, store.live_dir)
        launcher = local.Launcher(workers, args.plugin)
        try:
            with display:
                launcher.run(jobs, display.end, display.tick)
        except KeyboardInterrupt:
            left = len(remaining(request, store)[0])
            console.print(
                f"interrupted: {len(request.wanted) - left} of {len(request.wanted)} cells are on "
                "record; the same command goes on with the others from where they were"
                + (" (without --fresh)" if args.fresh else ""),
                highlight=False,
            )
            return 130
    return report(args, request, store, console)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def report(args: argparse.Namespace, request: Request, store: Store, console: Console) -> int:
    """Builds the report, prints where it is, returns 0 if every cell is ok, else 1."""
    from reports import build as reports  # matplotlib: not needed before now
    from reports.locality import contradictions

    try:
        # the plan at hand, not the stored one: another run may have written its own by now
        paths = reports.build(request.suite.name, store, args.report_dir, plan=request.plan)
        table = reports.read(request.suite.name, store, plan=request.plan)
        show_table(table, console)
    except reports.ReportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    records = store.read((w.cell.key for w in request.wanted), fields=HEAD).records
    bad = [w for w in request.wanted if records.get(w.cell.key, {}).get("status") != "ok"]
    for wanted in bad:
        found = records.get(wanted.cell.key)
        what = f"{found['status']}: {found['reason']}" if found else "no record"
        console.print(f"not ok: {wanted}: {what}", markup=False, highlight=False)
    for line in contradictions(table):
        console.print(f"not as declared: {line}", markup=False, highlight=False)
    for path in paths:
        console.print(str(path), markup=False, highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    exit_with(main)
