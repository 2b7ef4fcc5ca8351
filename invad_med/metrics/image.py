"""Image-level figures: AUROC, AP, largest F1, and what a threshold does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from invad_med.metrics import ranking

Vector = np.ndarray | Sequence[float] | Sequence[int]


def auroc(labels: Vector, scores: Vector) -> float | None:
    """Return the area below the ROC curve, in [0, 1], or None if one class is absent.

    Args:
        labels: (N,) 0 normal, 1 abnormal.
        scores: (N,) larger is more abnormal; ties count one half.

    Raises:
        ValueError: other shapes or labels, or a NaN.
    """
    return ranking.value_or_none(ranking.auroc(*_counts(labels, scores)))


def average_precision(labels: Vector, scores: Vector) -> float | None:
    """Return average precision (no interpolation), in (0, 1], or None if one class is absent; raises as `auroc`."""
    return ranking.value_or_none(ranking.average_precision(*_counts(labels, scores)))


def f1_max(labels: Vector, scores: Vector) -> tuple[float, float] | None:
    """Return the largest F1 and its threshold (call ``score >= threshold`` abnormal), or None if one class is absent.

    Of several thresholds with the same F1, the highest. Raises as `auroc`.
    """
    values, positive, negative = ranking.distinct(np.asarray(scores), np.asarray(labels))
    if not positive.sum() or not negative.sum():
        return None
    f1 = ranking.f1_scores(positive, negative)
    best = int(np.argmax(f1))
    return float(f1[best]), float(values[best])


def _counts(labels: Vector, scores: Vector) -> tuple[np.ndarray, np.ndarray]:
    return ranking.distinct(np.asarray(scores), np.asarray(labels))[1:]
