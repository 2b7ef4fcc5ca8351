"""Figures over figures: the seven-metric mean, BMAD's mean of nine AUROCs, and slices put together to patients."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

MAD7 = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
BMAD_IMAGE = ("brain", "liver", "resc", "oct2017", "chest", "histopathology")
BMAD_PIXEL = ("brain", "liver", "resc")


def mad7(figures: Mapping[str, float]) -> float | None:
    """Return the mean of the seven figures of one data set (``mAD`` of the industrial literature), or None.

    None unless all seven are there: a set without masks has none.
    """
    values = [figures[name] for name in MAD7 if figures.get(name) is not None]
    return float(np.mean(values)) if len(values) == len(MAD7) else None


def bmad9(figures: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return the mean of image AUROC of BMAD's six sets and pixel AUROC of Brain, Liver, RESC, or None.

    This is the figure the literature on BMAD calls ``mAD``; it is not `mad7`. None unless all nine are there.

    Args:
        figures: name of the published set -> its figures. That a set is the published one, and not another in a
            folder of that name, is for the caller to know: see `BmadDataset.is_as_published`.
    """
    nine = [(name, "image_auroc") for name in BMAD_IMAGE] + [(name, "pixel_auroc") for name in BMAD_PIXEL]
    values = [figures.get(name, {}).get(key) for name, key in nine]
    return float(np.mean([v for v in values if v is not None])) if None not in values else None


def by_group(
    groups: Sequence[Hashable], labels: np.ndarray, scores: np.ndarray
) -> tuple[list[Hashable], np.ndarray, np.ndarray]:
    """Return each group (volume or patient) with its label and score: abnormal if any slice is, the largest score.

    Args:
        groups: N ids.
        labels: (N,) 0 or 1.
        scores: (N,).

    Returns:
        (G ids in order of first appearance, (G,) labels, (G,) scores).
    """
    ids = list(dict.fromkeys(groups))
    place = {name: i for i, name in enumerate(ids)}
    index = np.array([place[name] for name in groups], dtype=int)
    group_labels, group_scores = np.zeros(len(ids), dtype=int), np.full(len(ids), -np.inf)
    np.maximum.at(group_labels, index, np.asarray(labels, dtype=int))
    np.maximum.at(group_scores, index, np.asarray(scores, dtype=float))
    return ids, group_labels, group_scores
