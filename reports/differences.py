"""Statistics of two sets of runs: the difference, its interval, its p value and its size.

Runs of equal seeds share data order and initial weights, so they are compared in pairs; where the
seeds are not the same, by Welch's test, which does not take their spreads to be equal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import gammaln, stdtr, stdtrit

from reports.statistics import CONFIDENCE, MIN_SEEDS_FOR_INTERVAL, Estimate, estimate

RULE = (
    "Difference: mean of B minus mean of A, with its 95 % Student-t interval. Paired by seed where "
    "both have the same seeds, since those share data order and initial weights; Welch's interval "
    "and test otherwise.",
    "p: two-sided t test, corrected for the number of tested cells by Holm's procedure; at 0.05 or "
    "less a cell differs. Where one side has fewer than three seeds, Student's test asks whether "
    "they lie as the seeds of the other do; with fewer than three on both nothing is tested, nor "
    "what is the same to the last bit.",
    "g: the difference in standard deviations, corrected for small samples (Hedges). Paired: of "
    "the differences (d_z). Welch: the root of the mean of both variances.",
    "A spread is never taken to be less than what rounding to whole images alone would give: three "
    "seeds that all differ by one image are no finding.",
    "same bits: in every seed that both have, all metrics and learning curves, losses included, "
    "are equal to the last bit; means are over those seeds.",
)


PAIRED, WELCH, STUDENT = "paired t", "Welch", "Student"


@dataclass(frozen=True)
class Difference:
    """Mean of b minus mean of a, in the unit of the values.

    Attributes:
        half_width: of the 95 % interval.
        p_value: two-sided, of this comparison alone.
        effect: Hedges' g, in standard deviations; None where there is no spread.
        test: PAIRED by seed, or WELCH's, or STUDENT's with one spread for both.
        df: degrees of freedom.
    """

    mean: float
    half_width: float
    p_value: float
    effect: float | None
    test: str
    df: float

    @property
    def paired(self) -> bool:
        return self.test == PAIRED


def difference(
    a: Mapping[int, float], b: Mapping[int, float], step: float = 0.0
) -> Difference | None:
    """B minus A, given seed -> value; None with fewer than three seeds on a side.

    Args:
        step: the smallest difference that two values can have, such as one image of the test set.
    """
    if min(len(a), len(b)) < MIN_SEEDS_FOR_INTERVAL:
        return None
    if a.keys() == b.keys():
        return paired([a[seed] for seed in sorted(a)], [b[seed] for seed in sorted(a)], step)
    return welch([a[seed] for seed in sorted(a)], [b[seed] for seed in sorted(b)], step)


def paired(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> Difference:
    """The t test of pairs; a and b hold the same seeds in the same order.

    The effect is d_z, mean over standard deviation of the differences, times Hedges' correction
    for n - 1 degrees of freedom.

    Raises:
        ValueError: lengths differ or fewer than two pairs.
    """
    found = estimate([y - x for x, y in zip(a, b, strict=True)])
    if found is None or found.std is None:
        raise ValueError("a paired test needs at least two pairs")
    # the difference of two values that are rounded to multiples of `step`
    std = max(_spread(found), step / math.sqrt(6))
    df = found.n - 1
    return _tested(found.mean, std / math.sqrt(found.n), std, df, hedges(df), PAIRED)


def welch(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> Difference:
    """Welch's t test, for seeds that are not the same; unequal spreads and numbers are fine.

    The effect is the difference over the root of the mean variance, with Hedges' correction for
    its degrees of freedom (Delacre and others 2021, "Why Hedges' g*s based on the non-pooled
    standard deviation should be reported with Welch's t-test").

    Raises:
        ValueError: fewer than two values on a side.
    """
    one, other = estimate(a), estimate(b)
    if one is None or other is None or one.std is None or other.std is None:
        raise ValueError("Welch's test needs at least two values on each side")
    least = step / math.sqrt(12)  # standard deviation of rounding to multiples of `step`
    va, vb = (max(_spread(side), least) ** 2 for side in (one, other))
    mean = other.mean - one.mean
    if va + vb == 0:
        return _tested(mean, 0.0, 0.0, one.n + other.n - 2, 1.0, WELCH)
    error = va / one.n + vb / other.n
    df = error**2 / ((va / one.n) ** 2 / (one.n - 1) + (vb / other.n) ** 2 / (other.n - 1))
    df_effect = (va + vb) ** 2 / (va**2 / (one.n - 1) + vb**2 / (other.n - 1))
    root = math.sqrt((va + vb) / 2)
    return _tested(mean, math.sqrt(error), root, df, hedges(df_effect), WELCH)


def pooled(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> Difference:
    """Student's t test with one spread for both sides, of which one may be a single run.

    Raises:
        ValueError: a side without values, or fewer than three in all.
    """
    one, other = estimate(a), estimate(b)
    if one is None or other is None or one.n + other.n < MIN_SEEDS_FOR_INTERVAL:
        raise ValueError("Student's test needs a value on each side, and three in all")
    df = one.n + other.n - 2
    squares = sum((side.n - 1) * _spread(side) ** 2 for side in (one, other))
    std = max(math.sqrt(squares / df), step / math.sqrt(12))
    error = std * math.sqrt(1 / one.n + 1 / other.n)
    return _tested(other.mean - one.mean, error, std, df, hedges(df), STUDENT)


def _spread(value: Estimate) -> float:
    """Standard deviation; 0 where there is none but for rounding of floating-point numbers."""
    std = value.std or 0.0
    return 0.0 if std <= 1e-12 * max(1.0, *map(abs, value.values)) else std


def _tested(
    mean: float, error: float, std: float, df: float, correction: float, test: str
) -> Difference:
    if error == 0:  # without a spread any difference is certain
        none = abs(mean) <= 1e-12
        return Difference(mean, 0.0, float(none), 0.0 if none else None, test, df)
    half_width = float(stdtrit(df, 0.5 + CONFIDENCE / 2)) * error
    p_value = 2.0 * float(stdtr(df, -abs(mean / error)))
    return Difference(mean, half_width, p_value, correction * mean / std, test, df)


def hedges(df: float) -> float:
    """The factor that makes a standardised difference unbiased (Hedges 1981), 1 - 3 / (4 df - 1).

    It is the exact one, of which that is the approximation; 0 to 1, for df > 1; at df = 1 it is 0.
    """
    if df <= 1:
        return 0.0
    return math.exp(float(gammaln(df / 2) - gammaln((df - 1) / 2))) / math.sqrt(df / 2)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down procedure, in the order given.

    What is at most the level is rejected, and then the chance of any false rejection is at most
    the level.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def beside_the_best(
    runs: Sequence[Mapping[int, float]], best: int, step: float = 0.0
) -> list[float | None]:
    """Corrected p of each of a group against its best; None where there is nothing to test by.

    Any of the group could have come out best, so all pairs of it are tests of one family (Holm).
    Corrected for the rivals of the best alone, one in ten groups of nine equal methods would show
    a difference at 5 %.

    Args:
        runs: seed -> value, of each.
        step: as for `difference`.
    """
    p_values: dict[tuple[int, int], float] = {}
    for i, j in itertools.combinations(range(len(runs)), 2):
        if (tested := difference(runs[i], runs[j], step)) is not None:
            p_values[i, j] = tested.p_value
    adjusted = dict(zip(p_values, holm_adjusted(list(p_values.values())), strict=True))
    return [adjusted.get((min(i, best), max(i, best))) for i in range(len(runs))]
