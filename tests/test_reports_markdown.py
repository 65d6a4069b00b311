"""The table as Markdown: read back by a Markdown parser, it says what the page says."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt

from reports import build as reports
from reports.markdown import render
from tests.records import HOSTILE, Number, filled, make_plan, make_record


class _Cells(HTMLParser):
    """The text of every table cell, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1] and self.get_starttag_text() != "<p>":
            self.rows[-1][-1] += data.strip("\n")


def parsed(markdown: str) -> _Cells:
    return _Cells(MarkdownIt("commonmark").enable("table").render(markdown))


def test_published_numbers_and_reasons_are_with_them(tmp_path: Path) -> None:
    records = [make_record("hff", seed=s, accuracy=97.0 + s) for s in range(2)]
    records.append(make_record("hff", seed=2, status="diverged", reason="loss is NaN"))
    store = filled(tmp_path, make_plan(("hff",)), records)
    table = reports.read("table1", store, lambda row, data: [Number(98.4, None, "60", "Table 2")])
    text = render(table)
    assert "| HFF | 97.0, 98.0 <sup>a</sup><br>published 98.4 (\u22120.9) |" in text
    assert "<sup>a</sup> 1 of 3 seeds diverged: loss is NaN" in text


def test_hostile_text_stays_in_its_cell(tmp_path: Path) -> None:
    column = "digits/mlp-2x500"
    plan = make_plan(("hff", "ff"), (column,), labels={"hff": HOSTILE, "ff": "a|b\n|c `|` \\|"})
    plan["columns"][0]["dataset"] = HOSTILE
    records = [make_record("hff", column, s, status="failed", reason=HOSTILE) for s in range(3)]
    page = parsed(render(reports.read("table1", filled(tmp_path, plan, records))))
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "sup", "br", "strong"}
    assert [len(row) for row in page.rows] == [2, 2, 2]
    one_line = " ".join(HOSTILE.split())
    assert page.rows[0][1].startswith(one_line) and page.rows[1][0] == one_line
    assert page.rows[2][0] == "a|b |c `|` \\|"
    assert f"3 of 3 seeds failed: {one_line}" in page.text
