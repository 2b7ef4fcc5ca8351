"""The patients of a split, the slices of each judged together as inference judges a study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from invad_med.detection import AnomalyDetector
from invad_med.evaluation.method import Scored
from invad_med.evaluation.truth import Truth


@dataclass(frozen=True)
class Studies:
    """What is said of S studies; None where the model supports no threshold at the rate asked for.

    Args:
        labels: (S,) int, 1 for a patient with an abnormal image, whose study is all images; 0 for one without.
        groups: (S,) int, whose each is, as in `Truth`.
        scores, p_values: (S,) of the verdicts.
        above: (S,) bool, whether the verdict is abnormal, or None.
        any_above: (S,) bool, whether any slice lies above the threshold of slices, or None.
        patients: number of held-out normal patients behind the verdicts.
        stand_in: whether no patient is normal, so that the normal slices of each stand in for a normal study.
        placed: whether slices were compared with normals of like place.
    """

    labels: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray
    above: np.ndarray | None
    any_above: np.ndarray | None
    patients: int
    stand_in: bool
    placed: bool


def find_studies(truth: Truth, scored: Scored, detector: AnomalyDetector, false_positive_rate: float) -> Studies | None:
    """Return the verdicts of a split's patients, or None where they or those that calibrate are not known.

    Args:
        truth: of N images.
        scored: the calibrated score of each.
        detector: whose score it is.
        false_positive_rate: of the thresholds.
    """
    if not truth.has_studies or not len(detector.studies.scores):
        return None
    abnormal = np.unique(truth.groups[truth.labels == 1])
    normal = np.setdiff1d(truth.groups, abnormal)
    stand_in = not len(normal)
    of = [(group, 1, truth.groups == group) for group in abnormal]
    of += [(group, 0, truth.groups == group) for group in normal]
    if stand_in:
        pairs = [(group, (truth.groups == group) & (truth.labels == 0)) for group in abnormal]
        of += [(group, 0, rows) for group, rows in pairs if rows.any()]
    placed = bool(np.isfinite(truth.positions).all()) and detector.studies.has_positions
    verdicts = [
        detector.judge_study(
            scored.scores[rows].tolist(), truth.positions[rows].tolist() if placed else None, false_positive_rate
        )
        for _, _, rows in of
    ]
    above, slice_limit = [verdict.abnormal for verdict in verdicts], scored.threshold
    return Studies(
        labels=np.array([label for _, label, _ in of]),
        groups=np.array([group for group, _, _ in of]),
        scores=np.array([verdict.score for verdict in verdicts]),
        p_values=np.array([verdict.p_value for verdict in verdicts]),
        above=None if None in above else np.array(above),
        any_above=None if slice_limit is None else np.array([(scored.scores[r] > slice_limit).any() for _, _, r in of]),
        patients=len(np.unique(detector.studies.patients)),
        stand_in=stand_in,
        placed=placed,
    )
