"""The audit on the page: what was measured, beside what a method says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports import build as build_module
from reports import cost_figures
from reports.html import render as render_html
from results.record import cell_key
from tests.records import CURRENT, filled, make_plan, make_record, nothing


def audited(folder: Path, *measured: tuple[str, str, dict[str, Any]]) -> str:
    """The page of a table with two data sets and audits of (row, status, what was found)."""
    columns = ("digits/mlp-2x500", "mnist/mlp-2x500")
    plan = make_plan(tuple(dict.fromkeys(row for row, _, _ in measured)), columns, seeds=1)
    records = []
    plan["audits"] = []
    for row, status, found in measured:
        record = make_record(row, status=status, reason="it broke" if status != "ok" else None)
        record |= {"cell": {"audit": row}, "key": cell_key({"audit": row}), "audit": found}
        records.append(record)
        plan["audits"] += [
            {"key": record["key"], "row": row, "column": c, "code_sha": CURRENT} for c in columns
        ]
    return render_html(build_module.read("table1", filled(folder, plan, records), nothing))


FOUND = {"chain_longest": 2, "crosses_units": False, "depends_on_later": False, "label_free": True}


def test_the_audit_is_shown_once_for_all_data_sets(tmp_path: Path) -> None:
    page = audited(tmp_path, ("hff", "ok", FOUND))
    section = page[page.index('id="audit"') :].partition("</section>")[0]
    assert section.count('data-value="HFF"') == 1
    assert "\u2260 declared</td>" not in section


@pytest.mark.parametrize(
    ("row", "found", "marked"),
    [
        ("hff", {"crosses_units": True}, True),  # it says that it is local
        ("hff", {"depends_on_later": True}, True),
        ("hff", {"label_free": False}, True),
        ("backprop", {"crosses_units": True, "depends_on_later": True}, False),
    ],
)
def test_what_a_method_denies_is_marked(
    tmp_path: Path, row: str, found: dict[str, Any], marked: bool
) -> None:
    page = audited(tmp_path, (row, "ok", {**FOUND, **found}))
    assert ("\u2260 declared</td>" in page) == marked


def test_feedback_that_was_not_met_is_not_denied(tmp_path: Path) -> None:
    """A few steps may pass without the event by which news travels."""
    plan = make_plan(("hff",), seeds=1)
    plan["rows"][0]["feedback"] = "wrong labels come from later layers"
    plan["headline"] = {"split": "audit", "metric": "chain_longest"}
    record = make_record("hff") | {"audit": FOUND}
    page = render_html(build_module.read("table1", filled(tmp_path, plan, [record]), nothing))
    assert ">not seen</td>" in page and "local, with feedback" in page


def test_of_several_seeds_the_least_local_finding_counts(tmp_path: Path) -> None:
    plan = make_plan(("hff",), seeds=2)
    plan["headline"] = {"split": "audit", "metric": "chain_longest"}
    records = [
        make_record("hff", seed=seed)
        | {"audit": {**FOUND, "depends_on_later": bool(seed), "true_gradient": not seed}}
        for seed in range(2)
    ]
    table = build_module.read("table1", filled(tmp_path, plan, records), nothing)
    assert table.cells["hff", "digits/mlp-2x500"].audit["true_gradient"] is True
    assert table.cells["hff", "digits/mlp-2x500"].audit["depends_on_later"] is True
    assert "of 2 seeds" in render_html(table)


def test_an_audit_of_older_sources_does_not_hide_one_of_today(tmp_path: Path) -> None:
    plan = make_plan(("hff",), seeds=3)
    plan["headline"] = {"split": "audit", "metric": "chain_longest"}
    audits = [FOUND | {"true_gradient": None}, FOUND | {"true_gradient": True}]
    audits = [FOUND | {"crosses_units": True}, *audits]
    records = [
        make_record("hff", seed=seed, code_sha=CURRENT if seed else "dead") | {"audit": audit}
        for seed, audit in enumerate(audits)
    ]
    table = build_module.read("table1", filled(tmp_path, plan, records), nothing)
    cell = table.cells["hff", "digits/mlp-2x500"]
    assert not cell.audit_failure and cell.audit["crosses_units"] == FOUND["crosses_units"]
    assert cell.audit["true_gradient"] is True  # what a seed could not tell is no objection
    assert "not measured" not in render_html(table)


def test_a_failed_audit_is_on_the_page(tmp_path: Path) -> None:
    page = audited(tmp_path, ("hff", "failed", {}))
    assert "not measured: failed: it broke" in page


@pytest.mark.parametrize(("n", "lines"), [(cost_figures.MOST_LINES, True), (12, False)])
def test_memory_of_many_methods_is_drawn_without_lines(n: int, lines: bool, tmp_path: Path) -> None:
    """Twenty lines in seven colours tell nothing apart; their slopes in order do."""
    rows = ("backprop", *(f"rule-{i}" for i in range(n - 1)))
    plan = make_plan(rows, seeds=1)
    plan["headline"] = {"split": "audit", "metric": "chain_longest"}
    records = []
    for i, row in enumerate(rows):
        record = make_record(row)
        depths = [4, 8, 16, 32]
        record["audit"] = {
            "chain_longest": 1, "memory_depths": depths, "memory_slope_bytes": 1024.0 * (i + 1),
            "memory_bytes": [1024 * (i + 1) * depth for depth in depths],
        }  # fmt: skip
        records.append(record)
    table = build_module.read("table1", filled(tmp_path, plan, records), plan=plan)
    (panel,) = cost_figures.memory_panels(table)
    assert cost_figures.memory_has_lines(table) == lines
    assert ("KiB per added block" in panel.svg) != lines
    page = render_html(table)
    assert ("dashed: backprop" in page) != lines
