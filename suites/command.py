"""What the command lines of suites share: exit statuses, Ctrl-C, the store that they read."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import suites
from reports.plan import asked_for_by
from results.command import Parser as Parser
from results.command import closest
from results.command import fail as fail
from results.record import RecordError
from results.store import Plan, Store

RESULTS_DIR = Path("results/runs")


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Ends the program with main's exit status; Ctrl-C before any work is 130, without a trace."""
    if signal.getsignal(signal.SIGINT) is suites._end:  # everything is imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = 130
    raise SystemExit(status)


def add_results_dir(p: argparse._ActionsContainer) -> None:
    """Adds where the store of records is."""
    p.add_argument(
        "--results-dir",
        type=Path,
        default=RESULTS_DIR,
        metavar="DIR",
        help="store of records (default: results/runs)",
    )


def command_on(module: str, suite: str, results_dir: Path) -> str:
    """The command for a suite that reads this store, to be pasted."""
    words = ["python", "-m", module, suite]
    if results_dir != RESULTS_DIR:
        words += ["--results-dir", str(results_dir)]
    return shlex.join(words)


def stored_plan(store: Store, suite: str) -> Plan:
    """What was asked of a suite last; ends the program where nothing was."""
    try:
        plan = store.read_plan(suite)
    except RecordError as error:
        fail(str(error))
    if plan is None:
        stored = sorted(path.stem for path in store.plans_dir.glob("*.json"))
        close = closest(suite, stored)
        fail(
            f"no request of {suite!r} is stored in {store.root}"
            + (f"; did you mean {close!r}?" if close else "")
            + (f" (there are: {', '.join(stored)})" if stored else "")
            + f"; start one with `{asked_for_by(suite)}`, or point --results-dir elsewhere"
        )
    return plan
