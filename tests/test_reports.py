"""Reports: what a reader is told must be what is on record, in every output alike."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports import build as build_module
from reports import targets
from reports.assemble import build_table
from reports.build import ReportError, build, main
from reports.caption import caption, counts
from reports.drilldown import MOST_SEEDS, drilldowns
from reports.formatting import estimate_text, number, numbered, signed, when
from reports.frame import to_frame, to_short_csv
from reports.html import render as render_html
from reports.latex import escape
from reports.latex import render as render_latex
from reports.markdown import render as render_markdown
from reports.plan import PlanError
from reports.statistics import estimate
from reports.summary import summarise
from results.store import Store
from tests.records import HOSTILE, Number, filled, make_plan, make_record, nothing

REASON = "loss is not finite in epoch 2"
CRASH = "RuntimeError: shapes do not match"
UNFIT = "needs one hidden width throughout"


def mixed_store(folder: Path) -> Store:
    """One of every state: ok, partial with a divergence, failed, missing, unsupported, stale."""
    rows = ("backprop", "hff", "ff", "noprop", "mono", "dfa")
    column = "digits/mlp-2x500"
    plan = make_plan(rows, unsupported={("dfa", column): UNFIT})
    records = [make_record("backprop", accuracy=98 + 0.2 * s, seed=s) for s in range(3)]
    records += [make_record("hff", accuracy=97 + 0.3 * s, seed=s) for s in range(2)]
    records += [make_record("hff", seed=2, status="diverged", reason=REASON)]
    records += [make_record("ff", seed=s, status="failed", reason=CRASH) for s in range(3)]
    records += [make_record("mono", accuracy=96, seed=s, code_sha="dead") for s in range(3)]
    return filled(folder, plan, records)


def mixed_table(folder: Path) -> Any:
    return build_module.read("table1", mixed_store(folder), nothing)


def test_two_seeds_show_values_and_no_interval(tmp_path: Path) -> None:
    records = [make_record(seed=s, accuracy=97.25 + s) for s in range(2)]
    store = filled(tmp_path, make_plan(seeds=2), records)
    table = build_module.read("table1", store, nothing)
    cell = table.cells["hff", "digits/mlp-2x500"]
    assert cell.estimate is not None and cell.estimate.half_width is None
    assert "97.25, 98.25" in render_html(table)
    assert "97.25, 98.25" in render_latex(table)
    assert "t interval" not in " ".join(caption(table))


# ------------------------------------------------------------------------ table


def test_every_state_is_told_apart(tmp_path: Path) -> None:
    table = mixed_table(tmp_path)
    states = {row: cell.state for (row, _), cell in table.cells.items()}
    assert states == {
        "backprop": "ok", "hff": "partial", "ff": "failed", "noprop": "missing", "mono": "ok",
        "dfa": "unsupported",
    }  # fmt: skip
    assert counts(table) == {
        "wanted": 15, "ok": 8, "diverged": 1, "failed": 3, "running": 0, "missing": 3, "stale": 3,
        "unsupported": 1,
    }  # fmt: skip


def test_only_whole_cells_can_be_best(tmp_path: Path) -> None:
    """A method that lost its bad seeds must not be printed in bold for it."""
    records = [make_record("backprop", accuracy=97.0 + s / 10, seed=s) for s in range(3)]
    records += [make_record("ff", accuracy=90.0 + s / 10, seed=s) for s in range(3)]
    records += [make_record("hff", accuracy=99.9, seed=0)]
    store = filled(tmp_path, make_plan(("backprop", "hff", "ff")), records)
    table = build_module.read("table1", store, nothing)
    assert [row for (row, _), cell in table.cells.items() if cell.best] == ["backprop"]
    assert "\\mathbf{97.10}" in render_latex(table) or "\\mathbf{97.1}" in render_latex(table)


def test_of_single_seeds_none_is_best(tmp_path: Path) -> None:
    """What another seed would bring is not known: bold would say more than there is."""
    for seeds, marked in ((1, 0), (2, 1)):
        records = [
            make_record(row, accuracy=value, seed=seed)
            for row, value in (("backprop", 14.0), ("hff", 10.0)) for seed in range(seeds)
        ]  # fmt: skip
        store = filled(tmp_path / str(seeds), make_plan(("backprop", "hff"), seeds=seeds), records)
        table = build_module.read("table1", store, nothing)
        assert sum(cell.best for cell in table.cells.values()) == marked
        assert ("Bold" in " ".join(caption(table))) == marked


def test_the_caption_says_how_many_images_and_what_chance_is(tmp_path: Path) -> None:
    plan = make_plan(("hff",), ("digits/mlp-2x500", "cifar100/vgg8b"), seeds=1)
    plan["columns"][0]["n_classes"] = 10
    records = [make_record("hff", column["id"], seed=0) for column in plan["columns"]]
    table = build_module.read("table1", filled(tmp_path, plan, records), nothing)
    said = "digits 360 (360), by chance 10 % right; cifar100 360 (360)."
    assert f"Images for test (and validation): {said}" in " ".join(caption(table))


def test_no_target_where_one_image_decides_on_it(tmp_path: Path) -> None:
    """98 % of the best is within one of five validation images: everybody would reach it."""
    plan = make_plan(("hff", "ff"), seeds=1)
    for n, reached in ((360, True), (5, False)):
        records = [make_record(row, seed=0) for row in ("hff", "ff")]
        for record in records:
            record["metrics"]["val"] = {"last": {"accuracy_pct": 97.0, "loss": 0.1, "n": n}}
        table = build_module.read("table1", filled(tmp_path / str(n), plan, records), nothing)
        assert (targets.target(table, table.columns[0]) is not None) == reached


def test_numbers_in_names_are_sorted_by_size() -> None:
    names = ["linear, block 10", "linear, block 9", "linear", "linear, block 1"]
    assert sorted(names, key=numbered) == [names[2], names[3], names[1], names[0]]


def test_ties_are_marked_only_where_seeds_cannot_tell(tmp_path: Path) -> None:
    accuracies = {"backprop": (98.0, 97.0, 97.6), "hff": (97.1, 97.6, 97.5), "ff": (88, 87, 87.5)}
    records = [
        make_record(row, accuracy=value, seed=seed)
        for row, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    table = build_module.read(
        "table1", filled(tmp_path, make_plan(tuple(accuracies)), records), nothing
    )
    assert [row for (row, _), cell in table.cells.items() if cell.tied] == ["hff"]


def test_published_number_comes_with_difference_and_source(tmp_path: Path) -> None:
    def published(row: str, dataset: str) -> list[Number]:
        assert dataset == "digits"
        return [Number(98.4, None, "60", "Table 2")] if row == "hff" else []

    records = [make_record(seed=s, accuracy=97.0 + s) for s in range(3)]
    store = filled(tmp_path, make_plan(), records)
    table = build_module.read("table1", store, published)
    (claim,) = table.cells["hff", "digits/mlp-2x500"].claims
    assert claim.difference == pytest.approx(98.0 - 98.4)
    page = render_html(table)
    assert "98.4" in page and "Table 2" in page and "\u22120.4" in page
    assert "98.4 ($-0.4$)" in render_latex(table)
    for text in (page, render_latex(table), render_markdown(table)):
        assert "None of them was run as published" in text


def test_what_was_asked_for_in_place_of_the_profiles_own_is_in_every_output(
    tmp_path: Path,
) -> None:
    plan = make_plan() | {
        "profile_note": "Digits. Here with 2 epochs instead of the profile's own."
    }
    plan["rows"][0]["settings"] = {"lr": 1e-4}
    table = build_module.read("table1", filled(tmp_path, plan, [make_record()]), nothing)
    for render in (render_html, render_latex, render_markdown):
        assert render(table).count("Here with 2 epochs") == 1
    assert f"{table.rows[0].method} with lr 0.0001" in render_html(table)


def test_of_several_published_numbers_none_is_the_one(tmp_path: Path) -> None:
    def published(row: str, dataset: str) -> list[Number]:
        both = [Number(98.4, None, "60", "Table 2"), Number(97.1, None, "10", "another")]
        return both if row == "hff" else []

    store = filled(tmp_path, make_plan(), [make_record(seed=s) for s in range(3)])
    table = build_module.read("table1", store, published)
    assert "published 97.1 to 98.4<" in render_html(table)
    assert "97.1 to 98.4" in render_latex(table)


def test_a_number_about_another_readout_does_not_stand_beside_the_headline(tmp_path: Path) -> None:
    """Its difference is that of the readout it is about, and would not be that of the cell."""

    def published(row: str, dataset: str) -> list[Number]:
        both = [Number(98.4, None, "60", "Table 2"), Number(91.3, None, "9", "it", readout="sum")]
        return both if row == "hff" else []

    store = filled(tmp_path, make_plan(), [make_record(seed=s) for s in range(3)])
    table = build_module.read("table1", store, published)
    page, tex = render_html(table), render_latex(table)
    assert "published 98.4 (\u22121.4)" in page and "91.3 to" not in page + tex
    assert "98.4 ($-1.4$)" in tex
    assert "for the readout sum: 91.3 %, ours minus published +5.20" in page
    only = build_module.read("table1", store, lambda row, data: published(row, data)[1:])
    assert "published 91.3" not in render_html(only)
    assert not any("Published:" in sentence for sentence in caption(only))


def summed(folder: Path, *, ff_seeds: int) -> Any:
    """Two columns; backprop with five seeds, one rival with five, and one with fewer on one."""
    columns = ("digits/mlp-2x500", "digits/cnn-small")
    rows = ("backprop", "hff", "ff")
    plan = make_plan(rows, columns, seeds=5)
    short = ("ff", columns[1])
    plan["cells"] = [
        c for c in plan["cells"] if (c["row"], c["column"]) != short or c["seed"] < ff_seeds
    ]
    records = [
        make_record(row, column, seed, accuracy=95 + i + 0.1 * seed)
        for i, row in enumerate(rows) for column in columns for seed in range(5)
        if (row, column) != short or seed < ff_seeds
    ]  # fmt: skip
    return build_module.read("table1", filled(folder, plan, records), nothing)


def test_methods_are_summed_up_over_the_seeds_they_share_with_the_control(tmp_path: Path) -> None:
    found = summarise(summed(tmp_path / "a", ff_seeds=3))
    assert found is not None and not found.left_out
    assert [(line.row.id, round(line.iqm, 6)) for line in found.lines] == [("ff", 2), ("hff", 1)]
    assert [len(scores) for scores in found.scores["ff"]] == [5, 3]
    few = summarise(summed(tmp_path / "b", ff_seeds=2))
    assert few is not None and few.left_out == ("FF (1 of 2 columns)",)


def test_running_cells_are_shown_as_running() -> None:
    plan = make_plan(("hff",), seeds=1)
    sign = {plan["cells"][0]["key"]: {"epoch": 2, "epochs": 5}}
    table = build_table(plan, {}, sign, nothing)
    assert table.cells["hff", "digits/mlp-2x500"].state == "running"
    assert "epoch 2 of 5" in render_html(table)


def test_ok_record_without_the_headline_is_not_counted_as_ok() -> None:
    plan, record = make_plan(("hff",), seeds=1), make_record()
    del record["metrics"]["test"]
    table = build_table(plan, {record["key"]: record}, published=nothing)
    assert table.cells["hff", "digits/mlp-2x500"].state == "failed"
    assert "holds no test accuracy_pct" in render_html(table)


def test_another_readout_never_stands_in_for_the_headline() -> None:
    """Only a column may say that all its networks are read in one way, as fine-tuned ones are."""
    plan, record = make_plan(("hff",), seeds=1), make_record()
    for split in record["metrics"].values():
        split["softmax"] = split.pop("last")
        del split["sum"]
    place, records = ("hff", "digits/mlp-2x500"), {record["key"]: record}
    assert build_table(plan, records, published=nothing).cells[place].state == "failed"
    plan["columns"][0]["readout"] = "softmax"
    table = build_table(plan, records, published=nothing)
    assert table.cells[place].state == "ok"
    page = render_html(table)
    assert "Test loss" in page and re.search(r'softmax</td>\s*<td[^>]*><span class="best">', page)


def test_seeds_that_are_left_out_of_a_drill_down_are_counted_by_their_end(tmp_path: Path) -> None:
    plan = make_plan(("hff",), seeds=MOST_SEEDS + 50)
    table = build_module.read("table1", filled(tmp_path, plan, [make_record()]), nothing)
    assert "50 more, 1 of them ok; the CSV" in render_html(table)


def test_two_protocols_of_one_pair_keep_their_names_apart() -> None:
    plan = make_plan(columns=("digits/mlp", "digits/mlp@long"))
    for column in plan["columns"]:
        column["architecture"] = "mlp"
    labels = [column.label for column in build_table(plan, {}).columns]
    assert labels == ["mlp", "mlp@long"]


@pytest.mark.parametrize("broken", ["rows", "columns", "cells", "headline", "schema", "title"])
def test_a_plan_with_a_missing_part_is_named(broken: str) -> None:
    plan = make_plan()
    del plan[broken]
    with pytest.raises(PlanError, match=broken):
        build_table(plan, {})


# ---------------------------------------------------------------------- outputs


def test_no_bad_news_is_lost_in_any_output(tmp_path: Path) -> None:
    table = mixed_table(tmp_path)
    page, tex, md = render_html(table), render_latex(table), render_markdown(table)
    for reason in (REASON, CRASH, UNFIT):
        assert reason in page and reason in tex and reason in md
    for text in ("not supported", "missing", "diverged", "3 stale", "1 of 3 seeds diverged"):
        assert text in page, text
    stale = page.split('<section id="stale">')[1].split("</section>")[0]
    assert "MONO" in stale and "0, 1, 2" in stale and "HFF" not in stale
    for text in ("n/a", "missing", "failed", "3 stale"):
        assert text in tex and text in md, text
    assert r"$^{\dagger}$" in tex and " \u2020 |" in md
    lines = to_frame(table)
    assert len(lines) == 16
    assert set(lines["status"]) == {"ok", "diverged", "failed", "missing", "unsupported"}
    assert {REASON, CRASH, UNFIT} <= set(lines["reason"].dropna())
    assert int(lines["stale"].sum()) == 3
    assert lines.loc[lines["status"] == "ok", "test.last.accuracy_pct"].notna().all()


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    store = mixed_store(tmp_path / "runs")
    first = build("table1", store, tmp_path / "a", nothing)
    second = build("table1", store, tmp_path / "b", nothing)
    assert [p.name for p in first] == [
        "index.html", "table1.tex", "table1-standalone.tex", "table1.md", "table1.csv",
        "table1-table.csv", "accuracy.pdf", "accuracy.png", "curves.pdf", "curves.png",
    ]  # fmt: skip
    page = first[0].read_text()
    command = f"--report-dir {tmp_path / 'a'}"
    assert command in page
    for a, b in zip(first, second, strict=True):
        text = b.read_bytes().replace(str(tmp_path / "b").encode(), str(tmp_path / "a").encode())
        assert a.read_bytes() == text, a.name
    assert not list((tmp_path / "a").rglob(".part-*"))


class _Page(HTMLParser):
    """Collects what a browser would load, the identifiers, the links, and unclosed elements."""

    VOID = ("meta", "br", "link", "img", "input", "hr", "col", "path", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.mismatched.append(tag)


def test_page_loads_nothing_and_is_well_formed(tmp_path: Path) -> None:
    text = render_html(mixed_table(tmp_path))
    page = _Page(text)
    assert all(target.startswith("#") for target in page.loads)
    assert "://" not in text and "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    fragments = {link[1:] for link in page.links + page.loads if link.startswith("#")}
    assert fragments <= set(page.ids)
    others = {link for link in page.links if not link.startswith(("#", "data:text/plain;base64,"))}
    assert others == {"table1.csv", "table1-standalone.tex"}  # which lie beside the page
    assert not page.open and not page.mismatched


def hostile_table(folder: Path) -> Any:
    column = "digits/mlp_2x500%"
    plan = make_plan(
        ("hff", "ff", "dfa"), (column,), labels={"hff": HOSTILE, "ff": "$\\frac$ [x] *"},
        unsupported={("dfa", column): HOSTILE},
    )  # fmt: skip
    plan["title"] = plan["profile_note"] = plan["command"] = HOSTILE
    plan["rows"][0]["differs"] = [HOSTILE]
    records = [make_record("hff", column, s, accuracy=97 + s) for s in range(2)]
    reason = f"{HOSTILE} {LETTERS}"
    records += [make_record("hff", column, 2, status="failed", reason=reason)]
    return build_module.read("table1", filled(folder, plan, records), nothing)


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    table = hostile_table(tmp_path)
    page = render_html(table)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert _Page(page).tags.count("script") == 3  # the page's own: two of numbers, one of code
    tex = render_latex(table)
    assert tex.isascii()
    assert r"\textless{}script\textgreater{}" in tex
    assert r"50\% a\_b \textbackslash{}input\{x\}" in tex
    assert r"J\"{u}rgen $\geq$ $\times$ \textemdash{} {[}U+4E2D{]}" in tex
    lines = list(csv.DictReader(io.StringIO(to_frame(table).to_csv(index=False))))
    assert any(line["reason"].startswith(HOSTILE) for line in lines)


LETTERS = "".join(map(chr, range(1, 0x250)))


def test_every_latin_letter_is_escaped_to_ascii() -> None:
    assert escape(LETTERS).isascii()
    assert escape("a--b---c") == "a-{}-b-{}-{}-c"


def compiled(folder: Path) -> str:
    if shutil.which("pdflatex") is None:
        if os.environ.get("BPFREE_REQUIRE_LATEX") == "1":
            pytest.fail("BPFREE_REQUIRE_LATEX=1, but there is no pdflatex")
        pytest.skip("needs pdflatex")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table1-standalone.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.parametrize("aligned", [False, True])
def test_latex_compiles(tmp_path: Path, aligned: bool) -> None:
    store = mixed_store(tmp_path / "runs")
    build("table1", store, tmp_path, nothing, aligned=aligned)
    assert "Overfull \\hbox" not in compiled(tmp_path / "table1")


@pytest.mark.parametrize("aligned", [False, True])
def test_hostile_latex_compiles(tmp_path: Path, aligned: bool) -> None:
    build_module.write(hostile_table(tmp_path / "runs"), tmp_path, aligned=aligned)
    compiled(tmp_path / "table1")


def test_aligned_numbers_are_the_same_numbers(tmp_path: Path) -> None:
    """Columns of siunitx hold a mean and a half-width each, which plain ones hold together."""
    table = mixed_table(tmp_path)
    plain = re.findall(r"\$(?:\\mathbf\{)?([\d.]+)\}? \\pm ([\d.]+)\$", render_latex(table))
    aligned = render_latex(table, aligned=True)
    assert plain == re.findall(r"& (?:\\bfseries )?([\d.]+) & ([\d.]+)", aligned)
    assert len(plain) == 2
    assert r"S[table-format=2.2]@{${}\pm{}$}S[table-format=1.2," in aligned


def test_page_latex_markdown_and_csv_carry_the_same_numbers(tmp_path: Path) -> None:
    """Read back from each: every mean, half-width, single value and state, place by place."""
    table = mixed_table(tmp_path)
    lines = csv.DictReader(io.StringIO(to_short_csv(table)))
    shown = {line["row"]: line["shown"] or line["state"] for line in lines}
    page = re.findall(r'<td class="entry.*?</td>', render_html(table), re.DOTALL)
    for row, entry in zip(table.rows, page, strict=True):
        text = re.sub(r"<[^>]*>", "", entry.split("</a>")[0]).strip()
        assert text == shown[row.id].replace("unsupported", "not supported")
    body = render_latex(table).split(r"\midrule")[1].split(r"\bottomrule")[0]
    for row, line in zip(table.rows, body.strip().split("\n"), strict=True):
        entry = re.sub(r"\$\^\{.*?\}\$$|\$|\\mathbf|[{}]", "", line.split(" & ")[1].rstrip(" \\"))
        entry = re.sub(r"\^.*$", "", entry).replace(r"\pm", "\u00b1").replace("n/a", "unsupported")
        assert entry.strip() == shown[row.id]
    for row, line in zip(table.rows, render_markdown(table).splitlines()[2:], strict=False):
        entry = re.sub(r" <sup>.*|[*\u2248\u2020|]", "", line.removeprefix(f"| {row.label} |"))
        assert entry.replace("n/a", "unsupported").strip() == shown[row.id]
    for (_, _), cell in table.cells.items():
        runs = to_frame(table).query("row == @cell.row and status == 'ok'")
        if cell.estimate:
            assert cell.estimate.values == tuple(runs.headline)


def test_the_command_under_a_cell_is_one_that_made_it(tmp_path: Path) -> None:
    """A union of requests has several commands; only one of them knows the keys of a cell."""
    plan = make_plan(("hff", "ff"))
    records = [make_record(row, seed=s) for row in ("hff", "ff") for s in range(3)]
    for record in records:
        record["command"] += f" --methods {record['cell']['method']}"
    plan["command"] = "\n".join(dict.fromkeys(r["command"] for r in records))
    table = build_module.read("table1", filled(tmp_path, plan, records), nothing)
    for _, entries in drilldowns(table):
        for row, cell, details in entries:
            keys = " ".join(run.key for run in cell.runs)
            command = f"python -m suites.run table1 --methods {row.id} --only {keys} --results-dir"
            assert details["again"].startswith(command) and "\n" not in details["again"]


def test_report_is_rendered_without_torch(tmp_path: Path) -> None:
    """Records of a cluster are read on a laptop that has no torch."""
    mixed_store(tmp_path / "runs")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from reports.build import main\n"
        f"sys.exit(main(['table1', '--results-dir', {str(tmp_path / 'runs')!r}, "
        f"'--report-dir', {str(tmp_path / 'out')!r}]))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "table1" / "index.html").stat().st_size > 1000


@pytest.mark.parametrize("seeds", [1, 3])
def test_report_of_nothing_and_of_one_record(tmp_path: Path, seeds: int) -> None:
    store = filled(tmp_path / "runs", make_plan(seeds=seeds), [])
    paths = build("table1", store, tmp_path / "out", nothing)
    assert all(path.stat().st_size for path in paths)
    assert "No record so far" in paths[0].read_text()
    store.publish(make_record())
    paths = build("table1", store, tmp_path / "out", nothing)
    assert "97.0" in paths[0].read_text()


def test_environments_are_counted_apart(tmp_path: Path) -> None:
    records = [make_record(seed=s) for s in range(3)]
    records[2]["environment"] = {**records[2]["environment"], "packages": {"torch": "2.11.0"}}
    table = build_module.read("table1", filled(tmp_path, make_plan(), records), nothing)
    page = render_html(table)
    assert "2 records, made on 1 machine" in page and "1 record, made on 1 machine" in page


def test_numbers_are_written_for_reading() -> None:
    texts = [number(x) for x in (0.01234, 1.5, 123.4, 12345.6, 1e6, 0, None)]
    assert texts == ["0.0123", "1.50", "123", "12\u202f300", "1\u202f000\u202f000", "0", "–"]
    assert [signed(x) for x in (1.26, -1.26, -0.01)] == ["+1.3", "−1.3", "0.0"]
    texts = [
        estimate_text(found) for values in (
            (97.0, 98.0, 99.0), (97.0, 97.05, 97.1), (97.01, 97.011, 97.012), (97.0, 97.0, 97.0),
            (1234.1, 1234.4, 1234.2), (1200.0, 1300.0, 1250.0), (97.2241, 97.2687), (99.69, 99.74),
            (97.2, 96.9),
        ) if (found := estimate(values))
    ]  # fmt: skip
    assert texts == [
        "98.0 ± 2.5", "97.0 ± 0.1", "97.011 ± 0.002", "97.00 ± 0.00", "1234.2 ± 0.4",
        "1250 ± 124", "97.2, 97.3", "99.69, 99.74", "97.2, 96.9",
    ]  # fmt: skip
    assert when("2026-03-01T12:00:00+02:00") == "2026-03-01 10:00 UTC"
    assert when("not a time") == "not a time"


# ------------------------------------------------------------------ command line


def run_cli(*args: str | Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "reports.build", *map(str, args)],
        cwd=root, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_command_line_prints_what_it_wrote(tmp_path: Path) -> None:
    mixed_store(tmp_path / "runs")
    done = run_cli("table1", "--results-dir", tmp_path / "runs", "--report-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "out" / "table1" / "index.html")
    assert done.stderr == ""


def test_unreadable_records_are_a_warning_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = mixed_store(tmp_path / "runs")
    path = store.records_dir / f"{make_record('backprop')['key']}.json"
    path.write_text('{"schema": 1, torn')
    page = build("table1", store, tmp_path / "out", nothing)[0].read_text()
    assert path.name in capsys.readouterr().err
    assert path.name in page


@pytest.mark.parametrize(
    ("suite", "prepare", "said"),
    [
        ("tabel1", "plan", "did you mean 'table1'"),
        ("zzz", "plan", "stored: table1"),
        ("table1", "empty", "make one with: python -m suites.run table1"),
        ("table1", "none", "--results-dir"),
        ("table1", "torn", "not valid JSON"),
        ("table1", "partial", "has no list 'rows'"),
        ("table1", "file", "--report-dir"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, suite: str, prepare: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    if prepare != "none":
        Store(runs).prepare()
    if prepare in ("plan", "file"):
        Store(runs).write_plan(make_plan())
    if prepare == "torn":
        (runs / "plans" / "table1.json").write_text('{"cells": [')
    if prepare == "partial":
        plan = make_plan()
        del plan["rows"]
        Store(runs).write_plan(plan)
    if prepare == "file":
        out.write_text("not a folder")
    status = main([suite, "--results-dir", str(runs), "--report-dir", str(out)])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and said in captured.err
    assert "Traceback" not in captured.err


def test_wrong_arguments_are_one_line_too() -> None:
    done = run_cli("table1", "--no-such-flag")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--no-such-flag" in done.stderr


def test_help_teaches() -> None:
    done = run_cli("--help")
    assert done.returncode == 0
    for word in ("table1", "--results-dir", "index.html", "exit status", "examples"):
        assert word in done.stdout


def test_build_raises_for_callers(tmp_path: Path) -> None:
    with pytest.raises(ReportError):
        build("table1", Store(tmp_path / "none"), tmp_path, nothing)
