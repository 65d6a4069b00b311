"""Compares two folders of results: two machines, two commits, two configurations.

    python -m reports.compare A B --suite table1

Every cell of A is set beside the same cell of B: difference with interval, p value, effect size and
a verdict; then what differs in settings, sources and environment. Nothing is changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.comparing.alignment import CompareError, Side, aligned, source_of
from reports.comparing.comparison import Comparison, compare
from results.command import Parser, refuse, trouble, warn
from results.files import write_atomically

SUFFIXES = (".html", ".csv")


def read(a: str, b: str, suite: str | None = None, cells_of: str | None = None) -> Comparison:
    """The comparison of two sides, "DIR" or "DIR@COMMIT".

    Args:
        cells_of: "A" or "B", whose plan says which cells are compared; None: each has its own.

    Raises:
        CompareError: the sides cannot be compared; one line that says why.
    """
    try:
        sides = aligned(source_of("A", a), source_of("B", b), suite, cells_of)
    except OSError as error:
        raise CompareError(f"cannot read: {trouble(error)}") from error
    comparison = compare(*sides)
    if not comparison.shared:
        texts = [_has(side) for side in sides]
        raise CompareError(f"no cell is in both: {texts[0]}; {texts[1]}")
    return comparison


def _has(side: Side) -> str:
    """'A has records of hff on digits/mlp-2x500'."""
    table = side.table
    places = [
        f"{row.id} on {column.id}" for row in table.rows for column in table.columns
        if any(run.record for run in table.cell(row, column).runs)
    ]  # fmt: skip
    suite = f" of suite {table.plan['suite']}" if table.plan["suite"] else ""
    if not places:
        return f"{side.source.name} has no record{suite}"
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"{side.source.name} has {', '.join(places[:3])}{more}{suite}"


def write(comparison: Comparison, paths: Sequence[Path]) -> None:
    """Writes the page or the CSV file, by the suffix of each path. Raises OSError."""
    from reports.comparing import page

    for path in paths:
        text = page.render(comparison) if path.suffix == ".html" else page.to_csv(comparison)
        write_atomically(path, text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m reports.compare",
        description="Compares two folders of results, cell by cell and seed by seed.\n"
        "Reads only; differences are B minus A.",
        epilog="cells are matched by the plans of the suite where both folders have one, else by\n"
        "method, settings, network, data and protocol.\n\n"
        "verdicts:\n"
        "  differs                p of the t test, Holm-corrected over all cells, is at most 0.05\n"
        "  no difference seen     it is larger; the interval says what may be hidden\n"
        "  same bits              all metrics and curves are equal, in all seeds that both have\n"
        "  too few seeds to say   fewer than three on both sides\n\n"
        "examples:\n"
        "  two machines:   python -m reports.compare laptop/runs cluster/runs\n"
        "  one suite:      python -m reports.compare laptop/runs cluster/runs --suite table1\n"
        "  two commits:    python -m reports.compare results/runs@1f2e3d4c results/runs@9a8b7c6d\n"
        "                  records that --fresh has replaced are found, too\n"
        "  against before: python -m reports.compare results/runs@1f2e3d4c results/runs\n"
        "  a page, a file: python -m reports.compare A B --out a-b.html --out a-b.csv\n\n"
        "exit status: 0 no cell differs, 1 some cell differs or ended otherwise, 2 the request is\n"
        "wrong or there is nothing to compare",
    )
    side = "folder of results, or folder@commit for the records that this commit made"
    parser.add_argument("a", metavar="A", help=side)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument(
        "--suite", metavar="NAME", help="the suite to compare (default: the one both have)"
    )
    parser.add_argument(
        "--cells-of", choices=("A", "B"), metavar="A|B",
        help="compare the very cells that this side asked for last, where both have them; for a "
        "folder that holds several requests (default: what each side asked for last)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE",
        help="also write a page (.html) or all numbers (.csv); may be given twice",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        for path in args.out:
            if path.suffix not in SUFFIXES:
                raise CompareError(f"--out {path}: the name ends in {' or '.join(SUFFIXES)}")
            if not path.parent.is_dir():
                raise CompareError(f"--out {path}: there is no folder {path.parent}")
        comparison = read(args.a, args.b, args.suite, args.cells_of)
        for side in (comparison.a, comparison.b):
            for line in side.unreadable:
                warn(f"not read: {line}")
        write(comparison, args.out)
    except OSError as error:
        return refuse(f"cannot write: {trouble(error)}; choose another --out")
    except CompareError as error:
        return refuse(str(error))
    from reports.comparing import text

    text.show(comparison)
    for path in args.out:
        print(path)
    return comparison.exit_status


if __name__ == "__main__":
    sys.exit(main())
