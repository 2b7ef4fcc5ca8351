"""What is said of an image: its scores, from the detector to the table, and why there are none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

import numpy as np

from invad_med.data.slices import Source


class Status(str, Enum):
    """What became of a slice."""

    SCORED = "scored"
    NO_MODEL = "no model"  # none, shipped or given, is for it
    NO_CONTRAST = "no contrast"  # nothing is to be seen in it
    UNFAMILIAR = "unfamiliar"  # unlike what its model was trained on, so that a score would mean nothing
    UNREADABLE = "unreadable"

    __str__ = str.__str__


class ChosenBy(str, Enum):
    """What decided which modality's model is for a slice."""

    DICOM = "dicom"
    FOLDER = "folder"
    OPTION = "option"
    DEFAULT = "default"

    __str__ = str.__str__


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an image or a study comes to among normal ones; None where it is withheld.

    Args:
        score: calibrated score, in deviations above normal.
        threshold: score above which it counts as abnormal.
        p_value: conformal p-value of the score among what is normal and held out, 0 < p <= 1.
    """

    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None

    @property
    def abnormal(self) -> bool | None:
        """Whether the score exceeds the threshold; None where one of them is withheld."""
        return None if self.score is None or self.threshold is None else bool(self.score > self.threshold)

    @property
    def rank(self) -> tuple[float, ...]:
        """A key that sorts the most abnormal first: by p-value, then multiple of the threshold; withheld ones are last.

        These compare across models; scores do not.
        """
        multiple = math.inf if self.score is None else -self.score / (self.threshold or 1.0)
        return 2.0 if self.p_value is None else self.p_value, multiple


@dataclass(frozen=True, kw_only=True)
class Scores(Judged):
    """The numbers of one image; None where they are withheld. A new reported number is a field here.

    Args:
        score, threshold, p_value: see `Judged`; among held-out normal images.
        map_threshold: map value, > 0, that the colour scale is tied to: the calibrated pixel threshold, or the norm
            expected under the prior where the calibration is withheld.
        paper_score: the paper's image score; compare only within one model.
    """

    map_threshold: float | None = None
    paper_score: float | None = None

    @property
    def rank(self) -> tuple[float, ...]:
        """As `Judged.rank`, then by the paper's score."""
        return *super().rank, math.inf if self.paper_score is None else -self.paper_score


@dataclass(frozen=True, kw_only=True)
class Detection(Scores):
    """What a detector says of one image.

    Args:
        map: (H, W) float32 anomaly map of the image given, >= 0.
        withheld: why score or threshold are None, or None where nothing is withheld.
        distance: from the images that the model was trained on, >= 0; above 1 the image is unlike them, and no number
            but this one is given. None: the model has no limit, or is not to ask.
        computed_by: engine and precision, such as ``onnxruntime float32``; empty if unknown.
        moments: (2C,) mean and deviation of each channel of the encoding of an image that is unlike them.
    """

    map: np.ndarray
    withheld: str | None = None
    distance: float | None = None
    computed_by: str = ""
    moments: np.ndarray | None = None

    @property
    def unfamiliar(self) -> bool:
        """Whether the image is unlike those that the model was trained on."""
        return self.distance is not None and self.distance > 1.0


def without_distance(reason: str) -> str:
    """Return why an image is unfamiliar without its own distance, which would keep like reasons apart."""
    return re.sub(r" \(distance [^)]*\)", "", reason)


@dataclass(frozen=True)
class Prediction(Scores):
    """The result for one slice.

    Args:
        source: the file or series it belongs to.
        index: the slice's position in the source, 0-based.
        status: what became of it.
        reason: why there is no score, or why the calibrated score is withheld; None where there is nothing to say.
        modality: name of the modality whose model scored it, or that it belongs to; None if unknown.
        chosen_by: what decided the modality.
        map: (H, W) float32 anomaly map on the slice's own grid, >= 0, or None.
        computed_by: engine and precision, such as ``onnxruntime float32``; None if nothing was computed.
        content: digest of the file that the slice lies in, `invad_med.data.slices.Slice.digest`; empty where unknown.
    """

    source: Source
    index: int
    status: Status
    reason: str | None = None
    modality: str | None = None
    chosen_by: ChosenBy | None = None
    map: np.ndarray | None = None
    computed_by: str | None = None
    content: str = ""
