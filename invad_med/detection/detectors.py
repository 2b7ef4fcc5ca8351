"""The models of a run: one detector per modality, each loaded when first needed, each image scored by its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from invad_med.data.prediction import Detection
from invad_med.data.provenance import Provenance
from invad_med.data.study import Verdict
from invad_med.detection.judging import Detector
from invad_med.detection.models import ModelFiles
from invad_med.detection.serve import serve
from invad_med.timesteps import Grid

logger = logging.getLogger(__name__)


class Detectors:
    """Detectors by modality.

    Args:
        files: the checkpoints; the default one's modality scores images that do not say what they show.
        detector: the default's, if it is loaded already.
        grid: timesteps instead of those each was calibrated for.
        engine: what computes, see `invad_med.detection.serve.serve`.
        device: where it computes.
        false_positive_rate: for the thresholds, 0 < rate < 1.
        gate: withhold the scores of images unlike those that their model was trained on, and say which other model's
            they are like.

    Raises:
        ValueError: no default, a given detector of another modality, or a rate outside its range.
    """

    def __init__(
        self,
        files: ModelFiles,
        detector: Detector | None = None,
        grid: Grid | None = None,
        engine: str | None = None,
        device: object = "cpu",
        false_positive_rate: float = 0.05,
        gate: bool = True,
    ) -> None:
        if files.default is None:
            raise ValueError("none of the models is the default one: give --ckpt_path")
        if not 0.0 < false_positive_rate < 1.0:
            raise ValueError(f"false_positive_rate={false_positive_rate} must lie between 0 and 1")
        stated = files.default if detector is None else detector.provenance.modality or files.default
        if stated != files.default:
            raise ValueError(f"the given model is of {stated}, and the default one of {files.default}: give --modality")
        self.files, self.default, self.rate = files, files.default, false_positive_rate
        self.grid, self.engine, self.device, self.gate = grid, engine, device, gate
        self._lock = threading.Lock()
        self._detectors: dict[str, Detector] = {} if detector is None else {self.default: detector}

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities there is a model for, the default's first."""
        return tuple(self.files.files)

    def detector(self, modality: str) -> Detector:
        """Return the detector of a modality, loading it if need be.

        Raises:
            FileNotFoundError, ValueError: there is none, or it does not load.
        """
        with self._lock:
            if modality not in self._detectors:
                loaded = serve(self.files[modality], self.grid, self.engine, self.device)
                logger.info("loaded the model for %s", loaded.provenance.title or modality)
                self._detectors[modality] = loaded
            return self._detectors[modality]

    def provenance(self, modality: str) -> Provenance:
        """Return what the checkpoint of a modality states."""
        return self.detector(modality).provenance

    def image_size(self, modality: str) -> int:
        """Return the side in pixels of the square image that a modality's model takes."""
        return self.detector(modality).image_size

    def alone(self, modality: str) -> bool:
        """Return whether a modality's images are computed one by one."""
        return self.detector(modality).alone

    def image_sizes(self, modalities: Iterable[str]) -> dict[str, int]:
        """Return `image_size` by modality."""
        return {modality: self.image_size(modality) for modality in modalities}

    def detect(self, image: np.ndarray, modalities: Sequence[str] | None = None) -> list[Detection]:
        """Score a batch, every image by the model of its modality (the default's where None).

        Args:
            image: (B, 3, H, W) float32 in [0, 1].
            modalities: B names.

        Returns:
            B records, in the order of the images.
        """
        names = list(modalities) if modalities is not None else [self.default] * len(image)
        detections: dict[int, Detection] = {}
        for name in dict.fromkeys(names):
            chosen = [i for i, other in enumerate(names) if other == name]
            detections |= zip(chosen, self.detector(name).detect(image[chosen], self.rate, self.gate), strict=True)
        return [
            self._compared(detections[i], image[i : i + 1], name) if detections[i].unfamiliar else detections[i]
            for i, name in enumerate(names)
        ]

    def _compared(self, detection: Detection, image: np.ndarray, name: str) -> Detection:
        """Return the detection of an image (1, 3, H, W) unlike those of its model with what it resembles."""
        distances = self._distances(detection, image, name)
        if not distances:
            return detection
        nearest = min(distances, key=lambda other: distances[other])
        title = self.provenance(nearest).title or nearest
        like = f"it resembles {title}" if distances[nearest] <= 1.0 else "it resembles those of no other model"
        return replace(detection, withheld=f"{detection.withheld}; {like}")

    def _distances(self, detection: Detection, image: np.ndarray, name: str) -> dict[str, float]:
        """Return how unlike an image is what each other model was trained on, of those that have a limit.

        The image (1, 3, H, W) is the one that was prepared for its own model, ``name``; encoders that several models
        have in common see it once.
        """
        assert detection.moments is not None  # as it is unfamiliar
        known = {self.detector(name).encoder: detection.moments[None]}
        distances: dict[str, float] = {}
        for other in (other for other in self.names if other != name):
            try:
                model = self.detector(other)
                if model.likeness is None:
                    continue
                if model.encoder not in known:
                    known[model.encoder] = model.moments(image)
                distances[other] = float(model.likeness.distance(known[model.encoder])[0])
            except (OSError, ValueError):  # told when an image of its own comes
                logger.debug("the model for %s is not compared with", other, exc_info=True)
        return distances

    def judge_study(self, modality: str, scores: Sequence[float], positions: Sequence[float] | None = None) -> Verdict:
        """Return the verdict of a modality's model on a study.

        Args:
            modality: name.
            scores, positions: of its slices, as `Detector.judge_study` takes them.
        """
        return self.detector(modality).judge_study(scores, positions, self.rate)
