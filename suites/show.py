"""What the command line prints: the table of results, what can be named, what would be run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as TextTable

from methods import METHODS
from reports.caption import metric_text
from reports.formatting import estimate_text, signed
from reports.speed import comparisons, quiet
from reports.table import Cell, Table
from reports.tuning import Tuning, settings_text
from suites.engine.architectures import ARCHITECTURES
from suites.engine.datasets import DATASETS
from suites.request import Request, Wanted
from suites.suite import Row, Suite, rows_of
from suites.todo import STALE, cells_text

STATES = {"unwanted": ""}
FILE_WIDTH = 160  # of a list that does not go to a terminal


def show_table(table: Table, console: Console, keys: Collection[str] = ()) -> None:
    """Prints the table's means and intervals, and in tables of costs one method over another.

    Args:
        keys: of the cells that were asked for, where not all were: rows and columns of others are
            left out.
    """
    asked = [(row.id, column.id) for row, column, run in table.runs if run.key in keys]
    its_rows, its_columns = ({place[i] for place in asked} for i in (0, 1))
    rows = [row for row in table.rows if not asked or row.id in its_rows]
    columns = {
        f"{column.dataset}\n{column.label}": [_entry(table.cell(row, column)) for row in rows]
        for column in table.columns if not asked or column.id in its_columns
    }  # fmt: skip
    title = f"{table.plan['title']}: {metric_text(table)}"
    print_in_parts(console, title, [row.label for row in rows], columns)
    if any(cell.n_stale for cell in table.cells.values()):
        console.print("\u2020 made in part by older sources", highlight=False)
    if said := quiet(table):
        console.print(said)
    for comparison in comparisons(table):
        title = (
            f"predictions per second, {comparison.one.label} over {comparison.other.label}, "
            "which predicts by"
        )
        columns = {
            way: [texts[i] for _, _, texts in comparison.entries]
            for i, way in enumerate(comparison.ways)
        }
        labels = [f"{column.dataset} {column.label}" for column, _, _ in comparison.entries]
        print_in_parts(console, title, labels, columns)


def _entry(cell: Cell) -> str:
    if cell.estimate is None:
        return STATES.get(cell.state, cell.state)
    return estimate_text(cell.estimate) + " \u2020" * bool(cell.n_stale)


def print_in_parts(
    console: Console, title: str, labels: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> None:
    """A text table, cut into several where its columns are more than the terminal has room for.

    Lines without any text in a part are left out of it.
    """
    left = list(columns)
    room = console.width - max(map(len, labels), default=0) - 4
    while left:
        part: list[str] = []
        used = 0
        while left:
            lines = [*left[0].split("\n"), *columns[left[0]]]
            used += max(map(len, lines)) + 3
            if part and used > room:
                break
            part.append(left.pop(0))
        text = TextTable(title=escape(title), title_justify="left")
        text.add_column("")
        for heading in part:
            text.add_column(escape(heading))
        for i, label in enumerate(labels):
            texts = [columns[heading][i] for heading in part]
            if any(texts) or len(part) == len(columns):
                text.add_row(escape(label), *map(escape, texts))
        console.print(text)
        title = ""


def show_tuning(table: Table, found: Sequence[Tuning], console: Console) -> None:
    """Prints the best validation accuracy of each method on each column, and what it gained."""
    entries = {(t.row.id, t.column.id): _best(t) for t in found}
    columns = {
        f"{column.dataset}\n{column.label}": [
            entries.get((row.id, column.id), "cannot") for row in table.rows
        ]
        for column in table.columns
    }
    title = (
        f"validation accuracy in percent, best of {table.plan['tuning']['points']} points (above "
        "the untuned settings by)"
    )
    print_in_parts(console, title, [row.label for row in table.rows], columns)


def _best(t: Tuning) -> str:
    if t.best is None or t.best.run.value is None:
        return "no point ok" if t.complete else "unfinished"
    gain = "" if t.gain is None else f" ({signed(t.gain)})"
    lost = [f"{t.counts[s]} {s}" for s in ("diverged", "failed", "missing") if t.counts[s]]
    return "; ".join([f"{t.best.run.value:.1f}{gain}", *lost])


def show_list(console: Console, suites: Mapping[str, Suite]) -> None:
    """Prints everything that can be named on the command line."""
    if not console.is_terminal:  # a file has no edge at which names would have to be broken
        console = Console(file=console.file, width=FILE_WIDTH, soft_wrap=True)
    for suite in suites.values():
        table = _listed(
            f"suite {suite.name}: {suite.title}",
            ("profile", "datasets", "architectures", "seeds", "what for"),
        )
        for name, profile in suite.profiles.items():
            datasets = ", ".join(profile.datasets) or "your class folder"
            table.add_row(
                name, datasets, ", ".join(profile.architectures),
                str(profile.seeds), profile.note,
            )  # fmt: skip
        console.print(table)
        own = [row.id for row in rows_of(m for m in suite.methods if isinstance(m, Row))]
        if own:
            console.print(f"rows of its own: {', '.join(own)}\n", highlight=False)
    table = _listed("methods", ("--methods", "label", "readouts", "source"))
    for row in rows_of(METHODS):
        cls = METHODS[row.method]
        table.add_row(row.id, row.label, ", ".join(cls.traits.readouts), cls.source)
    console.print(table)
    table = _listed("datasets", ("--datasets", "image", "classes", "where"))
    for data in DATASETS.values():
        where = "embedded" if data.embedded else f"--data-dir DIR (DIR/{data.folder})"
        table.add_row(data.name, "x".join(map(str, data.shape)), str(data.n_classes), where)
    console.print(table)
    console.print(
        "and by their names: some classes (digits-0to4), photographs (imagenet-64px, see "
        "docs/imagenet.md), noise to time on (noise-3x32x32-c10)\n", highlight=False,
    )  # fmt: skip
    table = _listed("architectures", ("--architectures", "blocks"))
    for architecture in ARCHITECTURES.values():
        table.add_row(architecture.name, architecture.description)
    console.print(table)
    console.print("and by their names, layers x width: mlp-6x256, conv-4x32", highlight=False)


def _listed(title: str, headings: Sequence[str]) -> TextTable:
    """A table whose first column holds names to be copied: those are never broken."""
    table = TextTable(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=i == 0)
    return table


def show_dry_run(
    console: Console, request: Request, todo: Sequence[Wanted], stale: Collection[str]
) -> None:
    """Prints the wanted cells, what is to be done of them, and what cannot be.

    Args:
        todo: those to be trained; stale: keys of those that older sources made.
    """
    to_run = {wanted.cell.key for wanted in todo}
    lines = []
    told = {c["key"]: f": {settings_text(c['settings'])}" for c in request.plan["cells"]
            if "settings" in c}  # fmt: skip
    for wanted in request.wanted:
        key = wanted.cell.key
        state = "to run" if key in to_run else "stale" if key in stale else "on record"
        lines.append(f"{state:9}  {key}  {wanted}{told.get(key, '')}")
    for gap in request.plan["unsupported"]:
        lines.append(f"cannot     {gap['row']} on {gap['column']}: {gap['reason']}")
    lines.append(f"{cells_text(request)}, {len(todo)} to do; nothing was run")
    console.file.write("\n".join(lines) + "\n")
    if stale:
        console.print(STALE.format(len(stale)), highlight=False)
