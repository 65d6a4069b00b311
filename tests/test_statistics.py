"""The statistics of reports: against scipy and statsmodels, and by how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from reports.aggregates import (
    interquartile_mean,
    interval,
    probability_of_improvement,
    profile,
    resampled,
)
from reports.differences import beside_the_best, holm_adjusted, paired
from reports.statistics import estimate

TABLES = 20_000
PERCENT = st.floats(0, 100)


# ------------------------------------------------------------------ intervals over seeds


def test_t_interval_matches_the_closed_form_of_two_degrees_of_freedom() -> None:
    """For n = 3 the quantile of t has a closed form; a wrong interval misstates every table."""
    values = [97.0, 97.6, 98.5]
    p = 0.975
    quantile = (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    mean = sum(values) / 3
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    found = estimate(values)
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.half_width == pytest.approx(quantile * std / math.sqrt(3), rel=1e-9)


@given(st.lists(PERCENT, min_size=3, max_size=9))
def test_t_interval_is_that_of_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.half_width is not None
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert found.mean - found.half_width == pytest.approx(low, abs=1e-6)
        assert found.mean + found.half_width == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("n", [3, 5])
def test_t_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    """94 to 96 of 100 intervals hold the true mean: one standard error of the count is 0.15."""
    draws = np.random.default_rng(n).normal(97.0, 0.4, (TABLES, n))
    found = [estimate(values.tolist()) for values in draws]
    hits = sum(e is not None and abs(e.mean - 97.0) <= (e.half_width or 0) for e in found)
    assert 0.94 <= hits / TABLES <= 0.96


def test_fewer_than_three_values_have_no_interval() -> None:
    one, two = estimate([1.0]), estimate([1.0, 2.0])
    assert one is not None and two is not None
    assert (one.std, one.half_width, two.half_width) == (None, None, None)
    assert estimate([]) is None


# ------------------------------------------------------------------- pairs, and families


def test_effect_size_is_unbiased() -> None:
    """Hedges' correction: without it, three pairs show 1.77 times the true effect on average."""
    differences = np.random.default_rng(0).normal(0.5, 1.0, (TABLES, 5))
    effects = [paired([0.0] * 5, row.tolist()).effect for row in differences]
    assert np.mean([e for e in effects if e is not None]) == pytest.approx(0.5, abs=0.02)


def test_effect_size_by_hand() -> None:
    """d = 2 / 1 for differences 1, 2, 3, times Γ(1) / (Γ(1/2) √1) = 1 / √π."""
    assert paired([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]).effect == pytest.approx(2 / math.sqrt(math.pi))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, 0.05, "holm")[1].tolist() if p_values else []
    assert holm_adjusted(p_values) == pytest.approx(expected)


def test_holm_stops_at_the_first_p_that_is_too_large() -> None:
    assert [p <= 0.05 for p in holm_adjusted([0.04, 0.01, 0.03])] == [False, True, False]
    assert [p <= 0.05 for p in holm_adjusted([0.04, 0.01, 0.02])] == [True, True, True]


@pytest.mark.parametrize(("methods", "n"), [(3, 5), (9, 3), (9, 10), (20, 5)])
def test_the_best_of_equal_methods_is_seldom_called_better(methods: int, n: int) -> None:
    """The best is chosen by the seeds that it is tested with: still at most 5 % of tables err.

    With Holm's correction for its rivals alone it would be 10 to 19 % of nine and twenty methods.
    """
    rng = np.random.default_rng(methods * n)
    wrong, tables = 0, 4000 // methods
    for _ in range(tables):
        runs = rng.normal(0, 1, (methods, n)) + rng.normal(0, 1, n)
        best = int(runs.mean(axis=1).argmax())
        p_values = beside_the_best([dict(enumerate(r.tolist())) for r in runs], best)
        wrong += min(p for p in p_values if p is not None) <= 0.05
    assert wrong / tables <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)


@pytest.mark.parametrize("n", [3, 5])
def test_a_table_of_equal_methods_is_seldom_called_different(n: int) -> None:
    """Eight methods against one control, all equal: at most 5 % of the tables name a difference.

    The seeds of one table share what the order of the data does to all methods.
    """
    rng = np.random.default_rng(n)
    wrong, tables = 0, TABLES // 4
    for _ in range(tables):
        runs = rng.normal(0, 1, (9, n)) + rng.normal(0, 1, n)
        control = runs[0].tolist()
        p_values = holm_adjusted([paired(r.tolist(), control).p_value for r in runs[1:]])
        wrong += min(p_values) <= 0.05
    assert wrong / tables <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)


def test_what_is_far_from_the_best_is_told_apart() -> None:
    """Three methods, two near each other: Holm over all three pairs, by hand."""
    runs = [{0: 94.0, 1: 95.5, 2: 95.2}, {0: 96.1, 1: 96.3, 2: 96.8}, {0: 62.0, 1: 65.0, 2: 64.4}]
    p = [paired(list(a.values()), list(b.values())).p_value
         for a, b in ((runs[0], runs[1]), (runs[0], runs[2]), (runs[1], runs[2]))]  # fmt: skip
    found = beside_the_best(runs, best=1)
    assert found == [pytest.approx(holm_adjusted(p)[0]), None, pytest.approx(holm_adjusted(p)[2])]
    assert found[2] is not None and found[0] is not None and found[2] < 0.05 < found[0]
    assert beside_the_best([runs[0], {0: 96.1, 1: 96.3}], best=0) == [None, None]


# ------------------------------------------------------------------- over all columns


@given(st.lists(PERCENT, min_size=1, max_size=30))
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(values: list[float]) -> None:
    found = float(interquartile_mean([np.array(values[:7]), np.array(values[7:])]))
    assert found == pytest.approx(float(stats.trim_mean(values, 0.25)))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
)
def test_probability_of_improvement_is_mann_and_whitneys_u(a: list[int], b: list[int]) -> None:
    expected = stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))
    ours, theirs = [np.array([a, a], float)], [np.array([b, b], float)]
    assert probability_of_improvement(ours, theirs) == pytest.approx([expected] * 2)


def test_columns_count_alike_however_many_seeds_they_have() -> None:
    better, worse = np.ones((1, 9)), np.zeros((1, 3))
    zeros = [np.zeros((1, 9)), np.ones((1, 3))]
    assert probability_of_improvement([better, worse], zeros) == pytest.approx([0.5])
    assert profile([better[0], worse[0]], np.array([0.5])) == pytest.approx([0.5])


def test_profile_is_the_share_of_runs_at_or_above() -> None:
    thresholds = np.array([-1.0, 1.0, 2.0, 3.5])
    assert profile([np.array([1.0, 2.0, 3.0])], thresholds) == pytest.approx([1, 1, 2 / 3, 0])


def test_bootstrap_draws_within_columns_and_covers() -> None:
    """Of twenty seeds the interval of a mean covers in about 93 of 100 cases, as is known of it."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        column = rng.normal(5.0, 1.0, 20)
        (drawn,) = resampled([column], rng, 400)
        assert set(drawn.ravel()) <= set(column)
        low, high = interval(drawn.mean(axis=-1))
        hits += low <= 5.0 <= high
    assert 0.88 <= hits / 400 <= 0.97
