"""What reconstruction-based detectors do: noise, denoise, compare."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from invad_med.evaluation.batch import Batch
from invad_med.evaluation.methods.maps import MapBaseline
from invad_med.inferers import ReconstructionInferer


class Reconstruction(MapBaseline):
    """Distance to what noising to level r and denoising gives back, with as many network evaluations as the walk."""

    about = (
        "distance to the features noised to level r and denoised by as many DDIM steps as the inversion has; one fixed "
        "noise for all images"
    )
    settings: ClassVar[dict[str, Any]] = {f"r = {level}": level for level in (300, 100, 200, 500, 700)}  # of 1000

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return the distance at each position: (B, h, w); of a shorter schedule the level is the same part."""
        host = self.detector.host
        level = max(1, round(setting * len(host.alphas_cumprod) / 1000))
        steps = min(len(self.detector.timesteps), level)
        inferer = ReconstructionInferer(level, steps, alphas_cumprod=host.alphas_cumprod)
        return (inferer(batch.features, host.predictor(batch.raw)) - batch.features).norm(dim=1)
