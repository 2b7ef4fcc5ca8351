"""What is said of one slice: its map, scores and provenance, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from invad_med.data.slices import Source

if TYPE_CHECKING:
    from invad_med.data.inputs import Input

Status = Literal["scored", "no model", "unreadable"]


_NUMBERS = ("score", "p_value", "threshold", "map_threshold", "paper_score")


@dataclass(frozen=True)
class Prediction:
    """The result for one slice.

    Args:
        source: the file or series it belongs to.
        index: the slice's position in the source, 0-based.
        status: ``scored``; ``no model`` (no shipped or given model is for it); ``unreadable``.
        reason: why there is no score, or why the calibrated score is withheld; None where there is nothing to say.
        dataset: data set of the model that scored it, or that it belongs to; None if unknown.
        chosen_by: what decided the data set: ``dicom``, ``folder``, ``option`` or ``default``.
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
    dataset: str | None = None
    chosen_by: str | None = None
    map: np.ndarray | None = None
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    paper_score: float | None = None


def scored(wanted: Input, found: Mapping[str, Any]) -> Prediction:
    """Return the prediction for one slice from its row of `DetectorShelf`'s findings, the map on the slice's grid."""
    numbers = {key: None if math.isnan(value := float(found[key])) else value for key in _NUMBERS}
    anomaly = np.asarray(found["pred"].cpu()[0], dtype=np.float32)
    return Prediction(
        wanted.source,
        wanted.index,
        "scored",
        found["withheld"] or None,
        wanted.facts.name,
        wanted.chosen_by,
        map=anomaly,
        **numbers,
    )


def unreadable(wanted: Input, reason: str) -> Prediction:
    """Return the prediction for a slice that could not be read."""
    return Prediction(wanted.source, wanted.index, "unreadable", reason, wanted.facts.name, wanted.chosen_by)
