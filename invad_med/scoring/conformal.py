"""Ranks among what is normal and held out: p-values and thresholds, in numpy.

A p-value is the conformal rank among n held-out normals, so that a fresh, exchangeable normal falls below alpha with
probability at most alpha, whatever the distribution. Each of these is compared `halfway_up` to the next, so that none
stands or falls with the last digit of a score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class References:
    """What held-out normal images came to.

    Args:
        scores: (n,) ascending, `halfway_up`; none where a model is not calibrated.
        maps: (n,) what a twentieth of each one's map exceeds, alike.
    """

    scores: np.ndarray
    maps: np.ndarray

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """Return the conformal p-value of scores (B,): (B,) float64 in [1 / (n + 1), 1]."""
        at_least = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        return np.asarray((1.0 + at_least) / (len(self.scores) + 1.0))

    def threshold(self, false_positive_rate: float = 0.05) -> float | None:
        """Return the score that a fresh normal image exceeds with at most this probability, or None.

        None means the rate is out of reach: n held-out normals support no rate below 1 / (n + 1).
        """
        return upper_limit(self.scores, false_positive_rate)

    def map_threshold(self, false_positive_rate: float = 0.05) -> float | None:
        """Return the map value that more than a twentieth of a fresh normal map exceeds with at most this probability.

        None means the rate is out of reach.
        """
        return upper_limit(self.maps, false_positive_rate)


def why_withheld(
    count: int, fitted_for: Sequence[tuple[int, int | None]], timesteps: Sequence[tuple[int, int | None]]
) -> str | None:
    """Return why scores have no calibrated meaning, or None if they have.

    Args:
        count: of the held-out normals.
        fitted_for: pairs (t, t_next) of the inversion that the calibration was fitted for.
        timesteps: those that made the scores.
    """
    if count == 0:
        return "the model is not calibrated: fit it on held-out normal images"
    if list(timesteps) != list(fitted_for):
        return (
            f"calibrated for the timesteps {list(fitted_for)}, not {list(timesteps)}: score, p-value and threshold "
            "are withheld"
        )
    return None


def halfway_up(values: np.ndarray) -> np.ndarray:
    """Return ``values`` (n,) ascending, each moved halfway to the next larger one, the largest by a hair: (n,) float64.

    They are no smaller than before, so that what exceeds one exceeds the value that it stands for; equal ones stay so.
    """
    distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    upper = np.concatenate([distinct[1:], distinct[-1:] + np.maximum(np.abs(distinct[-1:]), 1e-3) * 1e-5])
    return np.repeat((distinct + upper) / 2, counts)


def upper_limit(ascending: np.ndarray, rate: float) -> float | None:
    """Return the order statistic that a fresh, exchangeable value exceeds with probability at most ``rate``.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_positive_rate={rate} must lie between 0 and 1")
    rank = math.ceil((len(ascending) + 1) * (1.0 - rate))  # counted from 1
    return float(ascending[rank - 1]) if rank <= len(ascending) else None
