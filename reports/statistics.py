"""The statistics of one entry: Student-t intervals over seeds."""

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
