"""python -m suites.cancel SUITE: take the jobs of a suite out of the queue of a Slurm cluster.

Exit status: 0 done, or there was nothing to cancel; 2 the request is wrong, or Slurm refuses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reports.formatting import plural
from results.store import Store
from slurm.queue import SlurmError
from suites.cluster.sweep import cancel, require
from suites.command import Parser, add_results_dir, exit_with, fail, stored_plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    p = Parser(
        prog="python -m suites.cancel",
        description="Takes the jobs of a suite, of all its requests, out of the queue, running "
        "ones too: they write their checkpoints first. Records and checkpoints stay; submitting "
        "again goes on.",
        epilog="example:\n  python -m suites.cancel table1 --results-dir results/runs",
    )
    p.add_argument("suite", help="as in `suites.submit`")
    add_results_dir(p)
    args = p.parse_args(arguments)
    store = Store(args.results_dir)
    stored_plan(store, args.suite)
    try:
        require()
        n = cancel(store, args.suite)
    except SlurmError as error:
        fail(str(error))
    sys.stdout.write(
        f"{plural(n, 'job')} cancelled; checkpoints stay, submitting again goes on from them\n"
        if n else f"no job of {args.suite} is in the queue\n"
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    exit_with(main)
