"""The table as GitHub's Markdown, to be pasted into a README, an issue or a discussion."""

from __future__ import annotations

import re

from reports.caption import caption
from reports.formatting import estimate_text, letter_of, published_text
from reports.table import Cell, Table

WORDS = {"unsupported": "n/a", "unwanted": "\u2013"}  # other states are shown by their name


def escape(text: object) -> str:
    """Any text as one line of Markdown that shows it, and cannot end a table's cell."""
    line = " ".join(str(text).split())
    # a tag, somebody's name, the number of an issue, or :name: of a picture
    line = re.sub(r"[&<>]|@(?=\w)|#(?=\d)|:(?=[\w+-]+:)", lambda m: f"&#{ord(m[0])};", line)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def render(table: Table) -> str:
    """The table with its caption and notes under it, the same numbers as on the page."""
    notes: dict[str, str] = {}
    headings = ["Method", *(f"{escape(c.dataset)}<br>{escape(c.label)}" for c in table.columns)]
    lines = [_line(headings), _line(["---", *["---:"] * len(table.columns)])]
    for row in table.rows:
        cells = [_cell(table.cell(row, column), notes) for column in table.columns]
        lines.append(_line([escape(row.label), *cells]))
    lines += ["", " ".join(map(escape, caption(table)))]
    for text, letter in notes.items():
        lines += ["", f"<sup>{letter}</sup> {escape(text)}"]
    return "\n".join(lines) + "\n"


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _cell(cell: Cell, notes: dict[str, str]) -> str:
    if cell.estimate is None:
        text = WORDS.get(cell.state, cell.state)
        noted = cell.reason and cell.state not in ("missing", "unwanted")
        note = f"{text}: {cell.reason}" if noted else ""
    else:
        text = estimate_text(cell.estimate)
        text = f"**{text}**" if cell.best else text
        text += " \u2248" if cell.tied else ""
        note = cell.reason if cell.state == "partial" and cell.reason else ""
    if note:
        text += f" <sup>{letter_of(note, notes)}</sup>"
    text += " \u2020" if cell.n_stale else ""
    if cell.shown_claims:
        claims = [(c.accuracy_pct, c.decimals, c.difference) for c in cell.shown_claims]
        text += f"<br>published {published_text(claims)}"
    return text
