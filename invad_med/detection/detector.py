"""The whole detector as one module: image in, anomaly map out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.inferers import InversionInferer
from invad_med.networks.checkpoints import load_strictly, read_checkpoint
from invad_med.networks.features import FrozenFeatures
from invad_med.scoring import Calibration, anomaly_map, paper_score, resize_map


class Detection(NamedTuple):
    """What a detector finds in a batch of images.

    Fields: ``pred`` (B, 1, H, W), the map; ``paper_score`` (B,); ``score`` and ``p_value`` (B,), calibrated, or None
    where they have no meaning, with the reason in ``withheld``.
    """

    pred: Tensor
    paper_score: Tensor
    score: Tensor | None
    p_value: Tensor | None
    withheld: str | None


class AnomalyDetector(nn.Module):
    """Frozen features, a denoiser, an inversion and a calibration, joined: (B, 3, H, W) in [0, 1] -> (B, 1, H, W).

    The map is the calibration's (about 1 on normal images) if that was fitted for the inferer's timesteps, else the
    norm of the end point.

    Args:
        features: backbone; see `FrozenFeatures`.
        denoiser: noise predictor ``eps(x, t)`` over the features.
        inferer: how features are walked to noise; the paper's three steps if None.
        calibration: statistics of normal images; unfitted if None.
        image_size: side to which images are resized (bilinear) before the backbone.
        checkpoint: state dict of a whole detector to load at once, strictly; it brings its ``provenance``.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, or does not fit, by name.
    """

    def __init__(
        self,
        features: FrozenFeatures,
        denoiser: nn.Module,
        inferer: InversionInferer | None = None,
        calibration: Calibration | None = None,
        image_size: int = 256,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.denoiser = denoiser
        self.inferer = inferer or InversionInferer()
        self.calibration = calibration or Calibration(features.out_channels)
        self.image_size = image_size
        self.provenance: dict[str, Any] = {}
        if checkpoint is not None:
            load_strictly(self, read_checkpoint(checkpoint))

    def end_point(self, image: Tensor) -> Tensor:
        """Return z_T of ``image`` (B, 3, H, W) in [0, 1]: (B, C, h, w)."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"the detector expects images (B, 3, H, W) in [0, 1], not {tuple(image.shape)}")
        size = (self.image_size, self.image_size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        denoiser: Callable[..., Tensor] = self.denoiser
        return self.inferer(self.features(image), denoiser)

    def _map(self, z: Tensor, size: Any) -> Tensor:
        calibrated = self.calibration.why_not(self.inferer.timesteps) is None
        return resize_map(self.calibration.map(z) if calibrated else anomaly_map(z), size)[:, None]

    def forward(self, image: Tensor) -> Tensor:
        """Return the anomaly map of ``image`` (B, 3, H, W) in [0, 1]: (B, 1, H, W), >= 0."""
        return self._map(self.end_point(image), image.shape[-2:])

    def detect(self, image: Tensor) -> Detection:
        """Return map, scores and p-value of ``image`` (B, 3, H, W) in [0, 1]."""
        z = self.end_point(image)
        withheld = self.calibration.why_not(self.inferer.timesteps)
        score = self.calibration.score(z) if withheld is None else None
        p_value = self.calibration.p_value(score) if score is not None else None
        return Detection(self._map(z, image.shape[-2:]), paper_score(z), score, p_value, withheld)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the provenance, which travels in the state dict: plain values only."""
        return self.provenance

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's provenance."""
        self.provenance = dict(state)
