"""A checkpoint's detector that a serving engine computes, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from invad_med.data.prediction import Detection
from invad_med.data.provenance import Provenance
from invad_med.data.resizing import resize
from invad_med.data.study import Verdict
from invad_med.detection.judging import Judge, study_verdict
from invad_med.scoring.conformal import References, why_withheld
from invad_med.scoring.likeness import Likeness
from invad_med.scoring.studies import StudyCalibration
from invad_med.serving.encoder import encoder_digest
from invad_med.serving.engines import ServingEngine
from invad_med.serving.graph import finite
from invad_med.serving.weights import Weights

_IMAGE_SIZE = 256  # of checkpoints that do not state it


class ServedDetector:
    """One model, computed by a serving engine; see `invad_med.detection.judging.Detector`.

    Args:
        engine: computes what the checkpoint holds.
        weights: the opened checkpoint.
        timesteps: pairs (t, t_next) of the inversion that the engine walks.
    """

    alone = True  # as the engines of `invad_med.serving.engines` do

    def __init__(self, engine: ServingEngine, weights: Weights, timesteps: Sequence[tuple[int, int | None]]) -> None:
        self.engine = engine
        self.provenance = Provenance.from_state(weights.read("_extra_state"))
        self.timesteps = list(timesteps)
        self.studies = StudyCalibration()
        if "studies._extra_state" in weights.values:
            self.studies.take_state(weights.read("studies._extra_state"))
        names = ("calibration.reference", "calibration.map_reference")
        references = References(*(finite(name, weights.read(name).astype(np.float32)) for name in names))
        fitted_for = [(t, t_next) for t, t_next in weights.read("calibration._extra_state")["timesteps"]]
        self.withheld = why_withheld(len(references.scores), fitted_for, self.timesteps)
        prior_norm = len(weights.read("calibration.z_mean")) ** 0.5
        limit = weights.values.get("familiarity.limit")
        self.likeness: Likeness | None = None
        if limit is not None and limit.shape[0]:
            self.likeness = Likeness.of(lambda name: finite(name, weights.read(f"familiarity.{name}")))
        self.encoder = encoder_digest(weights)
        title = self.provenance.title
        self._judge = Judge(references, self.withheld, prior_norm, title, self.computed_by, self.likeness)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square image that the model takes."""
        return int(self.provenance.architecture.get("image_size", _IMAGE_SIZE))

    @property
    def computed_by(self) -> str:
        """Engine and precision."""
        return f"{self.engine.name} {self.engine.precision}"

    def detect(self, image: np.ndarray, false_positive_rate: float = 0.05, gate: bool = True) -> list[Detection]:
        """Return map and scores of each image of ``image`` (B, 3, H, W) in [0, 1]."""
        found = self.engine(self._resized(image))
        return self._judge(
            found if gate else found._replace(moments=None), (image.shape[2], image.shape[3]), false_positive_rate
        )

    def moments(self, image: np.ndarray) -> np.ndarray:
        """Return mean and deviation of each channel of the encodings of ``image`` (B, 3, H, W): (B, 2C)."""
        moments = self.engine(self._resized(image)).moments
        assert moments is not None  # of every graph
        return moments

    def judge_study(
        self, scores: Sequence[float], positions: Sequence[float] | None = None, false_positive_rate: float = 0.05
    ) -> Verdict:
        """Return the verdict of a study, see `invad_med.detection.judging.study_verdict`."""
        return study_verdict(self.studies, scores, positions, false_positive_rate)

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"the detector expects images (B, 3, H, W) in [0, 1], not {image.shape}")
        return resize(image, (self.image_size, self.image_size))
