"""A comparison in the terminal, for 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TextTable

from reports.comparing.comparison import (
    DIFFERS,
    Comparison,
    about,
    effect_text,
    mean_text,
    notes,
    p_text,
    places_text,
    shift_text,
    summary,
)

MOST_CHANGES = 20  # lines of runs that ended otherwise; the page has them all
STYLES = {DIFFERS: "bold"}


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Prints tables of all cells, what differs besides the numbers, and last the summary."""
    console = console or Console()
    metric = comparison.a.table.metric
    say(console, f"A: {about(comparison.a)}")
    say(console, f"B: {about(comparison.b)}")
    title = comparison.metric
    for column, pairs in comparison.groups():
        if comparison.shared:  # what one side never ran is counted in the summary, and on the page
            pairs = [pair for pair in pairs if pair.a and pair.b]
        if not pairs:
            continue
        rows = [
            [
                pair.row.label,
                mean_text(pair.a.estimate if pair.a else None, metric),
                mean_text(pair.b.estimate if pair.b else None, metric),
                shift_text(pair, metric),
                p_text(pair.p_value),
                effect_text(pair),
                pair.verdict,
            ]
            for pair in pairs
        ]
        console.print(_table(f"{title}, {column.id}", rows, [STYLES.get(r[-1]) for r in rows]))
    _show_changes(comparison, console)
    _show_settings(comparison, console)
    for note in notes(comparison):
        say(console, note)
    say(
        console,
        "B − A with 95 % t interval; p Holm-corrected over all tested cells; g: difference in "
        "standard deviations (Hedges).",
    )
    say(console, summary(comparison), "bold")


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line that is shown as it is, with markup of the terminal in it or not."""
    console.print(text, markup=False, highlight=False, emoji=False, style=style)


def _table(title: str, rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> TextTable:
    table = TextTable(
        title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("method", overflow="fold", min_width=12)
    for heading in ("A", "B", "B − A", "p", "g"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=10)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*map(escape, row), style=style)
    return table


def _show_changes(comparison: Comparison, console: Console) -> None:
    changed = comparison.changed
    for pair, change in changed[:MOST_CHANGES]:
        say(console, f"{pair.name}, seed {change.seed}: {change.before} in A, {change.after} in B: "
                     f"{change.reason}")  # fmt: skip
    if len(changed) > MOST_CHANGES:
        say(console, f"{len(changed) - MOST_CHANGES} more runs ended otherwise; see --out")


def _show_settings(comparison: Comparison, console: Console) -> None:
    n = len(comparison.shared)
    settings = [
        (setting, f"settings, {places_text(places, n)}") for setting, places in comparison.settings
    ]
    settings += [(setting, "environment") for setting in comparison.environment]
    if not settings:
        say(console, "Settings and environments are the same.")
        return
    table = TextTable(
        title="What else differs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading in ("", "A", "B", "where"):
        table.add_column(heading, overflow="fold")
    for setting, where in settings:
        table.add_row(*map(escape, (setting.name, setting.a, setting.b, where)))
    console.print(table)
