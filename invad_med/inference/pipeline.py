"""From an input and what the detectors found to the prediction that is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from invad_med.data.prediction import Prediction
from invad_med.inference.inputs import Input

_NUMBERS = ("score", "p_value", "threshold", "map_threshold", "paper_score")


def scored(wanted: Input, found: Mapping[str, Any]) -> Prediction:
    """Return the prediction for one slice from its row of `DetectorShelf`'s findings, the map on the slice's grid."""
    numbers = {key: None if math.isnan(value := float(found[key])) else value for key in _NUMBERS}
    anomaly = np.asarray(found["pred"].cpu()[0], dtype=np.float32)
    return Prediction(
        wanted.source,
        wanted.index,
        "scored",
        found["withheld"] or None,
        wanted.modality.name,
        wanted.chosen_by,
        map=anomaly,
        **numbers,
    )


def unreadable(wanted: Input, reason: str) -> Prediction:
    """Return the prediction for a slice that could not be read."""
    return Prediction(wanted.source, wanted.index, "unreadable", reason, wanted.modality.name, wanted.chosen_by)
