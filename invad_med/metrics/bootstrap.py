"""Percentile bootstrap over groups: patients where they are known, else images.

One draw of groups serves every figure and every score of a data set, so that two scores' replicates are paired: their
difference, replicate by replicate, is a paired bootstrap (Efron and Tibshirani 1993, chapters 13 and 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """A value and its interval; ``low`` and ``high`` are None where no interval can be given."""

    value: float
    low: float | None
    high: float | None


def resample_weights(groups: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each group is in each resample: (resamples, groups) float64, rows sum to ``groups``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(groups, np.full(groups, 1.0 / groups), size=resamples).astype(np.float64)


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the central percentile interval of replicates, or None.

    Replicates that do not exist (a resample of one class only) are left out; None if less than half exist.
    """
    exist = replicates[np.isfinite(replicates)]
    if len(exist) < 2 or 2 * len(exist) < len(replicates):
        return None
    low, high = np.quantile(exist, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def figure(value: float | None, replicates: np.ndarray, groups: int) -> Figure | None:
    """Return a value with its interval, None for no value; one group alone gives no interval."""
    if value is None:
        return None
    bounds = interval(replicates) if groups > 1 else None
    return Figure(value, *(bounds or (None, None)))


def paired_difference(a: Figure, b: Figure, replicates_a: np.ndarray, replicates_b: np.ndarray) -> Figure:
    """Return a - b with the interval of the paired differences; it excludes zero where one is clearly better.

    Args:
        a, b: the two figures.
        replicates_a, replicates_b: (resamples,) of the same draws of the same groups.

    Raises:
        ValueError: the replicates are not of one draw.
    """
    if replicates_a.shape != replicates_b.shape:
        raise ValueError(f"{len(replicates_a)} and {len(replicates_b)} replicates are not of one draw")
    bounds = interval(replicates_a - replicates_b)
    return Figure(a.value - b.value, *(bounds or (None, None)))
