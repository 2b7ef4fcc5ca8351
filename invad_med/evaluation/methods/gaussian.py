"""A Gaussian of the features at each position of the grid (PaDiM-like)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.methods.maps import MapBaseline


class PositionGaussian:
    """A Gaussian of the features at each position of the grid, and Mahalanobis distances to it.

    Defard et al., ICPR 2021, on the same features as the detector, without their random choice of channels.

    Args:
        normals: (M, C, h, w) features of normal training images, any float dtype; taken a row of the grid at a time.
        regularisation: added to the diagonal of each covariance, in units of normalised features.
    """

    def __init__(self, normals: Tensor, regularisation: float = 0.01) -> None:
        m, c, h, w = normals.shape
        self.mean = torch.stack([normals[:, :, i].float().mean(0) for i in range(h)], dim=1)  # (C, h, w)
        self.inverse = torch.empty(h, w, c, c)  # transposed inverse Cholesky factors
        for i in range(h):
            x = (normals[:, :, i].float() - self.mean[:, i]).permute(2, 0, 1)  # (w, M, C)
            covariance = x.transpose(1, 2) @ x / max(m - 1, 1) + regularisation * torch.eye(c)
            factor = torch.linalg.cholesky(covariance)
            self.inverse[i] = torch.linalg.solve_triangular(factor, torch.eye(c).expand(w, c, c), upper=False).mT

    def maps(self, features: Tensor) -> Tensor:
        """Return the Mahalanobis distance at each position of features (N, C, h, w): (N, h, w)."""
        x = (features.float() - self.mean).permute(2, 3, 0, 1)  # (h, w, N, C)
        return (x @ self.inverse).norm(dim=-1).permute(2, 0, 1)


class Gaussian(MapBaseline):
    """Mahalanobis distance to a Gaussian per position."""

    about = "Mahalanobis distance to a Gaussian per position (PaDiM-like), 0.01 on the diagonal"

    def learn(self, train: Images) -> None:
        """Fit the Gaussians."""
        self.gaussian = PositionGaussian(train.features)

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return the distance at each position: (B, h, w)."""
        return self.gaussian.maps(batch.features.cpu())
