"""From the numbers of an engine to what is said of images and studies, in numpy: the same whatever computed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from invad_med.data.prediction import Detection
from invad_med.data.provenance import Provenance
from invad_med.data.resizing import resize
from invad_med.data.study import Verdict
from invad_med.scoring.conformal import References
from invad_med.scoring.likeness import Likeness
from invad_med.scoring.studies import StudyCalibration
from invad_med.serving.engines import Served


class Detector(Protocol):
    """One model, whatever computes it.

    Attributes:
        provenance: what its checkpoint states.
        image_size: side in pixels of the square image that it takes.
        computed_by: engine and precision, such as ``onnxruntime float32``.
        alone: whether images are computed one by one, so that an image's numbers do not depend on what it is with.
        encoder: digest of what makes an image's encoding: models of one encoder have the same moments of it.
        likeness: of encodings to those of the images that it was trained on; None without a limit.
    """

    provenance: Provenance
    alone: bool

    @property
    def image_size(self) -> int:
        """See above."""

    @property
    def computed_by(self) -> str:
        """See above."""

    @property
    def encoder(self) -> str:
        """See above."""

    @property
    def likeness(self) -> Likeness | None:
        """See above."""

    def detect(self, image: np.ndarray, false_positive_rate: float = 0.05, gate: bool = True) -> list[Detection]:
        """Return what is said of each image of ``image`` (B, 3, image_size, image_size) float32 in [0, 1].

        Args:
            image: see above.
            false_positive_rate: of the thresholds, 0 < rate < 1.
            gate: withhold the numbers of images unlike those that the model was trained on, where it has a limit.
        """

    def moments(self, image: np.ndarray) -> np.ndarray:
        """Return mean and deviation of each channel of the encodings of ``image`` (B, 3, H, W): (B, 2C)."""

    def judge_study(
        self, scores: Sequence[float], positions: Sequence[float] | None = None, false_positive_rate: float = 0.05
    ) -> Verdict:
        """Return the verdict of a study, see `study_verdict`."""


@dataclass(frozen=True)
class Judge:
    """What a model says of the numbers of images.

    Args:
        references: of held-out normal images.
        withheld: why calibrated scores have no meaning, or None if they have.
        prior_norm: of a position of the end point under the prior, which the colours are tied to where they have none.
        title: of what it was trained on; may be empty.
        computed_by: engine and precision.
        likeness: to the images that it was trained on; None without a limit.
    """

    references: References
    withheld: str | None
    prior_norm: float
    title: str = ""
    computed_by: str = ""
    likeness: Likeness | None = None

    def __call__(self, found: Served, size: tuple[int, int], false_positive_rate: float = 0.05) -> list[Detection]:
        """Return what is said of each image.

        Args:
            found: of B images.
            size: (H, W) of the images.
            false_positive_rate: of the thresholds, 0 < rate < 1.
        """
        maps = resize(found.map, size)
        detections = self._scored(found, maps, false_positive_rate)
        numbers = [part for part in (found.score, found.paper_score) if part is not None]
        if self.likeness is not None and found.moments is not None:
            numbers.append(distance := self.likeness.distance(found.moments))
            detections = [self._gated(*each) for each in zip(detections, distance.tolist(), found.moments, strict=True)]
        whole = np.isfinite(numbers).all(0) & np.isfinite(found.map).all((1, 2))
        return [d if ok else self._nothing(d) for d, ok in zip(detections, whole.tolist(), strict=True)]

    def _nothing(self, detection: Detection) -> Detection:
        """Return the detection of an image of which the network makes no numbers: a score would rank above all."""
        return Detection(
            map=np.zeros_like(detection.map),
            map_threshold=detection.map_threshold,
            withheld="the model makes no finite numbers of this image",
            computed_by=self.computed_by,
        )

    def _scored(self, found: Served, maps: np.ndarray, false_positive_rate: float) -> list[Detection]:
        paper = found.paper_score.tolist()
        if self.withheld is not None:
            said = {"map_threshold": self.prior_norm, "withheld": self.withheld, "computed_by": self.computed_by}
            return [Detection(map=m, paper_score=p, **said) for m, p in zip(maps, paper, strict=True)]  # type: ignore[arg-type]
        references, withheld = self.references, None
        threshold = references.threshold(false_positive_rate)
        map_threshold = references.map_threshold(false_positive_rate)
        if map_threshold is None:
            map_threshold = float(references.maps[-1])
        if threshold is None:
            count = len(references.scores)
            withheld = f"{count} held-out normal images support no threshold at a rate of {false_positive_rate:g}"
        assert found.score is not None  # as the calibration is not withheld
        p_values = references.p_value(found.score).tolist()
        return [
            Detection(
                map=maps[i],
                score=score,
                p_value=p_values[i],
                threshold=threshold,
                map_threshold=map_threshold,
                paper_score=paper[i],
                withheld=withheld,
                computed_by=self.computed_by,
            )
            for i, score in enumerate(found.score.tolist())
        ]

    def _gated(self, detection: Detection, distance: float, moments: np.ndarray) -> Detection:
        if not distance > 1.0:
            return replace(detection, distance=distance)
        title = f"the model for {self.title}" if self.title else "the model"
        return Detection(
            map=detection.map,
            map_threshold=detection.map_threshold,
            distance=distance,
            moments=moments,
            withheld=f"unlike the images that {title} was trained on (distance {distance:.2f} of a limit of 1)",
            computed_by=self.computed_by,
        )


def study_verdict(
    studies: StudyCalibration,
    scores: Sequence[float],
    positions: Sequence[float] | None = None,
    false_positive_rate: float = 0.05,
) -> Verdict:
    """Return the verdict of a study.

    Args:
        studies: of held-out normal patients.
        scores: of its slices, as `Detector.detect` gives them, at least one.
        positions: of each slice along the stack, 0 to 1; None if unknown.
        false_positive_rate: of the threshold, 0 < rate < 1, among normal patients.
    """
    if not len(studies.scores):
        return Verdict(withheld="the model is not calibrated for studies")
    found = studies.judge(scores, positions, false_positive_rate)
    withheld = None
    if found.threshold is None:
        withheld = (
            f"{found.patients} held-out normal patients support no threshold at a rate of {false_positive_rate:g}: "
            f"{1 / (found.patients + 1):.2g} is the smallest"
        )
    return Verdict(score=found.score, p_value=found.p_value, threshold=found.threshold, withheld=withheld)
