"""How figures are laid out: axes that can be read, names that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from reports import build, figures
from reports.drawing import BY_ERROR, spread_by_error, style
from reports.table import Table
from tests.records import filled, make_plan, make_record, nothing

COLUMN = "digits/mlp-2x500"


def table_of(folder: Path, **accuracies: tuple[float, ...]) -> Table:
    """One column; the accuracies of each row's seeds."""
    n = max(map(len, accuracies.values()))
    records = [
        make_record(row, accuracy=value, seed=seed)
        for row, values in accuracies.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    plan = make_plan(tuple(accuracies), seeds=n)
    return build.read("table1", filled(folder, plan, records), nothing)


def test_an_axis_is_spread_by_the_logarithm_of_the_error() -> None:
    axes = Figure().subplots()
    assert spread_by_error(axes, "x", [80, 98])
    to_place = axes.transScale
    places = to_place.transform([(a, 0) for a in (80, 90, 98, 99)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[3] - places[2])
    assert np.allclose(to_place.inverted().transform(np.stack([places, 0 * places], 1))[:, 0],
                       [80, 90, 98, 99])  # fmt: skip


@pytest.mark.parametrize("values", [[], [97, 98], [93, 98], [50, 100], [50, 99.9]])
def test_near_values_and_no_error_at_all_leave_an_axis_as_it_is(values: list[float]) -> None:
    axes = Figure().subplots()
    assert not spread_by_error(axes, "y", values)
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("worst", "best", "spread"), [((90, 91, 92), (98, 98.1, 98.3), True),
                                  ((10, 11, 12), (95, 98, 99.7), True),  # 97.6 ± 5.9: beyond 100
                                  ((10, 50, 90), (98, 98.1, 98.2), True),  # 50 ± 99: beyond 0
                                  ((96, 96, 96), (98, 98.1, 98.3), False)],
)  # fmt: skip
def test_values_and_intervals_lie_on_the_axis(
    tmp_path: Path, worst: tuple[float, ...], best: tuple[float, ...], spread: bool
) -> None:
    table = table_of(tmp_path, backprop=best, ff=worst)
    with style():
        axes = Figure().subplots()
        figures.draw_accuracy(axes, table, table.columns[0])
    low, high = axes.get_xlim()
    assert -0.5 < low < min(worst) and max(best) < high < 100.5
    assert axes.get_xlabel().endswith(BY_ERROR) == spread
    axes.figure.draw_without_rendering()
    labels = [t.get_text() for t in axes.get_xticklabels()
              if low <= t.get_position()[0] <= high]  # fmt: skip
    assert len(labels) >= 2


def test_one_epoch_is_one_tick(tmp_path: Path) -> None:
    table = table_of(tmp_path, backprop=(98.0,), ff=(60.0,))
    axes = Figure().subplots()
    figures.draw_curves(axes, table, table.columns[0])
    epochs = {epoch for row in table.rows
              for epoch, _ in table.cell(row, table.columns[0]).curve}  # fmt: skip
    low, high = axes.get_xlim()
    assert {tick for tick in axes.get_xticks() if low <= tick <= high} <= {*map(float, epochs)}


def test_lines_of_memory_are_named(tmp_path: Path) -> None:
    plan = make_plan(("backprop", "hff"), seeds=1)
    plan["headline"] = {"split": "audit", "metric": "chain_longest"}
    records = [make_record(row) for row in ("backprop", "hff")]
    for record in records:
        record["audit"] = {
            "memory_depths": [1, 2, 4], "memory_bytes": [2**20, 2**21, 2**22],
            "memory_slope_bytes": 2.0**20, "chain_longest": 1,
        }  # fmt: skip
    table = build.read("table1", filled(tmp_path, plan, records), nothing)
    ((name, sheet),) = figures._sheets(table)
    assert name == "memory"
    assert [text.get_text() for text in sheet.legends[0].get_texts()] == ["BACKPROP", "HFF"]


def test_the_key_of_a_sheet_fits_it_with_all_its_names(tmp_path: Path) -> None:
    rows = {f"a-row-with-a-rather-long-name-{i:02}": (90.0 + i,) for i in range(9)}
    table = table_of(tmp_path, **rows)
    sheets = dict(figures._sheets(table))
    sheet = sheets["curves"]
    sheet.draw_without_rendering()
    (key,) = sheet.legends
    extent = key.get_window_extent()
    assert len(key.get_texts()) == 9
    assert extent.x0 >= 0 and extent.x1 <= sheet.bbox.width
    assert sheet.axes[0].get_window_extent().y0 > extent.y1
