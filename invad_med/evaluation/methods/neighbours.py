"""Nearest neighbours among normal positions of the same features (PatchCore-like)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.methods.maps import MapBaseline
from invad_med.scoring import memory

_DRAWN, _CORESET = 20_000, 2_000


class NearestNeighbours(MapBaseline):
    """Distance to the nearest of a bank of normal positions; a setting says whether these are means of neighbours."""

    about = (
        "distance to the nearest of 20,000 normal positions drawn at random, of these or of means over 3 x 3, or of a "
        "greedy coreset of 2,000 of the latter (PatchCore-like)"
    )
    settings: ClassVar[dict[str, Any]] = {
        "means over 3 x 3, coreset": (True, True),
        "means over 3 x 3": (True, False),
        "single positions": (False, False),
    }

    def learn(self, train: Images) -> None:
        """Draw the banks."""
        single = memory.draw(train.features, _DRAWN)
        means = memory.draw(
            torch.cat([memory.averaged(part.float()).half() for part in train.features.split(64)]), _DRAWN
        )
        self.banks = {
            (False, False): single,
            (True, False): means,
            (True, True): memory.coreset(means, _CORESET),
        }

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return the distance at each position: (B, h, w)."""
        means, _ = setting
        features = memory.averaged(batch.features) if means else batch.features
        return memory.distances(features, self.banks[setting].to(batch.device))
