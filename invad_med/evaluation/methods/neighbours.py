"""Nearest neighbours among normal positions of the same features (PatchCore-like)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.methods.maps import MapBaseline


def draw_bank(normals: Tensor, size: int = 20_000, seed: int = 0) -> Tensor:
    """Return positions of normal features (M, C, h, w) drawn at random: (n <= size, C) float32."""
    m, _, h, w = normals.shape
    order = torch.randperm(m * h * w, generator=torch.Generator().manual_seed(seed))[:size]
    return normals[order // (h * w), :, order % (h * w) // w, order % w].float()


def nearest_neighbour_maps(features: Tensor, bank: Tensor) -> Tensor:
    """Return each position's distance to the nearest of a bank (n, C), for features (N, C, h, w): (N, h, w)."""
    n, c, h, w = features.shape
    queries = features.permute(0, 2, 3, 1).reshape(n, h * w, c)
    return torch.stack([torch.cdist(q, bank).amin(1).view(h, w) for q in queries])


class NearestNeighbours(MapBaseline):
    """Distance to the nearest of a bank of normal positions."""

    about = "distance to the nearest of 20,000 normal positions drawn at random (PatchCore-like)"

    def learn(self, train: Images) -> None:
        """Draw the bank."""
        self.bank = draw_bank(train.features)

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return the distance at each position: (B, h, w)."""
        return nearest_neighbour_maps(batch.features, self.bank.to(batch.device))
