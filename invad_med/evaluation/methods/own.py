"""The detector's own scores of an end point: calibrated, the paper's, and the authors' code's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from invad_med.detection import AnomalyDetector
from invad_med.diffusion import Mode, inversion_timesteps
from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.method import NoMeaning, Rows, Scored
from invad_med.evaluation.plan import Plan
from invad_med.scoring.scores import anomaly_map, max_min, nll, paper_score


class _EndPointScore:
    """What the three share: nothing to fit, values of batches gathered."""

    def __init__(self, detector: AnomalyDetector, plan: Plan) -> None:
        self.detector, self.plan, self.rows = detector, plan, Rows()

    def fit(self, train: Images | None, valid: Images | None) -> None:
        """Nothing: the detector is trained."""

    def gather(self) -> None:
        """Take up what the other processes scored."""
        self.rows.gather()


class Calibrated(_EndPointScore):
    """Whitened end point, scored against held-out normals.

    Raises:
        ValueError: the detector is not calibrated for its own timesteps.
    """

    about = "whitened end point, scored against held-out normals; one image's score depends on no other image"

    def __init__(self, detector: AnomalyDetector, plan: Plan) -> None:
        super().__init__(detector, plan)
        if detector.withheld is not None:
            raise ValueError(detector.withheld)

    def add(self, batch: Batch) -> None:
        """Score a batch."""
        walked, calibration = batch.walked(), self.detector.calibration
        self.rows.add(score=calibration.score(walked.end_point), map=calibration.map(walked))

    def scored(self) -> Scored:
        """Return scores, maps, p-values and both thresholds."""
        calibration, rate = self.detector.calibration, self.plan.false_positive_rate
        return Scored(
            self.rows["score"],
            self.rows["map"],
            calibration.references.threshold(rate),
            calibration.references.map_threshold(rate),
            f"timesteps {self.detector.timesteps}, {len(calibration.reference)} held-out normals",
            calibration.references.p_value(self.rows["score"]),
        )


class _Likelihood(_EndPointScore):
    """A score of end points by their likelihood under N(0, I), on three steps of a grid."""

    mode: ClassVar[Mode]

    def __init__(self, detector: AnomalyDetector, plan: Plan) -> None:
        super().__init__(detector, plan)
        host = detector.host
        self.timesteps = inversion_timesteps(3, self.mode, len(host.alphas_cumprod))
        reason = host.why_not(self.timesteps)
        if not host.gaussian:
            reason = "the model was trained with other than Gaussian noise: its end points have no likelihood"
        if reason is not None:
            raise NoMeaning(reason)


class Paper(_Likelihood):
    """The paper's score."""

    mode = "paper"

    about = "max(A) - min(A) + sum(A) of the norm A of the end point, three steps of the paper's grid"

    def add(self, batch: Batch) -> None:
        """Score a batch."""
        z = batch.end_point(self.timesteps)
        self.rows.add(score=paper_score(z), map=anomaly_map(z))

    def scored(self) -> Scored:
        """Return scores and maps."""
        return Scored(self.rows["score"], self.rows["map"], note=f"timesteps {self.timesteps}")


class Official(_Likelihood):
    """The score of the authors' code."""

    mode = "official"

    about = (
        "the authors' code: its grid, and min-max over the whole split (transductive: an image's score depends on the "
        "others; only to reproduce)"
    )

    def add(self, batch: Batch) -> None:
        """Take down both parts of the score."""
        z = batch.end_point(self.timesteps)
        self.rows.add(difference=max_min(z), nll=nll(z), map=anomaly_map(z))

    def scored(self) -> Scored:
        """Return the sum of both parts, each scaled to [0, 1] over all images, and maps."""
        return Scored(
            _unit_range(self.rows["difference"]) + _unit_range(self.rows["nll"]),
            self.rows["map"],
            note=f"timesteps {self.timesteps}; transductive: min-max over the whole split",
        )


def _unit_range(values: np.ndarray) -> np.ndarray:
    low, high = values.astype(float).min(), values.astype(float).max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))
