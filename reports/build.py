"""Builds the report of a suite from what is stored: page, LaTeX, Markdown, CSV and figures.

    python -m reports.build table1
    python -m reports.build all

Nothing is trained and nothing is changed: an unfinished sweep gives a report that says what is
missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.assemble import build_table
from reports.plan import PlanError, asked_for_by
from reports.table import Lookup, Published, Table
from reports.tuning import KIND, tunings
from results.command import Parser, closest, one_line, refuse, trouble, warn
from results.files import write_atomically
from results.published import parse
from results.published import published as on_file
from results.record import RecordError
from results.store import Plan, Store, without_collector


class ReportError(ValueError):
    """The report cannot be built; the message is one line: what, where, how to fix it."""


def build(
    suite: str,
    store: Store,
    out_dir: Path | str,
    published: Lookup | None = None,
    plan: Plan | None = None,
    aligned: bool = False,
) -> list[Path]:
    """Writes the report of one suite to `<out_dir>/<suite>/` and returns the paths.

    Args:
        aligned: LaTeX with the columns of siunitx.
        published: looks published numbers up; default is what `results.published` knows.
        plan: what was asked for; default is the plan stored last for this suite.

    Raises:
        ReportError: no plan or a broken one is stored, or a folder cannot be read or written.
    """
    return built(suite, store, out_dir, published, plan, aligned)[1]


def built(
    suite: str,
    store: Store,
    out_dir: Path | str,
    published: Lookup | None = None,
    plan: Plan | None = None,
    aligned: bool = False,
) -> tuple[Table, list[Path]]:
    """As `build`, and returns the table as well."""
    if published is None:
        published = on_file
    try:
        return _built(suite, store, Path(out_dir), published, plan, aligned)
    except OSError as error:
        raise _unusable(error) from error


def _built(
    suite: str,
    store: Store,
    out_dir: Path,
    published: Lookup | None,
    plan: Plan | None,
    aligned: bool,
) -> tuple[Table, list[Path]]:
    """Raises ReportError, OSError."""
    with without_collector():
        table = read(suite, store, published, plan)
        for line in table.set_aside:
            warn(f"not read: {line}")
        command = again(suite, store.root, out_dir, aligned)
        return table, write(table, out_dir, command, aligned)


def build_all(
    store: Store, out_dir: Path | str, published: Lookup | None = None, aligned: bool = False
) -> tuple[list[Path], list[str]]:
    """Builds every suite that has a stored plan, and `<out_dir>/index.html`, which leads to them.

    Returns:
        The paths, that page first, and a line for every suite that could not be built: it does not
        keep the others from it.

    Raises:
        ReportError: nothing is stored, nothing could be built, or a folder cannot be used.
    """
    from reports import site

    if published is None:
        published = on_file
    suites = sorted(path.stem for path in store.plans_dir.glob("[!.]*.json"))
    if not suites:
        raise ReportError(_no_plan("table1", store))
    out_dir = Path(out_dir)
    paths: list[Path] = []
    errors: list[str] = []
    entries = []
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for suite in suites:
            try:
                table, written = _built(suite, store, out_dir, published, None, aligned)
                entries.append(site.entry_of(table, written))
                paths += written
            except ReportError as error:
                errors.append(one_line(str(error)))
                entries.append(site.Entry(suite, errors[-1]))
        if not paths:
            raise ReportError("; ".join(errors))
        page = out_dir / "index.html"
        write_atomically(page, site.render(entries, again("all", store.root, out_dir, aligned)))
    except OSError as error:
        raise _unusable(error) from error
    return [page, *paths], errors


def _unusable(error: OSError) -> ReportError:
    return ReportError(
        f"cannot build the report: {trouble(error)}; check the folder, or "
        "choose others with --results-dir and --report-dir"
    )


def read(
    suite: str, store: Store, published: Lookup | None = None, plan: Plan | None = None
) -> Table:
    """The table of a suite as it stands now. Raises ReportError, OSError."""
    try:
        plan = plan or store.read_plan(suite)
        if plan is None:
            raise ReportError(_no_plan(suite, store))
        if plan.get("suite", suite) != suite:  # its name becomes that of a folder
            raise ReportError(
                f"{store.plans_dir / suite}.json holds the plan of suite {plan['suite']!r}; give "
                "it that name, or delete it"
            )
        entries = [*plan["cells"], *(plan.get("audits") or ())]
        keys = [entry["key"] for entry in entries if "key" in entry]
        summary = store.read(keys)
        numbers = published and _with_those_of(plan, published)
        table = build_table(plan, summary.records, store.live(), numbers, summary.unreadable)
        if table.kind == KIND:
            tunings(table)
        return table
    except (RecordError, PlanError, TypeError, KeyError) as error:
        raise ReportError(
            f"the plan of suite {suite!r} in {store.plans_dir} cannot be read: {error}; write it "
            f"anew with: {asked_for_by(suite)}"
        ) from error


def _with_those_of(plan: Plan, published: Lookup) -> Lookup:
    """Published numbers, and those that came with the request. Raises PlanError."""
    try:
        own = [parse(line, "plan") for line in plan.get("published") or ()]
    except ValueError as error:
        raise PlanError(str(error)) from error

    def lookup(row: str, dataset: str) -> Sequence[Published]:
        found = published(row, dataset)
        return [*found, *(n for n in own if (n.row, n.dataset) == (row, dataset)
                          and n not in found)]  # fmt: skip

    return lookup


def _no_plan(suite: str, store: Store) -> str:
    if not store.root.is_dir():
        return f"no folder {store.root}; give the folder of the records with --results-dir"
    known = sorted(path.stem for path in store.plans_dir.glob("*.json"))
    if close := closest(suite, known, 0.8):
        return f"no plan of suite {suite!r} in {store.plans_dir}; did you mean {close!r}?"
    if known:
        return (
            f"no plan of suite {suite!r} in {store.plans_dir}; stored: {', '.join(known)}; "
            f"make one with: {asked_for_by(suite)}"
        )
    return f"no plan in {store.plans_dir}; make one with: {asked_for_by(suite)}"


def again(suite: str, results_dir: Path, report_dir: Path, aligned: bool = False) -> str:
    """The command that builds this report."""
    words = ["python", "-m", "reports.build", suite]
    for flag, folder in (("results_dir", results_dir), ("report_dir", report_dir)):
        if folder != _parser().get_default(flag):
            words += [f"--{flag.replace('_', '-')}", str(folder)]
    return shlex.join(words + ["--siunitx"] * aligned)


def write(table: Table, out_dir: Path, command: str = "", aligned: bool = False) -> list[Path]:
    """Writes every file of the report, the page with its command first. Raises OSError."""
    # Imported here: they bring matplotlib and jinja2, which --help and most errors do without.
    from reports import figures, frame, html, latex, markdown, tuning_page

    suite = table.plan["suite"]
    folder = out_dir / suite
    folder.mkdir(parents=True, exist_ok=True)
    if table.kind == KIND:
        return tuning_page.write(table, folder, command)
    tex, short = latex.render(table, aligned), frame.to_short_csv(table)
    in_page = {f"{suite}.tex": tex, f"{suite}-table.csv": short}
    texts = {
        "index.html": html.render(table, command, in_page),
        f"{suite}.tex": tex,
        f"{suite}-standalone.tex": latex.render_standalone(table, aligned),
        f"{suite}.md": markdown.render(table),
        f"{suite}.csv": frame.to_csv(table),
        f"{suite}-table.csv": short,
    }
    if costs := latex.render_costs(table):
        texts[f"{suite}-costs.tex"] = costs
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [*(folder / name for name in texts), *figures.write_files(table, folder)]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m reports.build",
        description="Builds the report of a suite from the stored plan and records.\n"
        "Nothing is trained; an unfinished sweep is shown with what is missing.",
        epilog="written to <report-dir>/<suite>/:\n"
        "  index.html               the page, one file, needs no network\n"
        "  <suite>.tex              the table, to be read with \\input; needs booktabs\n"
        "  <suite>-costs.tex        what was timed, in suites about cost; needs longtable\n"
        "  <suite>-standalone.tex   the same as a document for pdflatex\n"
        "  <suite>.md               the table for a README or an issue\n"
        "  <suite>.csv              one line per wanted cell, every number\n"
        "  <suite>-table.csv        one line per method and column, as the table shows it\n"
        "  accuracy, curves         figures, .pdf and .png\n"
        "of a tuning (table1-tune) the page and a .csv file, one line per point\n"
        "with `all` also <report-dir>/index.html, a page that leads to every suite\n\n"
        "examples:\n"
        "  python -m reports.build table1\n"
        "  python -m reports.build all\n"
        "  python -m reports.build table1 --results-dir /scratch/runs --report-dir ~/tables\n\n"
        "exit status: 0 built, 1 some suite of `all` could not be built, 2 the request is wrong\n"
        "or a folder cannot be used",
    )
    parser.add_argument("suite", help="name of a suite that has been run, such as table1, or all")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results/runs"), metavar="DIR",
        help="where plans and records are (default: results/runs)",
    )  # fmt: skip
    parser.add_argument(
        "--report-dir", type=Path, default=Path("reports/out"), metavar="DIR",
        help="where the report goes (default: reports/out)",
    )  # fmt: skip
    parser.add_argument(
        "--siunitx", action="store_true",
        help="LaTeX with numbers aligned at their decimal points; needs the package siunitx",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None, kept: list[Table] | None = None) -> int:
    """The command line; returns the exit status. The table is put into `kept`, if that is given."""
    args = _parser().parse_args(argv)
    store = Store(args.results_dir)
    failed: list[str] = []
    try:
        if args.suite == "all":
            paths, failed = build_all(store, args.report_dir, aligned=args.siunitx)
        else:
            table, paths = built(args.suite, store, args.report_dir, aligned=args.siunitx)
            if kept is not None:
                kept.append(table)
    except ReportError as error:
        return refuse(str(error))
    for path in paths:
        print(path)
    for line in failed:
        warn(f"not built: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    # Taking 100,000 records apart would take seconds, and the process ends here: so the table is
    # kept, and the process ends without clearing up.
    at_hand: list[Table] = []
    with without_collector():
        status = main(kept=at_hand)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
