"""The features as they are: no diffusion at all."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from invad_med.evaluation.batch import Batch
from invad_med.evaluation.methods.maps import MapBaseline


class NoInversion(MapBaseline):
    """Norm of the normalised features."""

    about = "norm of the normalised features: no diffusion at all"

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return the norm of the features: (B, h, w)."""
        return batch.features.norm(dim=1)
