"""From an input and what the detectors found to the prediction that is written."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from invad_med.data.prediction import Detection, Prediction, Scores, Status
from invad_med.inference.inputs import Input


def scored(wanted: Input, detection: Detection, anomaly: Tensor) -> Prediction:
    """Return the prediction for one slice.

    Args:
        wanted: the slice.
        detection: what the detector says of it.
        anomaly: (1, H, W), its map on the slice's own grid.
    """
    numbers = {field.name: getattr(detection, field.name) for field in dataclasses.fields(Scores)}
    return Prediction(
        wanted.source,
        wanted.index,
        Status.SCORED,
        detection.withheld,
        wanted.modality.name,
        wanted.chosen_by,
        map=np.asarray(anomaly[0].cpu(), dtype=np.float32),
        **numbers,
    )


def unreadable(wanted: Input, reason: str) -> Prediction:
    """Return the prediction for a slice that could not be read."""
    return Prediction(wanted.source, wanted.index, Status.UNREADABLE, reason, wanted.modality.name, wanted.chosen_by)
