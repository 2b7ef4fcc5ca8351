"""Figures of a ranking, as functions of how many positives and negatives share each distinct score.

Every function takes counts ``positive`` and ``negative`` of shape (..., U), ordered from the highest score to the
lowest, any non-negative weights, and works on the last axis; leading axes are independent (resamples). Where a class
is empty a figure does not exist: NaN in an array, which `value_or_none` turns into None. Images and pixels, exact and
binned, point values and bootstrap replicates all go through here.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def distinct(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return the distinct scores, highest first, and how many positives and negatives have each: three (U,) arrays.

    Args:
        scores: (N,) finite or infinite.
        labels: (N,) 0 or 1 (or bool).

    Raises:
        ValueError: shapes differ, a score is NaN, or a label is neither 0 nor 1.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    check(scores, labels)
    values, index = np.unique(scores, return_inverse=True)
    positive = np.bincount(index, weights=labels.astype(np.float64), minlength=len(values))
    total = np.bincount(index, minlength=len(values))
    return values[::-1], positive[::-1], (total - positive)[::-1]


def check(scores: Array, labels: Array) -> None:
    """Raise ValueError unless scores are numbers, labels 0 or 1, and there are as many of one as of the other."""
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two vectors of one length")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: leave out what has no score")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (normal) or 1 (abnormal), found {np.unique(labels)[:5].tolist()}")


def auroc(positive: Array, negative: Array) -> Array:
    """Return P(score of a positive > score of a negative) + P(equal) / 2: (...), in [0, 1]."""
    p, n = _shares(positive), _shares(negative)
    lower = 1.0 - np.cumsum(n, axis=-1)
    return _both(positive, negative, (p * (lower + 0.5 * n)).sum(-1).clip(0.0, 1.0))  # rounding may go beyond


def average_precision(positive: Array, negative: Array) -> Array:
    """Return sum over thresholds of (recall gained) x (precision), without interpolation: (...), in (0, 1].

    It exists without a single negative (it is then 1), as in scikit-learn; it is given here only where both classes
    are there.
    """
    true, false = np.cumsum(positive, axis=-1), np.cumsum(negative, axis=-1)
    return _both(positive, negative, (_shares(positive) * _ratio(true, true + false)).sum(-1))


def f1_scores(positive: Array, negative: Array) -> Array:
    """Return F1 when everything from the highest score down to each is called positive: (..., U)."""
    true, false = np.cumsum(positive, axis=-1), np.cumsum(negative, axis=-1)
    return 2.0 * true / np.maximum(positive.sum(-1, keepdims=True) + true + false, np.finfo(float).tiny)


def f1_max(positive: Array, negative: Array) -> Array:
    """Return the largest F1 of any threshold: (...), in (0, 1]."""
    return _both(positive, negative, f1_scores(positive, negative).max(-1, initial=0.0))


def area_to(positive: Array, negative: Array, limit: float) -> Array:
    """Return the normalised area below (false-positive rate, recall) from 0 to ``limit``: (...), in [0, 1].

    The curve is linear between thresholds and starts at (0, 0). With positives weighted by one over the size of their
    region it is AUPRO (`invad_med.metrics.regions`).

    Raises:
        ValueError: a limit outside (0, 1].
    """
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"limit={limit} must lie in (0, 1]")
    p, n = _shares(positive), _shares(negative)
    x1, y1 = np.cumsum(n, axis=-1), np.cumsum(p, axis=-1)
    x0, y0 = x1 - n, y1 - p
    width = np.clip(limit - x0, 0.0, n)
    reached = y0 + p * np.where(n > 0, _ratio(width, n), 0.0)
    return _both(positive, negative, (width * (y0 + reached)).sum(-1) / (2.0 * limit))


def roc_curve(positive: Array, negative: Array) -> tuple[Array, Array]:
    """Return false-positive rate and recall from (0, 0) on: two (..., U + 1) arrays."""
    start = np.zeros((*positive.shape[:-1], 1))
    curves = (np.concatenate([start, np.cumsum(_shares(c), axis=-1)], axis=-1) for c in (negative, positive))
    x, y = curves
    return x, y


def error_bounds(positive: Array, negative: Array) -> dict[str, float]:
    """Return how far the figures of binned scores can be from those of the scores themselves.

    Within a bin nothing is known of the order, so each bound is the larger distance to the best and to the worst one.

    Args:
        positive, negative: (U,) counts per bin.

    Returns:
        ``auroc``, ``ap``, ``f1max``: each >= 0; empty where a class is empty.
    """
    if not positive.sum() or not negative.sum():
        return {}
    p, n = _shares(positive), _shares(negative)
    true, false = np.cumsum(positive), np.cumsum(negative)
    before, false_before = true - positive, false - negative
    best = (p * _ratio(true, true + false_before)).sum()
    worst = (p * 0.5 * (_ratio(before + 1.0, before + 1.0 + false) + _ratio(true, true + false))).sum()
    precision = float(average_precision(positive, negative))
    optimistic = 2.0 * true / (positive.sum() + true + false_before)
    f1 = float(f1_max(positive, negative))
    return {
        "auroc": float(0.5 * (p * n).sum()),
        "ap": float(max(best - precision, precision - worst, 0.0)),
        "f1max": float(max(optimistic[positive > 0].max() - f1, 0.0)),
    }


def value_or_none(value: Array | float) -> float | None:
    """Return a figure as a float, or None where it does not exist."""
    number = float(value)
    return number if math.isfinite(number) else None


def _shares(counts: Array) -> Array:
    """Return counts as shares of their sum; NaN where there are none."""
    total = counts.sum(-1, keepdims=True)
    return counts / np.where(total > 0, total, np.nan)


def _ratio(numerator: Array, denominator: Array) -> Array:
    return numerator / np.where(denominator > 0, denominator, 1.0)


def _both(positive: Array, negative: Array, value: Array) -> Array:
    return np.where((positive.sum(-1) > 0) & (negative.sum(-1) > 0), value, np.nan)
