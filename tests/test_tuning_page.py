"""The page of a tuning, and what other pages say of tuned settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS, load_builtin
from methods.space import Choice, LogUniform
from reports import build as reports
from reports.table import Column, Row, Run
from reports.tuning import Point, Tuning
from reports.tuning_page import _notes, limits
from results.store import Store
from tests.test_tune import FEW, asked, filled, run_request, tuned_file

load_builtin()


# ------------------------------------------------------------------------------------ pages


def page_of(store: Store, folder: Path, suite: str = "table1-tune") -> str:
    return reports.build(suite, store, folder / "p")[0].read_text()


def test_the_page_of_a_tuning(tmp_path: Path) -> None:
    """Budget, gain and sensitivity; and nothing of the test set, or it would have a say."""
    request = asked(*FEW, "--points", "4")
    store = filled(tmp_path, request, {"backprop": [90.0, 95.0, 10.0, "diverged"],
                                       "hff": [97.0, "failed", 96.0, None]})  # fmt: skip
    page = page_of(store, tmp_path)
    assert page == page_of(store, tmp_path)
    assert "Unfinished: of 8 points 5 ok, 1 diverged, 1 failed, 1 missing." in page
    assert "+5.00" in page and "as untuned" in page and "it diverged" in page
    assert page.count("<figure") == len(METHODS["backprop"].space) + len(METHODS["hff"].space)
    assert "0.0001 to 0.01, logarithmic" in page and "1, 2, 4 or 8" in page
    assert "12.34" not in page and "http" not in page.replace("http://www.w3.org", "")
    line = (tmp_path / "p/table1-tune/table1-tune.csv").read_text().splitlines()[2]
    assert line.startswith("backprop,backprop,digits,mlp-2x500,1,ok,,False,95.0,True,")


def made_up(values: list[float], rates: list[float], n: int = 100) -> Tuning:
    """One tuning of a rate between 1e-4 and 1, judged by n validation images."""
    tried = [
        Point(i, {"lr": rate, "k": 1}, Run("0", 0, "ok", None, value, False, {
            "metrics": {"val": {"last": {"n": n}}}}))
        for i, (value, rate) in enumerate(zip(values, rates, strict=True))
    ]  # fmt: skip
    row = Row("hff", "HFF", "hff", "", "last", ("last",), True, "", "", "", ())
    column = Column("c", "digits", "mlp-2x500", "mlp-2x500", {})
    space = {"lr": LogUniform(1e-4, 1.0).as_dict(), "k": Choice(1, 2).as_dict()}
    return Tuning(row, column, tuple(tried), space)


def test_what_chance_chose_and_what_lies_at_an_end_is_said() -> None:
    # of 100 images 90 % has a standard error of 3 points
    near = made_up([90.0, 87.1, 86.9, 80.0], [1e-4, 1e-3, 1e-2, 1.0])
    assert near.standard_error == pytest.approx(3.0) and near.n_level == 1
    assert near.edges == ["lr near the low end"]
    exact = made_up([90.0, 87.1], [0.41, 0.3], n=10_000)
    assert exact.n_level == 0 and exact.edges == ["lr near the high end"]
    assert made_up([90.0, 89.0], [0.39, 0.3]).edges == []  # nine tenths of the range, just not
    assert made_up([90.0, 89.0], [10.0, 0.3]).edges  # untuned settings may lie outside
    top = made_up([100.0, 100.0, 99.0], [0.01, 0.3, 0.4])
    # half an image of 100 is left where all are right
    assert top.standard_error == pytest.approx(0.7053, abs=1e-3) and top.n_level == 1
    assert _notes(top)[-1].startswith("1 other point level with it")


def test_beyond_a_share_of_none_there_is_nothing_to_try() -> None:
    found = made_up([90.0, 89.0], [0.001, 0.3])
    decay = {"scale": "linear", "low": 0.0, "high": 1.0}
    assert dataclasses.replace(found, space={"lr": decay}).edges == []
    assert dataclasses.replace(found, space={"lr": decay | {"low": 1e-4}}).edges


def test_points_of_older_sources_are_told(tmp_path: Path) -> None:
    store = filled(tmp_path, asked(*FEW, "--points", "2"), {"backprop": [90, 95], "hff": [97, 96]})
    for path in store.records_dir.iterdir():
        path.write_text(path.read_text().replace('"code_sha": "', '"code_sha": "f'))
    page = page_of(store, tmp_path)
    assert "of 4 points 4 ok; 4 made by older sources (†)." in page
    assert page.count("† made by older sources") == 2  # at the settings that were chosen


def test_the_page_leads_to_the_table_with_the_chosen_settings(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    page = page_of(Store(tmp_path / "r"), tmp_path)
    places = "--methods backprop hff --architectures mlp-2x500"
    assert f"python -m suites.run table1 {places} --tuned {path}" in page
    capped = run_request(*FEW, "--tuned", str(path))
    assert [t["points"] for t in capped.plan["tuned"]] == [2, 2]


def test_the_page_is_built_again_from_what_is_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tuned_file(tmp_path)
    page = tmp_path / "p/table1-tune/index.html"
    before = page.read_bytes()
    page.unlink()
    where = ["--results-dir", str(tmp_path / "r"), "--report-dir", str(tmp_path / "p")]
    assert reports.main(["table1-tune", *where]) == 0
    assert page.read_bytes() == before
    assert reports.main(["local-loss-tune", *where]) == 2
    assert "python -m suites.tune local-loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plan: plan["cells"].pop(), "budget of every method is 2"),
        (lambda plan: plan.pop("tuning"), "no 'tuning'"),
        (lambda plan: plan["cells"][0].pop("settings"), "cells[0]"),
        (lambda plan: plan["tuning"]["spaces"].pop("hff"), "search space of hff"),
    ],
)
def test_a_plan_that_is_not_fair_or_not_whole_is_named(
    spoil: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    request = asked(*FEW, "--points", "2")
    spoil(request.plan)
    store = Store(tmp_path / "r")
    store.write_plan(request.plan)
    with pytest.raises(reports.ReportError, match=re.escape(words)):
        reports.read("table1-tune", store)


def test_pages_say_which_settings_are_tuned(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    for more, sentence in (
        ([], "Settings: tuned with 2 points."),
        (["--methods", "backprop", "hff", "ff"],
         "Settings: tuned with 2 points but default settings for Forward-Forward."),
        (["--architectures", "mlp-2x500", "cnn-small"],
         "Settings: digits, mlp-2x500: tuned with 2 points; digits, cnn-small: default settings."),
    ):  # fmt: skip
        request = run_request(*FEW, *more, "--tuned", str(path))
        Store(tmp_path / "r").write_plan(request.plan)
        page = page_of(Store(tmp_path / "r"), tmp_path, "table1")
        assert sentence in page and "Tuned settings" in page
    Store(tmp_path / "r").write_plan(run_request(*FEW).plan)
    page = page_of(Store(tmp_path / "r"), tmp_path, "table1")
    assert "Settings:" not in page and "Tuned settings" not in page


def test_what_failed_to_learn_does_not_squeeze_the_panel() -> None:
    bottom, top = limits([10.0, 95.0, 96.0, 97.0, 98.0])
    assert (bottom, top) == (90.0, 98.0)
    assert limits([98.0, 98.0]) == (97.0, 98.0)
    assert limits([10.0]) == (9.0, 10.0)
