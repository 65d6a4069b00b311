"""The page in a real browser: what a reader does with it, and what it must never do.

Needs Chromium (BPFREE_CHROMIUM, or on the path); CI has it, and there these tests must run.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports import build as build_module
from reports.table import Table
from tests.records import HOSTILE, filled, make_plan, make_record, make_tuning, nothing

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
Page = Any

METHODS = tuple(f"m{i}" for i in range(18))
ROWS = ("backprop", *METHODS, "dfa")
COLUMNS = tuple(
    f"{data}/{net}"
    for data in ("mnist", "fashion-mnist", "cifar10", "cifar100")
    for net in ("mlp-3x1000", "cnn-small", "vgg8b", "resnet18")
)
SEEDS = 3
MOST_BYTES = 3_000_000


def big_table(folder: Path) -> Table:
    """960 cells of all states, with hostile text wherever text is free."""
    labels = {"m0": HOSTILE, "m1": "a name of very many words " * 8, "m2": "unbroken" * 30}
    unsupported = {("dfa", column): HOSTILE for column in COLUMNS[::2]}
    plan = make_plan(ROWS, COLUMNS, SEEDS, unsupported, labels)
    plan["title"] = plan["profile_note"] = HOSTILE
    plan["command"] = f"python -m suites.run table1 --plugin '{HOSTILE}'"
    for row in plan["rows"]:
        row["differs"] = [HOSTILE]
    records = []
    for i, row in enumerate(ROWS):
        for j, column in enumerate(COLUMNS):
            if (row, column) in unsupported or (row == "m3" and j == 2):
                continue  # not wanted, or missing
            for seed in range(SEEDS):
                status, reason = "ok", None
                if row == "m4" and seed == 1:
                    status, reason = "diverged", HOSTILE
                if row == "m5":
                    status, reason = "failed", HOSTILE
                accuracy = 97 - 0.4 * i - 2 * j + 0.1 * ((i * j + 3 * seed) % 7)
                record = make_record(row, column, seed, accuracy, status, reason)
                record["warnings"] = [HOSTILE]
                record["log"] = record["error"] = HOSTILE
                record["environment"]["host"] = record["environment"]["cpu"] = HOSTILE
                record["command"] = HOSTILE
                records.append(record)
    return build_module.read("table1", filled(folder, plan, records), nothing)


def other_pages(folder: Path) -> dict[str, Path]:
    """The pages of a comparison, of a tuning and of all suites, with hostile text in them."""
    from reports import compare

    stores = []
    for name in ("a", "b"):
        plan = make_plan(("backprop", "hff"), labels={"hff": HOSTILE})
        plan["title"] = plan["command"] = HOSTILE
        records = [
            make_record(row, seed=s, accuracy=97 + s / 7 - 3 * (name == "b" and row == "hff"))
            for row in ("backprop", "hff") for s in range(3)
        ]  # fmt: skip
        for record in records:
            record["environment"]["cpu"] = f"{name} {HOSTILE}"
        stores.append(filled(folder / name, plan, records))
    tuning, points = make_tuning(HOSTILE)
    stores[0].write_plan(tuning)
    for record in points:
        stores[0].publish(record)
    out = folder / "out"
    build_module.build_all(stores[0], out, nothing)
    comparison = folder / "ab.html"
    compare.main(
        [str(folder / "a"), str(folder / "b"), "--suite", "table1", "--out", str(comparison)]
    )
    return {
        "comparison": comparison,
        "tuning": out / tuning["suite"] / "index.html",
        "site": out / "index.html",
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return big_table(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    build_module.write(table, folder)
    return folder / "table1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    named = os.environ.get("BPFREE_CHROMIUM")
    path = named or shutil.which("chromium") or shutil.which("chromium-browser") \
        or shutil.which("google-chrome")  # fmt: skip
    if path is None:
        if os.environ.get("BPFREE_REQUIRE_BROWSER") == "1":
            pytest.fail("BPFREE_REQUIRE_BROWSER=1, but there is no Chromium")
        pytest.skip("needs Chromium: install it, or name it in BPFREE_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Page]:
    with opened(browser, report / "index.html") as page:
        yield page


@contextlib.contextmanager
def opened(browser: Any, path: Path) -> Iterator[Page]:
    """The page, opened; afterwards: no request went out, no dialog opened, nothing was thrown."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, trouble = context.new_page(), []
    address = path.as_uri()
    page.on("request", lambda r: r.url.partition("#")[0] != address and trouble.append(r.url))
    page.on("dialog", lambda d: (trouble.append(f"dialog: {d.message}"), d.dismiss()))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert trouble == []


def column_of(page: Page, index: int) -> list[str]:
    """What one column of the main table is sorted by, from top to bottom, of lines shown."""
    script = """index => Array.from(document.querySelectorAll("#main tbody tr"))
        .filter(tr => !tr.hidden).map(tr => tr.cells[index].dataset.value)"""
    return list(page.evaluate(script, index))


def in_order(values: list[str], falling: bool) -> bool:
    """Whether numbers are sorted and what has none comes last."""
    numbers = [float(v) for v in values if v]
    return values[len(numbers) :] == [""] * (len(values) - len(numbers)) and numbers == sorted(
        numbers, reverse=falling
    )


def test_the_page_is_small(report: Path) -> None:
    assert (report / "index.html").stat().st_size < MOST_BYTES


def test_a_heading_sorts_by_mouse_and_by_keyboard(page: Page) -> None:
    button = page.locator("#main thead button").nth(3)
    button.click()
    assert in_order(column_of(page, 3), falling=True)
    assert "" in column_of(page, 3)
    button.focus()
    page.keyboard.press("Enter")
    assert in_order(column_of(page, 3), falling=False)
    assert page.locator("#main th[aria-sort]").count() == 1


def test_filters_hide_rows_columns_figures_and_cells(page: Page) -> None:
    page.select_option("#controls [name=dataset]", "cifar10")
    page.select_option("#controls [name=architecture]", "vgg8b")
    assert page.locator("#main thead tr").nth(1).locator("th:visible").count() == 1
    assert page.locator("#main th.group:visible").all_inner_texts() == ["cifar10"]
    page.fill("#controls [name=method]", "M17")
    shown = column_of(page, 0)
    assert shown == ["M17"]
    page.fill("#controls [name=method]", "m1")  # a name that flags know, which the label hides
    assert "a name of very many words" in column_of(page, 0)[0]
    page.fill("#controls [name=method]", "M17")
    assert "of 20 methods, 1 of 16 columns" in page.locator("#controls output").inner_text()
    assert page.locator("#figures figure[data-column]:visible").count() == 3
    assert page.locator("#cells details:visible").count() == len(shown)
    page.click("#controls [type=reset]")
    page.wait_for_function(
        "document.querySelectorAll('#main tr[data-row]:not([hidden])').length == 20"
    )
    assert page.locator("#main thead tr").nth(1).locator("th:visible").count() == 16


def test_another_view_swaps_the_numbers_and_back(page: Page, table: Table) -> None:
    first = page.locator("#main tbody tr").nth(1).locator("td").nth(0)
    before = first.inner_text()
    page.select_option("#controls [name=view]", label="Test, readout sum")
    assert page.locator("#shown").inner_text() == "Test, readout sum"
    cell = table.cell(table.rows[1], table.columns[0])
    assert f"{cell.readouts['test']['sum'].mean:.1f}" in first.inner_text()
    page.select_option("#controls [name=view]", label="Parameters")
    assert first.inner_text().split("\n")[0] == "648\u202f010"
    page.select_option("#controls [name=view]", index=0)
    assert first.inner_text() == before


def test_sorting_follows_what_is_shown(page: Page) -> None:
    page.locator("#main thead button").nth(1).click()
    page.select_option("#controls [name=view]", label="Train, s")
    assert in_order(column_of(page, 1), falling=True)


def test_a_number_tells_its_seeds(page: Page, table: Table) -> None:
    link = page.locator("#main tbody tr").nth(1).locator("td a").nth(0)
    values = table.cell(table.rows[1], table.columns[0]).estimate.values
    for reach in (link.hover, link.focus):
        reach()
        told = page.locator("#tip").inner_text()
        assert "95 % interval" in told and "n = 3" in told
        assert all(f"{v:.2f}" in told for v in values)
        assert link.get_attribute("aria-describedby") == "tip"
        page.keyboard.press("Escape")
        assert page.locator("#tip").is_hidden()


def test_the_keyboard_takes_the_seeds_along_where_the_table_scrolls(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("#main tbody tr").nth(1).locator("td a").last.focus()
    page.wait_for_timeout(300)
    assert page.locator("#main").evaluate("e => e.closest('.scroll').scrollLeft") > 0
    assert page.locator("#tip").is_visible()


def test_an_entry_opens_its_cell(page: Page, table: Table) -> None:
    page.locator("#main tbody tr").nth(1).locator("td a").nth(0).click()
    details = page.locator("#cells details[open]")
    assert details.count() == 1
    text = details.inner_text()
    cell = table.cell(table.rows[1], table.columns[0])
    for run in cell.runs:
        assert run.key in text
    assert "--only" in text and "0.1" in text  # the command again, the hyper-parameter
    assert details.locator("svg.curve polyline").count() == SEEDS
    details.locator("summary").first.click()
    assert page.locator("#cells details[open]").count() == 0
    page.locator("#main tbody tr").nth(1).locator("td a").nth(0).click()  # the same address
    assert page.locator("#cells details[open]").count() == 1


def test_downloads_hold_the_table(page: Page, table: Table) -> None:
    with page.expect_download() as caught:
        page.click("a[download$='-table.csv']")
    lines = list(csv.DictReader(io.StringIO(Path(caught.value.path()).read_text())))
    assert len(lines) == len(ROWS) * len(COLUMNS)
    tex = page.get_attribute("a[download$='.tex']", "href") or ""
    assert "\\toprule" in base64.b64decode(tex.partition(",")[2]).decode()


def usable(page: Page, width: int, scheme: str) -> None:
    """axe finds nothing serious, and the page itself never scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["nodes"][0]["html"][:200]) for v in serious]


# All widths and both schemes: contrast is the scheme's, the size of targets the width's.
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (768, "dark"), (390, "light")])
def test_anyone_can_use_it(page: Page, width: int, scheme: str) -> None:
    usable(page, width, scheme)


def test_the_other_pages_work_too(browser: Any, tmp_path: Path) -> None:
    for name, path in other_pages(tmp_path).items():
        with opened(browser, path) as page:
            usable(page, 1280, "light")
            usable(page, 390, "dark")
            for button in page.locator("thead button").all():
                button.evaluate("button => button.click()")
            assert (
                page.locator("thead button").count() == 0 or page.locator("th[aria-sort]").count()
            )
            link = page.locator("th a[href^='#cell-']")
            if name == "tuning":
                link.first.evaluate("link => link.click()")
                assert page.locator("details[open]").count() == 1
