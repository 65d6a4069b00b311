"""The page about costs: rates, one method against another, growth with size."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reports import cost_figures, html, latex, speed, targets
from reports.build import read, write
from reports.table import Table
from results.store import Store
from suites.show import show_table
from tests.records import CURRENT, HOSTILE, filled, make_plan, make_record
from tests.test_reports import compiled

CLASSES = (10, 100, 1000)
COLUMNS = tuple(f"noise-3x4x4-c{c}/mlp-3x8" for c in CLASSES)


def rates(images_per_s: float, ratio: float, flops: float = 1e6) -> dict[str, Any]:
    """Figures whose range is 10 % on both sides."""
    return {
        "images_per_s": {"median": images_per_s, "low": images_per_s / 2, "high": images_per_s * 2},
        "ratio": {"median": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio},
        "flops_per_image": flops,
        "passes": 1,
    }


def timed(predict: dict[str, dict[str, Any]]) -> dict[str, Any]:
    train = rates(500.0, 0.5) | {
        "peak_share_pct": 41.0, "data_share_pct": 2.0, "joules_per_image": None,
    }  # fmt: skip
    return {
        "repeats": 5,
        "train": train,
        "predict": predict,
        "latency_ms": {way: {"p50": 0.1, "p90": 0.2, "p99": 0.3, "calls": 9} for way in predict},
    }


def made(folder: Path, rows: tuple[str, ...] = ("backprop", "hff", "ff")) -> Table:
    """FF's goodness costs as many passes as there are classes; backprop is not compared."""
    plan = make_plan(rows, COLUMNS, seeds=1)
    plan |= {"headline": {"split": "timings", "metric": "train_images_per_s"}}
    plan["comparisons"] = [["hff", "ff"]] if "ff" in rows else []
    records = []
    for column, c in zip(plan["columns"], CLASSES, strict=True):
        column["axes"] = {"classes": c, "blocks": 3, "width": 8, "batch size": 64}
        ways = {
            "backprop": {"last": rates(1000, 1.0)},
            "hff": {"last": rates(900, 0.9), "sum": rates(700, 0.7)},
            "ff": {
                "goodness": rates(1000 / c, 1 / c, c * 1e6),
                "goodness_all": rates(1000 / c, 1 / c, c * 1e6),
                "softmax": rates(800, 0.8),
                "goodness, looped": rates(300 / c, 0.3 / c, c * 2e6),
            },
        }
        for row in rows:
            record = make_record(row, column["id"])
            record |= {"metrics": {}, "curves": {}, "speed": timed(ways[row])}
            records.append(record)
    return read("table1", filled(folder, plan, records), plan=plan)


def test_one_method_against_every_way_of_another(tmp_path: Path) -> None:
    """Both are multiples of what backprop did meanwhile; the range is the widest there is."""
    (found,) = speed.comparisons(made(tmp_path))
    assert (found.one.id, found.other.id) == ("hff", "ff")
    assert found.ways == ("goodness", "goodness_all", "softmax", "goodness, looped")
    column, sizes, texts = found.entries[1]
    assert column.dataset == "noise-3x4x4-c100"
    assert sizes == "100 classes, 3 blocks, width 8, batch size 64"
    assert texts[0] == "90 (74–110)"  # 0.9 · 100; 0.81 / 1.1 and 0.99 / 0.9 of that
    assert texts[2] == "1.1 (0.92–1.4)" and texts[3] == "300 (245–367)"


def test_a_comparison_needs_both(tmp_path: Path) -> None:
    assert speed.comparisons(made(tmp_path, ("backprop", "hff"))) == []


def test_ratios_are_written_to_two_digits() -> None:
    texts = [speed.ratio_text({"median": v, "low": v, "high": v}).partition(" (")[0]
             for v in (0.0123, 0.987, 1.04, 10.6, 96.7, 1234.5, 0.0, float("inf"))]  # fmt: skip
    assert texts == ["0.012", "0.99", "1.0", "11", "97", "1\u202f234", "–", "–"]


def test_growth_is_fitted_as_a_power_law(tmp_path: Path) -> None:
    found = speed.scalings(made(tmp_path))
    assert [(s.axis, s.what) for s in found] == [("classes", "training"), ("classes", "prediction")]
    assert found[0].held == "3 blocks, width 8, batch size 64"
    slopes = {line.label: line.slope for line in found[1].lines}
    assert slopes == {
        "BACKPROP": pytest.approx(0, abs=1e-9),
        "HFF": pytest.approx(0, abs=1e-9),
        "FF, goodness": pytest.approx(1),
        "FF, softmax": pytest.approx(0, abs=1e-9),
        "FF, goodness, looped": pytest.approx(1),
    }  # goodness_all runs the same as goodness
    line = speed.Line("r", "l", (2.0, 4.0, 8.0), (3.0, 12.0, 48.0))
    assert line.slope == pytest.approx(2)


def test_two_sizes_make_no_figure(tmp_path: Path) -> None:
    table = made(tmp_path)
    fewer = Table(table.plan, table.rows, table.columns[:2], table.cells)
    assert speed.scalings(fewer) == []


def test_the_page_of_a_suite_about_costs(tmp_path: Path) -> None:
    table = made(tmp_path)
    page = html.render(table)
    assert "HFF against FF" in page and "90 (74–110)" in page
    assert 'id="readouts"' not in page and 'id="claims"' not in page
    assert page.count("slope 1.00") == 2 * page.count("FF, goodness: slope 1.00")
    anchors = set(re.findall(r'id="([\w.-]+)"', page))
    assert set(re.findall(r'href="#([\w.-]+)"', page)) <= anchors
    assert 'class="best"' not in page  # single runs: no contest
    names = {path.name for path in write(table, tmp_path / "out")}
    assert {"scaling.pdf", "scaling.png"} <= names and "curves.pdf" not in names
    assert r"\textbf" not in latex.render(table)


def test_the_latex_of_a_suite_about_costs(tmp_path: Path) -> None:
    """The comparison and every line of the page, ready for a paper; no column without a value."""
    table = made(tmp_path)
    (folder,) = {path.parent for path in write(table, tmp_path / "out")}
    text = (folder / "table1-costs.tex").read_text()
    assert text.isascii() and r"90 (74\textendash{}110)" in text
    tables = re.findall(r"\\endfoot\n(.*?)\\end\{longtable\}", text, flags=re.DOTALL)
    for section, found in zip(speed.sections(table), tables, strict=True):
        n_lines = sum(len(lines) for _, entries in section.groups for _, lines in entries)
        assert sum("&" in line for line in found.splitlines()) == n_lines
    assert r"\input{table1-costs.tex}" in (folder / "table1-standalone.tex").read_text()
    assert "J per image" not in text  # no device here tells
    names = {path.name for path in write(trained(tmp_path / "t", {"a": [(1.0, 9.0)]}), tmp_path)}
    assert not any("costs" in name for name in names)


def test_hostile_latex_of_costs_compiles(tmp_path: Path) -> None:
    table = made(tmp_path)
    plan = dict(table.plan)
    for i, row in enumerate(plan["rows"]):
        row["label"] = f"{i} {HOSTILE}"
    again = read("table1", Store(tmp_path), plan=plan)
    write(again, tmp_path / "out")
    compiled(tmp_path / "out" / "table1")


def test_of_several_seeds_the_median_and_the_widest_range(tmp_path: Path) -> None:
    """Not what the first seed happened to take; where sources are older, LaTeX says it, too."""
    plan = make_plan(("hff",), COLUMNS[:1], seeds=3)
    plan |= {"headline": {"split": "timings", "metric": "train_images_per_s"}}
    records = []
    for seed, (rate, ratio) in enumerate([(100.0, 0.5), (300.0, 0.6), (200.0, 1.0)]):
        record = make_record("hff", COLUMNS[0], seed, code_sha=CURRENT if seed else "dead")
        figures = timed({"last": rates(rate, ratio)})
        records.append(record | {"metrics": {}, "curves": {}, "speed": figures})
    table = read("table1", filled(tmp_path, plan, records), plan=plan)
    figures = table.cells["hff", COLUMNS[0]].speed
    assert figures["predict"]["last"]["images_per_s"] == {"median": 200, "low": 50, "high": 600}
    assert speed.ratio_text(figures["predict"]["last"]["ratio"]) == "0.60 (0.45\u20131.1)"
    assert figures["repeats"] == 5 and figures["train"]["joules_per_image"] is None
    text = latex.render_costs(table)
    assert r"HFF$\dagger$" in text and r"\par $\dagger$: made in part by older sources" in text


@pytest.mark.parametrize("width", [60, 200])
def test_the_terminal_gets_as_many_columns_as_it_has_room_for(width: int, tmp_path: Path) -> None:
    table, out = made(tmp_path), io.StringIO()
    show_table(table, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "\u2026" not in out.getvalue()  # nothing is cut short
    assert "90 (74\u2013110)" in out.getvalue()  # one over the other
    n_tables = sum(line.startswith("\u250f") for line in lines)
    assert n_tables == 2 if width == 200 else n_tables > 2


def test_the_csv_has_every_figure(tmp_path: Path) -> None:
    import pandas

    table = made(tmp_path)
    write(table, tmp_path / "out")
    frame = pandas.read_csv(tmp_path / "out" / "table1" / "table1.csv")
    ff = frame[frame.row.eq("ff")] if "row" in frame else frame
    assert ff["speed.predict.goodness, looped.ratio.median"].tolist() == [0.03, 0.003, 0.0003]


def test_a_place_that_nobody_asked_for_is_a_dash(tmp_path: Path) -> None:
    plan = make_plan(("backprop", "hff"), COLUMNS[:2], seeds=1)
    plan["cells"] = [c for c in plan["cells"] if (c["row"], c["column"]) != ("hff", COLUMNS[1])]
    table = read("table1", filled(tmp_path, plan, []), plan=plan)
    assert table.cell(table.rows[1], table.columns[1]).state == "unwanted"
    page = html.render(table)
    assert "unwanted</" not in page and "not asked for by this plan" in page


# ----------------------------------------------------------------- from training records


def trained(folder: Path, curves: dict[str, list[tuple[float, float]]]) -> Table:
    """One seed a row, with (seconds, validation accuracy) after each epoch."""
    plan = make_plan(tuple(curves), seeds=1)
    records = []
    for row, curve in curves.items():
        record = make_record(row)
        seconds, values = zip(*curve, strict=True)
        record["curves"] |= {"train_s": list(seconds), "val_accuracy_pct": list(values)}
        record["curves"]["epoch"] = list(range(1, len(curve) + 1))
        records.append(record)
    return read("table1", filled(folder, plan, records), plan=plan)


def test_time_to_a_target_is_read_off_the_curve(tmp_path: Path) -> None:
    table = trained(
        tmp_path,
        {
            "a": [(1.0, 60.0), (2.0, 90.0), (3.0, 100.0)],
            "b": [(5.0, 99.0), (9.0, 50.0)],  # above it once is enough
            "c": [(1.0, 10.0), (2.0, 20.0)],
        },
    )
    column = table.columns[0]
    aim = targets.target(table, column)
    assert aim == 98.0  # of the best at the end
    times = [targets.seconds_to(table.cell(row, column), aim) for row in table.rows]
    assert times == [pytest.approx(2.8), 5.0, None]
    assert "train to target, s" in html.render(table)


def test_divergence_is_no_way_to_be_fast(tmp_path: Path) -> None:
    """The seeds that are left may be the good ones: they set no target, and reach none."""
    plan = make_plan(("backprop", "hff"), seeds=3)
    records = [make_record("backprop", seed=s, accuracy=95.0) for s in range(3)]
    records.append(make_record("hff", seed=0, accuracy=99.5))
    records += [make_record("hff", seed=s, status="diverged") for s in (1, 2)]
    for record in records:
        record["curves"] |= {"epoch": [1, 2], "train_s": [1.0, 2.0]}
        value = 99.5 if record["cell"]["method"] == "hff" else 95.0
        record["curves"]["val_accuracy_pct"] = [value, value]
    table = read("table1", filled(tmp_path, plan, records), plan=plan)
    (column,) = table.columns
    aim = targets.target(table, column)
    assert aim == pytest.approx(0.98 * 95.0)
    backprop, hff = (table.cell(row, column) for row in table.rows)
    assert targets.seconds_to(backprop, aim) == 1.0 and targets.seconds_to(hff, aim) is None
    page = html.render(table)
    assert "Hollow: some seeds are not ok" in page
    front = cost_figures.pareto_panels(table)[0]
    assert front.svg.count("fill: none") and "Hollow" not in html.render(trained(tmp_path / "t", {
        "a": [(1.0, 9.0), (2.0, 9.5)]}))  # fmt: skip


def test_time_to_a_target_is_a_median_like_the_costs_beside_it(tmp_path: Path) -> None:
    """One seed that was slowed down says nothing of the method."""
    plan = make_plan(("backprop",), seeds=3)
    records = []
    for seed in range(3):
        record = make_record("backprop", seed=seed)
        seconds = [s * (10 if seed == 2 else 1) for s in (1.0, 2.0)]
        record["curves"] |= {
            "train_s": seconds, "val_accuracy_pct": [90.0, 100.0], "epoch": [1, 2],
        }  # fmt: skip
        records.append(record)
    table = read("table1", filled(tmp_path, plan, records), plan=plan)
    cell = table.cell(table.rows[0], table.columns[0])
    assert targets.seconds_to(cell, 95.0) == pytest.approx(1.5)


def test_the_front_joins_what_nothing_beats(tmp_path: Path) -> None:
    table = trained(tmp_path, {row: [(1.0, 90.0)] for row in ("a", "b")})
    panels = cost_figures.pareto_panels(table)
    # memory is not known here
    assert [panel.title for panel in panels] == ["digits, mlp-2x500, against training time"]
    assert "training, s" in panels[0].svg


@pytest.mark.parametrize(
    ("measured", "label"),
    [("peak_rss_growth_bytes", "process memory growth, MiB"),
     ("peak_allocated_bytes", "peak device memory, MiB")],
)  # fmt: skip
def test_memory_in_a_figure_has_the_name_it_has_in_the_table(
    tmp_path: Path, measured: str, label: str
) -> None:
    records = [make_record(row, accuracy=90.0) for row in ("backprop", "hff")]
    for i, record in enumerate(records):
        record["cost"] |= {measured: (i + 1) * 2**20}
    plan = make_plan(("backprop", "hff"), seeds=1)
    table = read("table1", filled(tmp_path, plan, records), plan=plan)
    memory = [p for p in cost_figures.pareto_panels(table) if p.title.endswith("memory")]
    assert len(memory) == 1 and label in memory[0].svg


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, "quiet."), (2.0, "busy")])
def test_the_page_says_whether_the_machine_was_quiet(
    factor: float, verdict: str, tmp_path: Path
) -> None:
    table = made(tmp_path)
    assert speed.quiet(table) == ""
    for i, (_, _, run) in enumerate(table.runs):
        assert run.record is not None
        rate = 1e9 * (factor if i == 1 else 1.0)
        run.record["speed"]["peak"] = {
            "operation": "matrix product", "flops_per_s": {"median": rate},
        }  # fmt: skip
    assert f"by a factor of {factor:.2f}" in speed.quiet(table) and verdict in speed.quiet(table)
    assert f"by a factor of {factor:.2f}" in html.render(table)
    for _, _, run in table.runs:  # a steady load slows all cells alike
        assert run.record is not None
        run.record["speed"]["peak"]["cores_pct"] = 52.0
    assert "52 % of the cores" in speed.quiet(table) and "busy" in speed.quiet(table)
