"""Percentile bootstrap intervals of means over questions (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.95
BLOCK_DRAWS = 4_000_000  # draws held at once: 32 MB of counts


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over n questions with the ends of its 95 % interval; all None when n is 0."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def interval(values: Sequence[float], *, samples: int, seed: int) -> Interval:
    """The mean of some values and its interval; one value is its own interval, none has no interval."""
    return intervals(np.asarray(values, dtype=np.float64)[:, None], samples=samples, seed=seed)[0]


def intervals(columns: Values, *, samples: int, seed: int) -> list[Interval]:
    """One interval for each column of [n, c] values, all over the same n questions.

    The resamples depend on (n, samples, seed) only, so a column's interval does not depend on its neighbours.
    """
    n, n_columns = columns.shape
    if n == 0:
        return [Interval(None, None, None, 0)] * n_columns
    means = columns.mean(axis=0)
    resampled = _resampled_means(columns - means, samples, seed)  # centred: equal values give exactly their mean
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0) + means
    return [Interval(float(means[i]), float(low[i]), float(high[i]), n) for i in range(n_columns)]


def _resampled_means(columns: Values, samples: int, seed: int) -> Values:
    """[samples, c]: each row the means over one draw of n questions with replacement."""
    n, n_columns = columns.shape
    random = np.random.default_rng([seed, n])
    block = max(1, min(samples, BLOCK_DRAWS // n))
    means = np.empty((samples, n_columns))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        draws = random.integers(0, n, size=(size, n))
        draws += np.arange(size)[:, None] * n
        times_drawn = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n)  # how often each question came
        means[start : start + size] = times_drawn.astype(np.float64) @ columns / n
    return means
