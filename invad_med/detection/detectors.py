"""The models of a bundle: one detector per data set, each image scored by its own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from invad_med.detection import AnomalyDetector
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.networks.checkpoints import load_strictly, read_checkpoint
from invad_med.scoring import Calibration

logger = logging.getLogger(__name__)


class DetectorShelf(nn.Module):
    """Detectors by data set: the default one, and those in its folder, each loaded when first needed.

    Args:
        network_def: the default detector, its checkpoint loaded; others are built like it, with its inferer.
        ckpt_path: its checkpoint file. If it lies in ``models_dir``, the files ``<data set>.pt`` beside it serve the
            other data sets; a checkpoint from elsewhere stands alone.
        models_dir: folder of the models that ship.
        modality: the default detector's data set, where its checkpoint does not say.
        false_positive_rate: for the thresholds, 0 < rate < 1.

    Raises:
        ValueError: the checkpoint does not say its data set, and ``modality`` does not either.
    """

    def __init__(
        self,
        network_def: AnomalyDetector,
        ckpt_path: str | Path,
        models_dir: str | Path,
        modality: str | None = None,
        false_positive_rate: float = 0.05,
    ) -> None:
        super().__init__()
        name = network_def.provenance.get("dataset") or modality
        if not name:
            raise ValueError(f"checkpoint {ckpt_path} does not say which data set it is for: give --modality")
        self.default: str = name
        self.rate = false_positive_rate
        self.detectors = nn.ModuleDict({name: network_def})
        shipped = Path(ckpt_path).resolve().parent == Path(models_dir).resolve()
        self.files = {p.stem: p for p in sorted(Path(models_dir).glob("*.pt")) if p.stem != "model"} if shipped else {}
        self.files.pop(name, None)

    @property
    def names(self) -> tuple[str, ...]:
        """Data sets there is a model for, the default's first."""
        return (self.default, *self.files)

    def detector(self, dataset: str) -> AnomalyDetector:
        """Return the detector of a data set, loading it if need be.

        Raises:
            KeyError: there is none.
        """
        if dataset not in self.detectors:
            self.detectors[dataset] = load_like(self.detector(self.default), self.files[dataset])
        found = self.detectors[dataset]
        assert isinstance(found, AnomalyDetector)
        return found

    def forward(self, image: Tensor, dataset: Sequence[str] | None = None) -> dict[str, Any]:
        """Score a batch, every image by the model of its data set (the default's where None).

        Args:
            image: (B, 3, H, W) in [0, 1].
            dataset: B names.

        Returns:
            ``pred`` (B, 1, H, W); ``paper_score``, ``score``, ``p_value``, ``threshold``, ``map_threshold``, each (B,)
            float32, NaN where withheld; ``withheld``, B reasons, empty where nothing is withheld. ``map_threshold`` is
            never NaN: it is what a colour scale is tied to.
        """
        names = list(dataset) if dataset is not None else [self.default] * len(image)
        rows: list[dict[str, Any]] = [{}] * len(names)
        for name in dict.fromkeys(names):
            chosen = [i for i, other in enumerate(names) if other == name]
            for i, row in zip(chosen, self._findings(self.detector(name), image[chosen]), strict=True):
                rows[i] = row
        return {
            key: [row[key] for row in rows] if key == "withheld" else torch.stack([row[key] for row in rows])
            for key in rows[0]
        }

    def _findings(self, detector: AnomalyDetector, image: Tensor) -> list[dict[str, Any]]:
        found = detector.detect(image)
        calibration = detector.calibration
        calibrated = found.withheld is None
        withheld, threshold = found.withheld or "", None
        limit = detector.features.out_channels**0.5  # the norm expected under the prior
        if calibrated:
            threshold, limit = calibration.threshold(self.rate), calibration.map_threshold(self.rate)
            count = len(calibration.reference)
            if threshold is None:
                withheld = f"{count} held-out normal images support no threshold at a rate of {self.rate:g}"
            limit = float(calibration.map_reference[-1]) if limit is None else limit
        return [
            {
                "pred": found.pred[i],
                "paper_score": found.paper_score[i],
                "score": _number(found.score[i] if found.score is not None else None, image),
                "p_value": _number(found.p_value[i] if found.p_value is not None else None, image),
                "threshold": _number(threshold, image),
                "map_threshold": _number(limit, image),
                "withheld": withheld,
            }
            for i in range(len(image))
        ]


def load_like(detector: AnomalyDetector, path: str | Path) -> AnomalyDetector:
    """Return a detector with another checkpoint's weights and calibration, on the same device, with the same inferer.

    Its architecture is the given one; where the checkpoint does not fit that, the one its provenance names.

    Raises:
        ValueError: it fits neither.
    """
    tensors = read_checkpoint(path)
    other = copy.deepcopy(detector)
    other.calibration = Calibration(detector.features.out_channels)
    try:
        load_strictly(other, tensors)
    except ValueError:
        stated = tensors.get("_extra_state", {})
        if not {"preset", "backbone"} <= stated.keys():
            raise
        features = FrozenFeatures(stated["backbone"], weights="checkpoint")
        denoiser = create_denoiser(stated["preset"], features.out_channels)
        other = AnomalyDetector(features, denoiser, detector.inferer, image_size=detector.image_size)
        load_strictly(other, tensors)
    logger.info("loaded the model for %s", other.provenance.get("title", path))
    return other.to(detector.features.image_mean.device).eval()


def _number(value: Tensor | float | None, like: Tensor) -> Tensor:
    """Return a scalar float32 on the device of ``like``; NaN for None."""
    return torch.as_tensor(float("nan") if value is None else value, dtype=torch.float32, device=like.device)


class DetectorInferer(Inferer):
    """What MONAI's evaluator calls: hand the batch to the detectors, which do the rest."""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return ``network(inputs, *args, **kwargs)`` without gradients."""
        with torch.no_grad():
            return network(inputs, *args, **kwargs)
