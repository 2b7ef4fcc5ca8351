"""The models of a run: one detector per modality, each loaded when first needed, each image scored by its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from invad_med.data.prediction import Detection
from invad_med.data.provenance import Provenance
from invad_med.data.study import Verdict
from invad_med.detection.detector import AnomalyDetector, load_detector
from invad_med.detection.models import ModelFiles
from invad_med.diffusion import Grid

logger = logging.getLogger(__name__)


class Detectors(nn.Module):
    """Detectors by modality.

    Args:
        files: the checkpoints; the default one's modality scores images that do not say what they show.
        detector: the default's, if it is loaded already.
        grid: timesteps instead of those each was calibrated for.
        engine: what computes end points.
        device: where detectors are put.
        false_positive_rate: for the thresholds, 0 < rate < 1.
        gate: withhold the scores of images unlike those that their model was trained on, and say which other model's
            they are like.

    Raises:
        ValueError: no default, or a rate outside its range.
    """

    def __init__(
        self,
        files: ModelFiles,
        detector: AnomalyDetector | None = None,
        grid: Grid | None = None,
        engine: str = "eager",
        device: torch.device | str = "cpu",
        false_positive_rate: float = 0.05,
        gate: bool = True,
    ) -> None:
        super().__init__()
        if files.default is None:
            raise ValueError("none of the models is the default one: give --ckpt_path")
        if not 0.0 < false_positive_rate < 1.0:
            raise ValueError(f"false_positive_rate={false_positive_rate} must lie between 0 and 1")
        self.files, self.default, self.rate = files, files.default, false_positive_rate
        self.grid, self.engine, self.device, self.gate = grid, engine, device, gate
        self._lock = threading.Lock()
        self._encoders: dict[str, str] = {}  # digest of each model's encoder, where it was needed
        self.detectors = nn.ModuleDict({self.default: detector.to(device).eval()} if detector is not None else {})

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities there is a model for, the default's first."""
        return tuple(self.files.files)

    def detector(self, modality: str) -> AnomalyDetector:
        """Return the detector of a modality, loading it if need be.

        Raises:
            FileNotFoundError, ValueError: there is none, or it does not load.
        """
        with self._lock:
            if modality not in self.detectors:
                loaded = load_detector(self.files[modality], self.grid, self.engine, self.device)
                logger.info("loaded the model for %s", loaded.provenance.title or modality)
                self.detectors[modality] = loaded
            detector = self.detectors[modality]
        assert isinstance(detector, AnomalyDetector)
        return detector

    def provenance(self, modality: str) -> Provenance:
        """Return what the checkpoint of a modality states."""
        return self.detector(modality).provenance

    def image_size(self, modality: str) -> int:
        """Return the side in pixels of the square image that a modality's model takes."""
        return self.detector(modality).host.image_size

    def image_sizes(self, modalities: Iterable[str]) -> dict[str, int]:
        """Return `image_size` by modality."""
        return {modality: self.image_size(modality) for modality in modalities}

    def detect(self, image: Tensor, modalities: Sequence[str] | None = None) -> list[Detection]:
        """Score a batch, every image by the model of its modality (the default's where None).

        Args:
            image: (B, 3, H, W) in [0, 1], on the detectors' device.
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

    def _compared(self, detection: Detection, image: Tensor, name: str) -> Detection:
        """Return the detection of an image (1, 3, H, W) unlike those of its model with what it resembles."""
        distances = self._distances(image, [other for other in self.names if other != name])
        if not distances:
            return detection
        nearest = min(distances, key=lambda other: distances[other])
        title = self.provenance(nearest).title or nearest
        like = f"it resembles {title}" if distances[nearest] <= 1.0 else "it resembles those of no other model"
        return replace(detection, withheld=f"{detection.withheld}; {like}")

    @torch.no_grad()
    def _distances(self, image: Tensor, names: Iterable[str]) -> dict[str, float]:
        """Return how unlike ``image`` (1, 3, H, W) is what each model was trained on, of those that have a limit.

        The image is the one that was prepared for another model. Models of the same encoder share its encoding.
        """
        distances: dict[str, float] = {}
        encodings: dict[str, Tensor] = {}
        for name in names:
            try:
                detector = self.detector(name)
            except (OSError, ValueError):  # told when an image of its own comes
                logger.debug("the model for %s is not compared with", name, exc_info=True)
                continue
            if detector.familiarity.fitted:
                if name not in self._encoders:
                    self._encoders[name] = detector.host.encoder_digest()
                digest = self._encoders[name]
                if digest not in encodings:
                    encodings[digest] = detector.host.raw(detector.resized(image))
                distances[name] = float(detector.familiarity.distance(encodings[digest]))
        return distances

    def judge_study(self, modality: str, scores: Sequence[float], positions: Sequence[float] | None = None) -> Verdict:
        """Return the verdict of a modality's model on a study.

        Args:
            modality: name.
            scores, positions: of its slices, as `AnomalyDetector.judge_study` takes them.
        """
        return self.detector(modality).judge_study(scores, positions, self.rate)

    def forward(self, image: Tensor, modalities: Sequence[str] | None = None) -> list[Detection]:
        """Return `detect` of the same arguments, as MONAI's evaluator calls a network."""
        return self.detect(image, modalities)
