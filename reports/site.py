"""The page that leads to the reports of all suites, `<report-dir>/index.html`.

Its links are relative: the folder can be moved, packed, or opened from a disk. A suite that could
not be built stands on it with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.figure import Figure

from reports import pages
from reports.caption import counts
from reports.drawing import Panel, style, svg
from reports.figures import draw_accuracy
from reports.formatting import plural, when
from reports.table import Table
from reports.tuning import KIND


@dataclass(frozen=True)
class Entry:
    """What the page says of one suite; either `error` or the rest.

    Attributes:
        picture: the first column that has a value; None in suites without one.
        files: (name, link) of what can be downloaded.
    """

    suite: str
    error: str = ""
    title: str = ""
    profile: str = ""
    counts: dict[str, int] | None = None
    newest: str | None = None
    picture: Panel | None = None
    files: tuple[tuple[str, str], ...] = ()
    note: str = ""  # of its profile, and of what part of it was asked for
    failures: str = "failures"  # where the page lists them

    @property
    def link(self) -> str:
        return f"{quote(self.suite)}/index.html"


def entry_of(table: Table, paths: Sequence[Path]) -> Entry:
    """What the page says of a suite, given the files of its report."""
    suite = table.plan["suite"]
    files = tuple(
        (path.name, f"{quote(suite)}/{quote(path.name)}")
        for path in paths if path.name != "index.html"
    )  # fmt: skip
    return Entry(
        suite, "", table.plan["title"], table.plan["profile"], counts(table), table.newest,
        _picture(table), files, str(table.plan.get("profile_note") or ""),
        "points" if table.kind == KIND else "failures",
    )  # fmt: skip


def _picture(table: Table) -> Panel | None:
    if table.kind == KIND:
        return None  # points of a search are no seeds
    for column in table.columns:
        if any(table.cell(row, column).estimate for row in table.rows):
            with style():
                figure = Figure(figsize=(4.4, 0.62 + 0.27 * len(table.rows)), layout="constrained")
                draw_accuracy(figure.subplots(), table, column)
                # identifiers are the suite's own: another may have a column of this name
                drawn = svg(figure, f"site-{table.plan['suite']}")
            return Panel(f"{column.dataset}, {column.label}", drawn)
    return None


def render(entries: Sequence[Entry], command: str = "") -> str:
    """The whole page as text, with the command that builds it again."""
    environment = pages.environment()
    environment.filters["when"] = when
    environment.globals["plural"] = plural
    told = [entry.counts for entry in entries if entry.counts]
    return environment.get_template("site.html.j2").render(
        entries=entries,
        total={name: sum(n[name] for n in told) for name in (told[0] if told else ())},
        broken=sum(bool(entry.error) for entry in entries),
        newest=max((entry.newest for entry in entries if entry.newest), default=None),
        pictures={e.suite: Markup(e.picture.svg) for e in entries if e.picture},
        command=command,
    )
