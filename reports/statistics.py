"""The statistics of the tables: Student-t intervals over seeds, and Holm's procedure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# scipy.special, not scipy.stats: the same quantile, and it imports in a tenth of the time.
from scipy.special import stdtrit

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


def holm_rejects(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects, in the order given."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected
