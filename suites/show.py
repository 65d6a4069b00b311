"""What the command line prints: the table of results, what can be named, what would be run."""

from __future__ import annotations

from collections.abc import Container, Mapping

from rich.console import Console
from rich.table import Table as TextTable

from methods import METHODS
from reports.caption import metric_text
from reports.formatting import estimate_text
from reports.table import Table
from suites.engine.architectures import ARCHITECTURES
from suites.engine.datasets import DATASETS
from suites.request import Request
from suites.suite import Row, Suite, rows_of

STATES = {"unwanted": ""}


def show_table(table: Table, console: Console) -> None:
    """Prints the table's means and intervals."""
    text = TextTable(title=f"{table.plan['title']}: {metric_text(table)}", title_justify="left")
    text.add_column("")
    for column in table.columns:
        text.add_column(f"{column.dataset} {column.architecture}")
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        text.add_row(
            row.label,
            *(
                estimate_text(c.estimate) if c.estimate else STATES.get(c.state, c.state)
                for c in cells
            ),
        )
    console.print(text)


def show_list(console: Console, suites: Mapping[str, Suite]) -> None:
    """Prints everything that can be named on the command line."""
    for suite in suites.values():
        table = TextTable(title=f"suite {suite.name}: {suite.title}", title_justify="left")
        for heading in ("profile", "datasets", "architectures", "seeds", "what for"):
            table.add_column(heading)
        for name, profile in suite.profiles.items():
            table.add_row(
                name, ", ".join(profile.datasets), ", ".join(profile.architectures),
                str(profile.seeds), profile.note,
            )  # fmt: skip
        console.print(table)
        own = [row.id for row in rows_of(m for m in suite.methods if isinstance(m, Row))]
        if own:
            console.print(f"rows of its own: {', '.join(own)}\n", highlight=False)
    table = TextTable(title="methods", title_justify="left")
    for heading in ("--methods", "label", "readouts", "source"):
        table.add_column(heading, overflow="fold")
    for row in rows_of(METHODS):
        cls = METHODS[row.method]
        table.add_row(row.id, row.label, ", ".join(cls.traits.readouts), cls.source)
    console.print(table)
    table = TextTable(title="datasets", title_justify="left")
    for heading in ("--datasets", "image", "classes", "where"):
        table.add_column(heading)
    for data in DATASETS.values():
        where = "embedded" if data.embedded else f"--data-dir DIR (DIR/{data.folder})"
        table.add_row(data.name, "x".join(map(str, data.shape)), str(data.n_classes), where)
    console.print(table)
    table = TextTable(title="architectures", title_justify="left")
    for heading in ("--architectures", "blocks"):
        table.add_column(heading, overflow="fold")
    for architecture in ARCHITECTURES.values():
        table.add_row(architecture.name, architecture.description)
    console.print(table)


def show_dry_run(console: Console, request: Request, todo: Container[str]) -> None:
    """Prints the wanted cells, those marked whose key is to be trained, and what cannot be done."""
    n_todo = 0
    lines = []
    for wanted in request.wanted:
        to_run = wanted.cell.key in todo
        n_todo += to_run
        state = "to run   " if to_run else "on record"
        lines.append(f"{state}  {wanted.cell.key}  {wanted}")
    for gap in request.plan["unsupported"]:
        lines.append(f"cannot     {gap['row']} on {gap['column']}: {gap['reason']}")
    lines.append(f"{len(request.wanted)} cells, {n_todo} to do; nothing was run")
    console.file.write("\n".join(lines) + "\n")
