"""All suites at once: one page leads to every report, and a broken plan hides no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from reports import build as build_module
from reports import site
from reports.build import build_all, main, read
from results.store import Store
from tests.records import filled, make_plan, make_record, nothing
from tests.test_reports import HOSTILE, REASON, _Page, mixed_store


def two_suites(folder: Path) -> Store:
    """One with every state, and one that is complete and has another name for the same cells."""
    store = mixed_store(folder)
    plan = make_plan(("backprop",))
    plan |= {"suite": "other", "title": "Another table", "profile": "standard"}
    store.write_plan(plan)
    return store


def page_of(folder: Path) -> str:
    return (folder / "index.html").read_text()


def test_one_page_leads_to_every_report_and_file(tmp_path: Path) -> None:
    paths, errors = build_all(two_suites(tmp_path / "runs"), tmp_path / "out", nothing)
    assert errors == [] and paths[0] == tmp_path / "out" / "index.html"
    text = page_of(tmp_path / "out")
    page = _Page(text)
    assert not page.open and not page.mismatched
    assert len(page.ids) == len(set(page.ids)), "two pictures share an identifier"
    assert all(target.startswith("#") for target in page.loads)
    assert "://" not in text and "@import" not in text and "<script" not in text
    targets = [unquote(link.partition("#")[0]) for link in page.links]
    found = {tmp_path / "out" / target for target in targets}
    assert found == set(paths[1:])
    assert not any(target.startswith("/") for target in targets)
    assert page.tags.count("svg") == 2
    for words in ("8 of 15 cells ok, 1 diverged, 3 failed, 3 missing; 3 made by older sources",
                  "3 of 3 cells ok", "11 of 18 cells ok", "Another table", "standard",
                  "Newest record 2026-03-01 10:02 UTC"):  # fmt: skip
        assert words in text, words
    assert "table1/index.html#failures" in page.links and "other/index.html#failures" not in text
    assert 'id="failures"' in page_of(tmp_path / "out" / "table1") and REASON in page_of(
        tmp_path / "out" / "table1"
    )


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    store = two_suites(tmp_path / "runs")
    texts = {
        site.render(
            [site.entry_of(read(suite, store, nothing), []) for suite in ("table1", "other")]
        )
        for _ in range(2)
    }
    assert len(texts) == 1


def test_a_suite_without_records_has_no_picture(tmp_path: Path) -> None:
    build_all(filled(tmp_path / "runs", make_plan(), []), tmp_path / "out", nothing)
    text = page_of(tmp_path / "out")
    assert "<svg" not in text and "No record so far" in text and "0 of 6 cells ok" in text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"cells": [', "not valid JSON"),
        ('{"cells": []}', "no schema version"),
        (None, "holds the plan of suite &#39;table1&#39;"),
    ],
)
def test_a_broken_plan_is_told_and_hinders_no_other(
    tmp_path: Path, content: str | None, why: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    page = "table1/index.html"
    monkeypatch.setattr(build_module, "write", lambda _, folder, *more: [folder / page])
    store = filled(tmp_path / "runs", make_plan(), [make_record()])
    plan = store.plans_dir / "table1.json"
    (store.plans_dir / "broken.json").write_text(plan.read_text() if content is None else content)
    out = tmp_path / "out"
    assert main(["all", "--results-dir", str(store.root), "--report-dir", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "broken" in captured.err
    assert captured.out.splitlines()[:2] == [str(out / f) for f in
                                             ("index.html", "table1/index.html")]  # fmt: skip
    assert why in page_of(out) and "1 suite could not be built" in page_of(out)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("none", "--results-dir"),
        ("empty", "make one with: python -m suites.run table1"),
        ("broken", "not valid JSON"),
        ("file", "--report-dir"),
    ],
)
def test_where_nothing_can_be_built_is_one_line_and_status_2(
    tmp_path: Path, prepare: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    if prepare != "none":
        Store(runs).prepare()
    if prepare == "broken":
        (runs / "plans" / "table1.json").write_text("{")
    if prepare == "file":
        Store(runs).write_plan(make_plan())
        out.write_text("not a folder")
    assert main(["all", "--results-dir", str(runs), "--report-dir", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and said in captured.err
    assert not (out / "index.html").exists()


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    plan: Any = make_plan(("hff",), ("digits/mlp_2x500%",), labels={"hff": HOSTILE})
    plan |= {"suite": "a b#?&'", "title": HOSTILE, "profile": HOSTILE}
    record = make_record("hff", "digits/mlp_2x500%")
    build_all(filled(tmp_path / "runs", plan, [record]), tmp_path / "out", nothing)
    text = page_of(tmp_path / "out")
    page = _Page(text)
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r'href="[^"]*[ ?&\']', text)
    assert all((tmp_path / "out" / unquote(link)).is_file() for link in page.links)
