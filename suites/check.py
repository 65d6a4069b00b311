"""python -m suites.check: does a method keep the contract? For authors of methods.

Exit status: 0 every check passes, 1 some check fails, 2 the request is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from methods import METHODS, PluginError
from suites import contract
from suites.case import Case
from suites.command import Parser, exit_with, fail
from suites.engine.architectures import ARCHITECTURES
from suites.engine.determinism import use_deterministic_algorithms
from suites.engine.plugins import load_methods
from suites.suite import RequestError, choose, rows_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    p = Parser(
        prog="python -m suites.check",
        description="Runs the contract test over methods and every architecture they declare: "
        "shapes, learning, bit-exact resume, no label at prediction, locality, cost.",
        epilog="checks:\n"
        + "\n".join(
            f"  {name:32} {(function.__doc__ or '').splitlines()[0]}"
            for name, function in contract.CHECKS.items()
        ),
    )
    p.add_argument(
        "methods", nargs="*", metavar="METHOD", help="names (default: the plug-ins', or all)"
    )
    p.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="a file that registers methods; may be repeated",
    )
    p.add_argument("--architectures", nargs="+", metavar="NAME", help="these only")
    args = p.parse_args(arguments)  # fmt: skip
    try:
        extra = load_methods(args.plugin)
        names = dict.fromkeys([*METHODS, *(row.id for row in rows_of(METHODS))])
        methods = choose("method", args.methods or extra or list(METHODS), list(names))
        architectures = choose("architecture", args.architectures, list(ARCHITECTURES))
    except (PluginError, RequestError) as error:
        fail(str(error))
    use_deterministic_algorithms()
    torch.set_num_threads(1)
    return report(methods, architectures, Console(soft_wrap=True, highlight=False))


def report(methods: list[str], architectures: list[str], console: Console) -> int:
    """Prints one line per case and one per failed check; returns the exit status."""
    bad = total = 0
    for row in rows_of(methods):
        for architecture in architectures:
            case = Case(row, architecture)
            try:
                reason = case.refusal()
                found = {} if reason else contract.failures(case)
            except Exception as error:
                reason, found = None, {"refuse": f"{type(error).__name__}: {error}"}
            name = f"{row.id} on {architecture}"
            if reason:
                console.print(f"  --   {name}: declared as not possible: {reason}", markup=False)
                continue
            total += 1
            bad += bool(found)
            verdict = "FAIL" if found else "ok  "
            console.print(f"  {verdict} {name}: {len(contract.CHECKS) - len(found)} of "
                          f"{len(contract.CHECKS)} checks pass", markup=False,
                          style="red" if found else None)  # fmt: skip
            for why in dict.fromkeys(found.values()):
                checks = ", ".join(check for check in found if found[check] == why)
                console.print(f"         {checks}: {why}", markup=False)
    if not total:
        console.print("these methods declare none of these architectures")
        return 1
    console.print(f"{total - bad} of {total} cases keep the contract")
    return 1 if bad else 0


if __name__ == "__main__":
    exit_with(main)
