"""What all command lines share: errors of one line, exit statuses, Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from reports.plan import asked_for_by
from results.record import RecordError
from results.store import Plan, Store

RESULTS_DIR = Path("results/runs")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose epilog stays as it is written."""

    def __init__(self, **options: Any) -> None:
        if "description" in options:
            width = shutil.get_terminal_size().columns - 2
            options["description"] = textwrap.fill(options["description"], width)
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

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
        fail(
            f"no request of {suite!r} is stored in {store.root}"
            + (f" (there are: {', '.join(stored)})" if stored else "")
            + f"; start one with `{asked_for_by(suite)}`, or point --results-dir elsewhere"
        )
    return plan
