"""The statistics of the tables: Student-t intervals over seeds, paired comparisons, Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# scipy.special, not scipy.stats: the same quantile, and it imports in a tenth of the time.
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
MIN_SEEDS_FOR_INTERVAL = 3  # with two values an interval says more about luck than about spread


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, in the unit of the values; the values are kept in seed order."""

    values: tuple[float, ...]
    mean: float
    std: float | None  # sample standard deviation, None for a single value
    half_width: float | None  # of the 95 % Student-t interval, None below three values
    counted: bool = False  # whole numbers of something, written without decimals

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def spread(self) -> float:
        """Largest minus smallest value."""
        return max(self.values) - min(self.values)


def estimate(values: Sequence[float], counted: bool = False) -> Estimate | None:
    """Summary of the values of several seeds; None when there is none."""
    if not values:
        return None
    n = len(values)
    mean = math.fsum(values) / n
    std = half_width = None
    if n >= 2:
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
        if n >= MIN_SEEDS_FOR_INTERVAL:
            quantile = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
            half_width = quantile * std / math.sqrt(n)
    return Estimate(tuple(values), mean, std, half_width, counted)


@dataclass(frozen=True)
class Difference:
    """One set of values minus another, pair by pair, in the unit of the values.

    `effect` is the mean over the standard deviation of the differences (Cohen's d_z), with Hedges'
    correction for few pairs: how many spreads of a single pair the difference is large. None where
    the differences have no spread.
    """

    estimate: Estimate
    p_value: float  # of the two-sided paired t test, not corrected
    effect: float | None


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a minus b; both hold the same seeds in the same order.

    Raises:
        ValueError: lengths differ or fewer than two pairs.
    """
    found = estimate([x - y for x, y in zip(a, b, strict=True)])
    if found is None or found.std is None:
        raise ValueError("a paired test needs at least two pairs")
    # Seeds that all differ by the same amount have no spread but for rounding.
    if found.std <= 1e-12 * max(1.0, abs(found.mean)):
        return Difference(found, 1.0 if abs(found.mean) <= 1e-12 else 0.0, None)
    freedom = found.n - 1
    t = found.mean / (found.std / math.sqrt(found.n))
    hedges = 1.0  # with two pairs the corrected mean does not exist
    if freedom > 1:
        hedges = math.exp(
            math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2) - math.log(freedom / 2) / 2
        )
    return Difference(found, 2.0 * float(stdtr(freedom, -abs(t))), hedges * found.mean / found.std)


def holm_rejects(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects, in the order given."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected
