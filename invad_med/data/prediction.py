"""What is said of one slice: its map, scores and provenance, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from invad_med.data.slices import Source

Status = Literal["scored", "no model", "unreadable"]


@dataclass(frozen=True)
class Prediction:
    """The result for one slice.

    Args:
        source: the file or series it belongs to.
        index: the slice's position in the source, 0-based.
        status: ``scored``; ``no model`` (no shipped or given model is for it); ``unreadable``.
        reason: why there is no score, or why the calibrated score is withheld; None where there is nothing to say.
        modality: name of what it shows, by which its model was chosen; None if unknown.
        chosen_by: what decided the modality: ``dicom``, ``folder``, ``option`` or ``default``.
        map: (H, W) float32 anomaly map on the slice's own grid, >= 0, or None.
        score: calibrated image score, or None if withheld.
        p_value: its conformal p-value among held-out normal images, or None.
        threshold: score above which an image counts as abnormal, or None.
        map_threshold: map value that the colour scale is tied to: the calibrated pixel threshold, or the norm
            expected under the prior where the calibration is withheld.
        paper_score: the paper's three-step score; compare only within one data set.
    """

    source: Source
    index: int
    status: Status
    reason: str | None = None
    modality: str | None = None
    chosen_by: str | None = None
    map: np.ndarray | None = None
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    paper_score: float | None = None
