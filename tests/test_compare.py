"""Comparisons: a difference is told where there is one, and not where there is only chance."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from reports.compare import main, read
from reports.comparing import page as comparison_page
from reports.comparing import text as comparison_text
from reports.comparing.alignment import CompareError
from reports.comparing.comparison import Comparison, Pair, notes, summary
from reports.differences import (
    Difference,
    difference,
    hedges,
    holm_adjusted,
    paired,
    pooled,
    welch,
)
from results.record import cell_key
from results.store import Store
from tests.records import filled, make_plan, make_record, make_tuning
from tests.test_reports import HOSTILE, _Page

IMAGE = 100 / 360  # one image of the test set, in percentage points

# ------------------------------------------------------------------------------ statistics

accuracy = st.floats(0, 100).map(lambda x: round(x, 3))
several = {"min_size": 3, "max_size": 8}


def scatters(numbers: Sequence[float]) -> bool:
    return float(np.std(numbers)) > 1e-3


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(accuracy, accuracy), **several).filter(
        lambda pairs: scatters([y - x for x, y in pairs])
    )
)
def test_paired_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    found, theirs = paired(a, b), stats.ttest_rel(b, a)
    low, high = theirs.confidence_interval()
    assert found.p_value == pytest.approx(float(theirs.pvalue), rel=1e-6, abs=1e-12)
    assert found.mean - found.half_width == pytest.approx(low, abs=1e-7)
    assert found.mean + found.half_width == pytest.approx(high, abs=1e-7)
    differences = np.subtract(b, a)
    d_z = differences.mean() / differences.std(ddof=1)
    assert found.effect == pytest.approx(d_z * hedges(len(a) - 1), rel=1e-6)
    assert found.paired and found.df == len(a) - 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(accuracy, **several).filter(scatters), st.lists(accuracy, **several).filter(scatters)
)
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    found, theirs = welch(a, b), stats.ttest_ind(b, a, equal_var=False)
    low, high = theirs.confidence_interval()
    assert found.p_value == pytest.approx(float(theirs.pvalue), rel=1e-6, abs=1e-12)
    assert found.df == pytest.approx(float(theirs.df))
    assert found.mean - found.half_width == pytest.approx(low, rel=1e-6, abs=1e-7)
    assert found.mean + found.half_width == pytest.approx(high, rel=1e-6, abs=1e-7)
    root = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    assert found.effect is not None and abs(found.effect) <= abs(found.mean) / root + 1e-12
    assert not found.paired


def test_hedges_correction_has_its_closed_forms() -> None:
    """Uncorrected, an effect of three seeds is shown almost twice as large as it is."""
    assert hedges(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert hedges(3) == pytest.approx(math.sqrt(math.pi / 6))
    assert hedges(4) == pytest.approx(math.sqrt(2 / math.pi))
    for df in (20, 100, 1000):
        assert hedges(df) == pytest.approx(1 - 3 / (4 * df - 1), rel=1e-4)
    assert hedges(1) == 0.0


def test_effects_are_unbiased() -> None:
    """True effect 0.8: of pairs, and of two groups of unlike size and equal spread."""
    draw = np.random.default_rng(0)
    pairs, groups = [], []
    for _ in range(4000):
        noise = draw.normal(0.8, 1, 6)
        pairs.append(paired([0.0] * 6, list(noise)).effect)
        groups.append(welch(list(draw.normal(0, 2, 5)), list(draw.normal(1.6, 2, 7))).effect)
    assert np.mean(pairs) == pytest.approx(0.8, abs=0.03)
    assert np.mean(groups) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("n", "other_spread"), [((4, 4), 3.0), ((3, 7), 1.0), ((5, 8), 0.3)])
def test_welch_intervals_cover_as_often_as_they_say(
    n: tuple[int, int], other_spread: float
) -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(2500):
        a, b = draw.normal(0, 1, n[0]), draw.normal(2, other_spread, n[1])
        found = welch(list(a), list(b))
        hits += abs(found.mean - 2) <= found.half_width
    assert hits / 2500 == pytest.approx(0.95, abs=0.02)


def test_welch_covers_where_equal_spreads_would_not() -> None:
    """Few seeds of the method that scatters: Student's interval covers about 80 % here."""
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(2500):
        found = welch(list(draw.normal(0, 5, 4)), list(draw.normal(0, 1, 12)))
        hits += abs(found.mean) <= found.half_width
    assert hits / 2500 == pytest.approx(0.95, abs=0.02)


def test_without_spread_any_difference_is_certain() -> None:
    assert paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value == 1.0
    assert paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]).p_value == 0.0
    assert paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]).effect is None
    assert welch([1.0] * 3, [1.0] * 4).p_value == 1.0
    assert welch([1.0] * 3, [2.0] * 4).p_value == 0.0


def test_one_image_in_every_seed_is_no_finding() -> None:
    """Two machines round differently: equal small differences are common, and have no spread."""
    a = {0: 97.0, 1: 97.5, 2: 98.0}
    for images, found in ((1, False), (2, True)):
        b = {seed: value + images * IMAGE for seed, value in a.items()}
        tested = difference(a, b, IMAGE)
        assert tested is not None and (tested.p_value <= 0.05) is found
        other = difference(a, {7: b[0], 8: b[1], 9: b[2]}, 100.0)
        assert other is not None and not other.paired and other.p_value > 0.5


def test_chance_alone_is_found_in_five_percent_of_comparisons_at_most() -> None:
    """12 cells of two machines, whole images apart by chance: the family is what is corrected."""
    draw = np.random.default_rng(3)
    alarms = 0
    for _ in range(600):
        p_values = []
        for _ in range(12):
            images = draw.integers(-1, 2, 3)
            a = dict.fromkeys(range(3), 97.0)
            b = {seed: 97.0 + IMAGE * images[seed] for seed in range(3)}
            tested = difference(a, b, IMAGE)
            assert tested is not None
            p_values.append(tested.p_value)
        alarms += min(holm_adjusted(p_values)) <= 0.05
    assert alarms / 600 <= 0.05


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([0.5, 0.9]) == [1.0, 1.0]
    assert holm_adjusted([]) == []


# -------------------------------------------------------------------------------- verdicts

COLUMN = "digits/mlp-2x500"
METHODS = ("backprop", "hff", "ff", "noprop", "mono", "dfa")


def run(row: str, seed: int, accuracy: float, **options: Any) -> dict[str, Any]:
    record = make_record(row, seed=seed, accuracy=accuracy, **options)
    for split in record["metrics"].values():
        for readout in split.values():
            readout["loss"] = 2 - accuracy / 100
    return record


def two_machines(folder: Path) -> tuple[Path, Path]:
    """A cell of every verdict."""
    plan = make_plan(METHODS)
    noise = (0.0, 0.9, -0.7)
    a = [run("backprop", s, 97 + noise[s]) for s in range(3)]
    b = [run("backprop", s, 97 + noise[s]) for s in range(3)]  # the same
    a += [run("hff", s, 95 + noise[s]) for s in range(3)]
    b += [run("hff", s, 85 + 0.99 * noise[s]) for s in range(3)]  # worse
    a += [run("ff", s, 90 + noise[s]) for s in range(3)]
    b += [run("ff", s, 90 + noise[2 - s]) for s in range(3)]  # as good
    a += [run("noprop", s, 80 + noise[s]) for s in range(2)]
    b += [run("noprop", s, 70 + noise[s]) for s in range(2)]  # who knows
    a += [run("mono", s, 80 + noise[s]) for s in range(3)]  # only here
    a += [run("dfa", s, 60 + noise[s]) for s in range(3)]
    b += [run("dfa", s, 0, status="diverged", reason="loss is NaN") for s in range(3)]
    for record in b:
        record["environment"] |= {"host": "node2", "threads": 8, "gpu": "a GPU", "git_dirty": True,
                                  "packages": {"torch": "2.15.0", "numpy": "2.0"}}  # fmt: skip
        record["timings"] = {**record["timings"], "train_images_per_s": 24690.0}
    stores = [filled(folder / name, plan, list(r)) for name, r in (("a", a), ("b", b))]
    return stores[0].root, stores[1].root


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {pair.row.id: pair.verdict for pair in comparison.pairs}


def pair_of(comparison: Comparison, row: str) -> Pair:
    (pair,) = [pair for pair in comparison.pairs if pair.row.id == row]
    return pair


def test_every_verdict(tmp_path: Path) -> None:
    a, b = two_machines(tmp_path)
    found = read(str(a), str(b))
    assert verdicts(found) == {
        "backprop": "same bits", "hff": "differs", "ff": "no difference seen",
        "noprop": "too few seeds to say", "mono": "only in A", "dfa": "status changed",
    }  # fmt: skip
    assert pair_of(found, "hff").shift == pytest.approx(-10, abs=0.01)
    assert [c.after for c in pair_of(found, "dfa").changes] == ["diverged"] * 3
    assert found.exit_status == 1
    turned = read(str(b), str(a))
    assert verdicts(turned)["mono"] == "only in B"
    assert pair_of(turned, "hff").shift == pytest.approx(10, abs=0.01)
    assert pair_of(turned, "ff").p_value == pytest.approx(pair_of(found, "ff").p_value)


def test_a_result_on_one_side_only_is_not_no_result(tmp_path: Path) -> None:
    plan = make_plan(("hff",))
    ours = [run("hff", s, 95.0) for s in (0, 1)]
    theirs = [run("hff", 2, 0, status="diverged", reason="loss is NaN")]
    stores = [filled(tmp_path / n, plan, r) for n, r in (("a", ours), ("b", theirs))]
    a, b = (str(store.root) for store in stores)
    assert verdicts(read(a, b)) == {"hff": "result in A only"} and read(a, b).exit_status == 1
    assert verdicts(read(b, a)) == {"hff": "result in B only"}
    assert "1 result in A only" in summary(read(a, b))


def test_equal_bits_are_no_test(tmp_path: Path) -> None:
    a, b = two_machines(tmp_path)
    lines = csv.DictReader(io.StringIO(comparison_page.to_csv(read(str(a), str(b)))))
    same = next(line for line in lines if line["verdict"] == "same bits")
    assert same["test"] == same["p"] == same["low"] == ""


def test_p_values_are_corrected_over_all_cells(tmp_path: Path) -> None:
    """A single cell at p = 0.03 is a finding; the same among four is none."""
    noise_a, noise_b = (0.0, 1.0, 2.0), (3.0, 5.2, 4.6)
    for n, verdict in ((1, "differs"), (4, "no difference seen")):
        rows = METHODS[:n]
        records = [[run(r, s, 90 + noise[s]) for r in rows for s in range(3)]
                   for noise in (noise_a, noise_b)]  # fmt: skip
        for i, row in enumerate(rows[1:], start=1):
            records[1] = [r if r["cell"]["method"] != row else run(row, r["cell"]["seed"], 90 + i)
                          for r in records[1]]  # fmt: skip
        stores = [filled(tmp_path / f"{n}{i}", make_plan(rows), r) for i, r in enumerate(records)]
        found = read(*(str(store.root) for store in stores))
        alone = pair_of(found, "backprop").difference
        assert alone is not None and 0.0125 < alone.p_value < 0.05
        assert verdicts(found)["backprop"] == verdict
        assert found.exit_status == (verdict == "differs")


def test_equal_accuracies_are_not_the_same_bits(tmp_path: Path) -> None:
    """Two networks that get as many images right need not be the same network."""
    a, b = ([run("hff", s, 97 + s) for s in range(3)] for _ in range(2))
    b[1]["metrics"]["test"]["last"]["loss"] += 1e-16 + 1e-12
    stores = [filled(tmp_path / n, make_plan(("hff",)), r) for n, r in (("a", a), ("b", b))]
    assert verdicts(read(*(str(s.root) for s in stores))) == {"hff": "no difference seen"}
    c = [run("hff", s, 97 + s) for s in range(3)]
    c[2]["curves"]["train_loss"][0] += 1e-9
    other = filled(tmp_path / "c", make_plan(("hff",)), c)
    assert verdicts(read(str(stores[0].root), str(other.root))) == {"hff": "no difference seen"}


def test_other_seeds_are_compared_by_welch_and_it_says_so(tmp_path: Path) -> None:
    a = [run("hff", s, 97 + 0.3 * s) for s in range(5)]
    b = [run("hff", s, 96 + 0.5 * s) for s in range(3)]
    stores = [filled(tmp_path / n, make_plan(("hff",), seeds=len(r)), r)
              for n, r in (("a", a), ("b", b))]  # fmt: skip
    found = read(*(str(s.root) for s in stores))
    pair = pair_of(found, "hff")
    assert pair.difference is not None and not pair.difference.paired
    theirs = stats.ttest_ind([96, 96.5, 97], [97 + 0.3 * s for s in range(5)], equal_var=False)
    assert pair.difference.p_value == pytest.approx(float(theirs.pvalue))
    assert dict(pair.unpaired) == {"A": (3, 4)}
    assert "Welch" in comparison_page.render(found) and "Welch" in terminal(found)


def test_what_differs_besides_numbers_is_told(tmp_path: Path) -> None:
    found = read(*map(str, two_machines(tmp_path)))
    facts = {s.name: (s.a, s.b) for s in found.environment}
    assert facts == {
        "host": ("node1", "node2"), "gpu": ("none", "a GPU"), "threads": ("2", "8"),
        "uncommitted changes": ("no", "yes"), "torch": ("2.14.1", "2.15.0"),
        "numpy": ("not recorded", "2.0"),
    }  # fmt: skip
    assert found.settings == ()
    assert pair_of(found, "hff").rate == pytest.approx(2, abs=0.02)


# ------------------------------------------------------------------------------- alignment


def cell_run(
    method: str, seed: int, accuracy: float, suite: str = "table1", commit: str = "aaaa1111",
    lr: float = 0.1, epochs: int = 5, version: int = 1, day: int = 1, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A record whose cell says what it is of, as those of suites do."""
    record = run(method, seed, accuracy, code_sha=commit)
    record["cell"] = {
        "kind": "train", "version": 1, "method": method, "method_version": version,
        "config": {"lr": lr}, "architecture": "mlp", "dataset": "digits", "dataset_version": 1,
        "protocol": {"epochs": epochs}, "seed": seed, **changes,
    }  # fmt: skip
    record["key"] = cell_key(record["cell"])
    record["suite"] = suite
    record["environment"]["git_commit"] = commit
    record["finished_at"] = f"2026-04-{day:02}T10:00:00+00:00"
    return record


def plan_of(*records: dict[str, Any]) -> dict[str, Any]:
    plan = make_plan(tuple(dict.fromkeys(r["cell"]["method"] for r in records)), ("digits/mlp",))
    plan["cells"] = [
        {"key": r["key"], "row": r["cell"]["method"], "column": "digits/mlp",
         "seed": r["cell"]["seed"], "code_sha": r["code_sha"]}
        for r in records
    ]  # fmt: skip
    return plan


def bare(folder: Path, *records: dict[str, Any]) -> str:
    """A store without a plan; of several finished records of a cell all but the last are old."""
    store = Store(folder)
    store.prepare()
    for record in records:
        store.supersede(record["key"])
        assert store.publish(record)
    return str(folder)


def three(method: str, accuracy: float, **options: Any) -> list[dict[str, Any]]:
    return [cell_run(method, s, accuracy + (0.0, 0.9, -0.7)[s], **options) for s in range(3)]


def test_without_plans_cells_are_matched_by_what_they_are(tmp_path: Path) -> None:
    """Versions and keys may differ; methods, settings, data and protocol decide."""
    a = bare(tmp_path / "a", *three("hff", 97), *three("ff", 90), *three("ff", 91, lr=0.3))
    b = bare(
        tmp_path / "b", *three("hff", 97, version=2), *three("ff", 80, lr=0.3), *three("dfa", 50)
    )
    found = read(a, b)
    assert verdicts(found) == {
        "hff": "same bits", "ff (lr=0.1)": "only in A", "ff (lr=0.3)": "differs",
        "dfa": "only in B",
    }  # fmt: skip
    assert [(s.name, s.a, s.b) for s in pair_of(found, "hff").settings] == [
        ("method_version", "1", "2")
    ]


def test_two_settings_of_one_method_are_compared_and_named(tmp_path: Path) -> None:
    a = bare(tmp_path / "a", *three("hff", 97), *three("ff", 90))
    b = bare(tmp_path / "b", *three("hff", 93, lr=0.3), *three("ff", 90, epochs=9))
    found = read(a, b)
    assert verdicts(found) == {"hff": "differs", "ff": "same bits"}
    settings = {s.name: (s.a, s.b, names) for s, names in found.settings}
    assert settings == {
        "config.lr": ("0.1", "0.3", ("hff on digits/mlp",)),
        "protocol.epochs": ("5", "9", ("ff on digits/mlp",)),
    }


@pytest.mark.parametrize("swap", [False, True])
def test_a_plan_of_one_side_names_the_places_of_both(tmp_path: Path, swap: bool) -> None:
    records = [*three("hff", 97), *three("ff", 90)]
    plan = plan_of(*records)
    plan["rows"][0]["label"] = "Hierarchical"
    a = str(filled(tmp_path / "a", plan, records).root)
    b = bare(tmp_path / "b", *three("hff", 96, version=2), *three("ff", 90, lr=0.2),
             *three("dfa", 50), *three("other", 1, suite="another"))  # fmt: skip
    found = read(*((b, a) if swap else (a, b)))
    assert verdicts(found) == {
        "hff": "differs", "ff": "same bits", "dfa": f"only in {'A' if swap else 'B'}",
    }  # fmt: skip
    assert pair_of(found, "hff").name == "Hierarchical on digits/mlp"


def test_a_folder_of_two_requests_is_compared_by_either(tmp_path: Path) -> None:
    """B was asked for A's cells, and then for tuned ones: its latest plan is about those."""
    default, tuned = three("hff", 95), three("hff", 97, lr=0.3)
    a = str(filled(tmp_path / "a", plan_of(*default), default).root)
    b = str(filled(tmp_path / "b", plan_of(*tuned), [*default, *tuned]).root)
    found = read(a, b)
    assert pair_of(found, "hff").shift == pytest.approx(2.0)
    assert any("B also holds 3 cells of A's request" in note for note in notes(found))
    same = read(a, b, cells_of="A")
    assert verdicts(same) == {"hff": "same bits"}
    assert not any("also holds" in note for note in notes(same))
    with pytest.raises(CompareError, match="no cell is in both"):
        read(a, b, cells_of="B")
    unplanned = bare(tmp_path / "c", *default)
    with pytest.raises(CompareError, match="--cells-of B: B has no plan of table1"):
        read(a, unplanned, cells_of="B")


def test_commits_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    """--fresh after a change of the sources: the old records are still there, superseded."""
    old, new = three("hff", 97, commit="aaaa1111"), three("hff", 93, commit="bbbb2222", day=2)
    store = Store(tmp_path)
    bare(tmp_path, *old, *new, *three("ff", 90, commit="bbbb2222"))
    store.write_plan(plan_of(*new))
    found = read(f"{tmp_path}@aaaa", f"{tmp_path}@bbbb2222")
    assert verdicts(found) == {"hff": "differs", "ff": "only in B"}
    assert pair_of(found, "hff").shift == pytest.approx(-4)
    assert [(s.name, s.a, s.b) for s in found.environment] == [("commit", "aaaa1111", "bbbb2222")]
    assert pair_of(found, "hff").other_sources
    now = read(f"{tmp_path}@AAAA", str(tmp_path))
    assert verdicts(now) == {"hff": "differs"}


def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    a = bare(tmp_path / "runs@home", *three("hff", 97))
    assert verdicts(read(a, f"{a}@aaaa1111")) == {"hff": "same bits"}


def test_several_suites_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, two_machines(tmp_path))
    for folder in (a, b):
        Store(folder).write_plan({**make_plan(("hff",)), "suite": "other"})
    assert main([a, b]) == 2
    assert "other, table1; choose one with --suite" in capsys.readouterr().err
    assert set(verdicts(read(a, b, "other"))) == {"hff"}


# --------------------------------------------------------------------------------- outputs


def terminal(comparison: Comparison) -> str:
    buffer = io.StringIO()
    comparison_text.show(comparison, Console(file=buffer, width=80))
    return buffer.getvalue()


def test_the_terminal_is_80_columns_wide_and_tells_all(tmp_path: Path) -> None:
    text = terminal(read(*map(str, two_machines(tmp_path))))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("−10.00", "same bits", "differs", "only in A", "loss is NaN", "node2", "2.15.0"):
        assert words in text, words
    assert " ".join(text.split()).endswith(
        "4 cells compared: 1 differs, 1 with no difference seen, 1 with the same bits, 1 with too "
        "few seeds to say; 3 runs ended otherwise; 1 only in A."
    )


def test_the_page_is_one_file_that_tells_all(tmp_path: Path) -> None:
    text = comparison_page.render(read(*map(str, two_machines(tmp_path))))
    page = _Page(text)
    assert not page.open and not page.mismatched
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith("#") for target in page.loads)
    assert "://" not in text and "@import" not in text
    assert {link[1:] for link in page.links} <= set(page.ids)
    for words in ("−10.00", "same bits", "only in A", "Only in A", "loss is NaN", "node2",
                  "2.15.0", "Holm", "2.00"):  # fmt: skip
        assert words in text, words


def test_the_file_holds_every_number(tmp_path: Path) -> None:
    found = read(*map(str, two_machines(tmp_path)))
    lines = pandas.read_csv(io.StringIO(comparison_page.to_csv(found))).set_index("row")
    pair = pair_of(found, "hff")
    assert pair.difference is not None
    assert lines.loc["hff", "p"] == pair.difference.p_value
    assert lines.loc["hff", "p_holm"] == pair.p_value
    assert lines.loc["hff", "difference"] == pytest.approx(
        lines.loc["hff", "mean_b"] - lines.loc["hff", "mean_a"]
    )
    assert lines.loc["mono", "status_b"] == "missing" and lines.loc["mono", "n_b"] == 0
    assert "ok -> diverged: loss is NaN" in lines.loc["dfa", "changes"]
    assert math.isnan(lines.loc["noprop", "p"])


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = map(str, two_machines(tmp_path))
    for draw in (comparison_page.render, comparison_page.to_csv, terminal):
        assert draw(read(a, b)) == draw(read(a, b))


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    plan = make_plan(("hff", "ff"), labels={"hff": HOSTILE, "ff": "[bold red]ff[/] [/x]"})
    a = [run(row, s, 97 + s) for row in ("hff", "ff") for s in range(3)]
    b = [run(row, s, 97, status="failed", reason=HOSTILE) for row in ("hff", "ff") for s in (0, 1)]
    for record in b:
        record["environment"] |= {"host": HOSTILE, "packages": {HOSTILE: "[/]"}}
    stores = [filled(tmp_path / n, plan, r) for n, r in (("a", a), ("b", b))]
    found = read(*(str(s.root) for s in stores))
    page = comparison_page.render(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert _Page(page).tags.count("script") == 1
    assert "[bold red]ff[/] [/x]" in re.sub(r"\s+", " ", terminal(found))
    (line, *_) = csv.DictReader(io.StringIO(comparison_page.to_csv(found)))
    assert HOSTILE in line["changes"]


# ---------------------------------------------------------------------------- command line


def test_exit_status_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, two_machines(tmp_path))
    page, table = tmp_path / "x.html", tmp_path / "x.csv"
    assert main([a, b, "--suite", "table1", "--out", str(page), "--out", str(table)]) == 1
    assert page.read_text().startswith("<!doctype html>") and "p_holm" in table.read_text()
    assert capsys.readouterr().out.endswith(f"{page}\n{table}\n")
    assert main([a, a]) == 0
    assert "5 with the same bits" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("again", "verdict", "shift"),
    [(98.0, "same bits", 0.0), (98.3, "no difference seen", 0.0), (90.0, "differs", -8.3)],
)
def test_one_seed_again_is_judged_by_the_spread_of_all(
    tmp_path: Path, again: float, verdict: str, shift: float
) -> None:
    """What the command under a number of the page makes: 98.3 ± 0.4 of three seeds, and one."""
    a = [run("hff", seed, value) for seed, value in enumerate((98.0, 98.3, 98.6))]
    stores = [
        filled(tmp_path / "a", make_plan(("hff",), seeds=3), a),
        filled(tmp_path / "b", make_plan(("hff",), seeds=3), [run("hff", 0, again)]),
    ]
    found = read(*(str(store.root) for store in stores))
    pair = pair_of(found, "hff")
    assert pair.verdict == verdict and pair.shift == pytest.approx(shift)
    assert ("Student" in " ".join(notes(found))) == (verdict != "same bits")
    page = comparison_page.render(found)
    assert (", Student</td>" in page) == (verdict != "same bits") and ", Welch</td>" not in page


def test_few_runs_against_many_are_tested_as_scipy_tests_them() -> None:
    many, few = [97.0, 97.5, 98.1, 97.2], [96.0]
    expected = stats.ttest_ind(few, many, equal_var=True)
    found = pooled(many, few)
    low, high = expected.confidence_interval()
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )


def test_a_changed_status_alone_is_status_1(tmp_path: Path) -> None:
    a = [run("hff", s, 97 + s) for s in range(4)]
    b = [*a[:3], run("hff", 3, 0, status="killed", reason="time")]
    stores = [
        filled(tmp_path / n, make_plan(("hff",), seeds=4), r) for n, r in (("a", a), ("b", b))
    ]
    found = read(*(str(s.root) for s in stores))
    assert verdicts(found) == {"hff": "same bits"} and found.exit_status == 1


def test_unreadable_records_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_machines(tmp_path)
    torn = b / "records" / f"{make_record('ff')['key']}.json"
    torn.write_text("{")
    assert main([str(a), str(b)]) == 1
    assert torn.name in capsys.readouterr().err
    assert torn.name in comparison_page.render(read(str(a), str(b)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "none"], "none is not there"),
        (["a/records", "b"], "did you mean a?"),
        (["a", "b/plans"], "is no folder of results"),
        (["a", "b@xyz1"], "4 hexadecimal digits"),
        (["a", "b@12"], "4 hexadecimal digits"),
        (["a", "b@ffff"], "no record in b is of commit ffff; there are: 0123456789ab (14 records)"),
        (["a", "b", "--suite", "zzz"], "A has no record of suite zzz"),
        (["a", "b", "--out", "x.pdf"], ".html or .csv"),
        (["a", "b", "--out", "none/x.html"], "there is no folder none"),
        (["a", "torn"], "not valid JSON"),
        (["a", "partial"], "has no list 'rows'"),
        (["a", "loss"], "test accuracy_pct and val loss"),
        (["a", "empty"], "no cell is in both: A has backprop on digits/mlp-2x500"),
        (["a"], "B"),
        (["a", "b", "--what"], "--what"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    two_machines(tmp_path)
    plan = make_plan()
    filled(tmp_path / "empty", plan, [])
    filled(tmp_path / "loss", {**plan, "headline": {"split": "val", "metric": "loss"}}, [])
    filled(tmp_path / "partial", {k: v for k, v in plan.items() if k != "rows"}, [])
    (filled(tmp_path / "torn", plan, []).plans_dir / "table1.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and said in captured.err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("same bits", "@", "--out", "exit status", "Holm"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_difference_is_a_plain_record() -> None:
    assert difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) is None
    assert isinstance(difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 2.0, 2: 5.0}), Difference)


def test_tunings_are_not_compared(tmp_path: Path) -> None:
    """Their points share a seed: as seeds of one cell they would be taken for each other."""
    for name in "ab":
        plan, records = make_tuning("HFF")
        filled(tmp_path / name, plan, records)
    with pytest.raises(CompareError, match="is a tuning"):
        read(str(tmp_path / "a"), str(tmp_path / "b"))


def test_what_is_the_same_to_the_last_bit_is_no_test(tmp_path: Path) -> None:
    """Nineteen cells that nothing changed must not hide that the twentieth did."""
    rows = tuple(f"m{i}" for i in range(20))
    for name in "ab":
        records = []
        for row, s in itertools.product(rows, range(3)):
            shift = 1 + s / 50 if (name, row) == ("b", "m7") else 0.0
            records.append(make_record(row, seed=s, accuracy=97 + s / 10 - shift))
        filled(tmp_path / name, make_plan(rows), records)
    found = read(str(tmp_path / "a"), str(tmp_path / "b"))
    (pair,) = [p for p in found.pairs if p.row.id == "m7"]
    assert pair.difference is not None and pair.p_value == pair.difference.p_value < 0.05
