"""Statistics over several columns: interquartile mean, probability of improvement, profile.

After Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice
(arXiv 2108.13264). Uncertainty by the stratified bootstrap: seeds are drawn anew in every column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Strata = Sequence[Values]  # one array of seeds for each column


def interquartile_mean(strata: Strata) -> Values:
    """Mean of the middle half of all values of all columns; (..., n) for each column -> (...).

    Of n values in all, floor(n / 4) are cut off at each end, as scipy.stats.trim_mean does.
    """
    values = np.sort(np.concatenate(list(strata), axis=-1), axis=-1)
    cut = values.shape[-1] // 4
    return np.asarray(values[..., cut : values.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(ours: Strata, theirs: Strata) -> Values:
    """P(ours > theirs) + P(equal) / 2 of single runs, averaged over columns; (R, n) -> (R,).

    Of one column that is Mann and Whitney's U over the number of pairs.
    """
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = ranked(a, b)
        # line r of a batch is moved by r times more than all ranks: one search serves all lines
        offsets = (np.arange(len(a)) * (1 + max(a.max(), b.max())))[:, None]
        line = np.sort(b + offsets, axis=-1).ravel()
        first = (np.arange(len(a)) * b.shape[1])[:, None]
        beaten = np.searchsorted(line, a + offsets, "left") - first
        not_better = np.searchsorted(line, a + offsets, "right") - first
        shares.append((beaten + not_better).mean(axis=-1) / (2 * b.shape[1]))
    return np.asarray(np.mean(shares, axis=0))


def ranked(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whole numbers in the order of the values of both, equal for equal ones; of any shapes."""
    if a.dtype.kind == b.dtype.kind == "i":
        return a, b
    _, codes = np.unique(np.concatenate([a.ravel(), b.ravel()]), return_inverse=True)
    return codes[: a.size].reshape(a.shape), codes[a.size :].reshape(b.shape)


def resampled(strata: Strata, rng: np.random.Generator, resamples: int) -> list[Values]:
    """Each column's seeds drawn anew, with replacement: (n,) -> (resamples, n)."""
    return [column[rng.integers(0, len(column), (resamples, len(column)))] for column in strata]


def interval(statistics: Values) -> tuple[float, float]:
    """The middle 95 % of a statistic's values on resamples."""
    low, high = np.quantile(statistics, [0.025, 0.975])
    return float(low), float(high)


def profile(scores: Strata, thresholds: Values) -> Values:
    """Share of runs at or above each threshold, every column counted alike."""
    return np.mean([np.mean(c[None, :] >= thresholds[:, None], axis=1) for c in scores], axis=0)
