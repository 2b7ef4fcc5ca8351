"""The models of one process, loaded once, and what each row says of its model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from invad_med.detection import Detectors
from invad_med.detection.models import ModelFiles
from invad_med.files import digest_of
from invad_med.inference.studies import StudyJudge
from invad_med.serving.weights import Weights, open_weights
from invad_med.shards.work import OtherSettings, Settings

_CALIBRATION = ("calibration.", "studies.")  # beginnings of names in a checkpoint


@dataclass(frozen=True)
class ModelFacts:
    """What a row says of its model.

    Args:
        digest: of the checkpoint.
        calibration: digest of its calibration, 16 digits: another for the same weights calibrated anew.
    """

    digest: str
    calibration: str


class LoadedModels:
    """The models of one process.

    Args:
        settings: of the working folder.
        files: the checkpoints.

    Raises:
        ValueError: as `Detectors`.
    """

    def __init__(self, settings: Settings, files: ModelFiles) -> None:
        self.settings = settings
        rate, gate = settings.false_positive_rate, settings.gate
        self.detectors = Detectors(files, None, None, settings.engine, settings.device, rate, gate)
        self.judge = StudyJudge(self.detectors)
        self._facts: dict[str, ModelFacts] = {}

    def facts(self, modality: str) -> ModelFacts:
        """Load the model of a modality, if that was not done, and return what rows say of it.

        Raises:
            OtherSettings: its file is another than when the run began.
            FileNotFoundError, ValueError, RuntimeError: as `Detectors.detector`.
        """
        if modality not in self._facts:
            path = self.detectors.files[modality]
            with path.open("rb") as file:
                digest = digest_of(file)
            if digest != self.settings.models[modality]:
                raise OtherSettings(
                    f"the model for {modality} ({path.name}) was replaced while the archive was scored: rows of two "
                    "models never mix. Put the former one back"
                )
            with open_weights(path) as weights:
                calibration = calibration_digest(weights)
            self.detectors.detector(modality)
            self._facts[modality] = ModelFacts(digest, calibration)
        return self._facts[modality]


def model_digests(files: ModelFiles) -> dict[str, str]:
    """Return the digest of the checkpoint of each modality."""
    result = {}
    for modality, path in files.files.items():
        with path.open("rb") as file:
            result[modality] = digest_of(file)
    return result


def calibration_digest(weights: Weights) -> str:
    """Return a digest of all that makes scores, p-values and thresholds of end points: 16 digits."""
    digest = hashlib.sha256()
    for name in sorted(weights.values):
        if name.startswith(_CALIBRATION):
            digest.update(name.encode())
            _add(digest, weights.read(name))
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(b"[")
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode())
