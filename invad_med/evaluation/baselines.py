"""What a detector must beat: simple image statistics, and nearest neighbours among the same features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

STATISTICS = ("mean", "deviation", "dark", "bright", "gradient", "border", "train mean", "30 components")


def trivial_statistics(images: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return eight statistics of each image that know nothing of anatomy: (N, 8), in the order of `STATISTICS`.

    Args:
        images: (N, H, W) grey in [0, 1].
        normals: (M, H, W) normal training images, M > 1, for the distance to their mean and to their first 30
            principal components.
    """
    flat, train = images.reshape(len(images), -1), normals.reshape(len(normals), -1)
    rows, columns = np.gradient(images, axis=(1, 2))
    edge = np.concatenate([images[:, :8].reshape(len(images), -1), images[:, -8:].reshape(len(images), -1)], axis=1)
    centre = train.mean(0)
    components = np.linalg.svd(train - centre, full_matrices=False)[2][:30]
    rest = (flat - centre) - ((flat - centre) @ components.T) @ components
    return np.stack(
        [
            flat.mean(1),
            flat.std(1),
            (flat < 0.2).mean(1),
            (flat > 0.8).mean(1),
            np.hypot(rows, columns).mean((1, 2)),
            edge.mean(1),
            np.linalg.norm(flat - centre, axis=1),
            np.linalg.norm(rest, axis=1),
        ],
        axis=1,
    )


def nearest_neighbour_maps(features: Tensor, normals: Tensor, bank_size: int = 20_000, seed: int = 0) -> Tensor:
    """Return each position's distance to the nearest of a bank of normal positions (PatchCore-like): (N, h, w).

    Args:
        features: (N, C, h, w) normalised features.
        normals: (M, C, h, w) of normal training images.
        bank_size: positions of ``normals`` kept, drawn at random.
        seed: of the draw.
    """
    bank = normals.permute(0, 2, 3, 1).flatten(0, 2)
    if len(bank) > bank_size:
        bank = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:bank_size]]
    n, c, h, w = features.shape
    queries = features.permute(0, 2, 3, 1).reshape(n, h * w, c)
    return torch.stack([torch.cdist(q, bank).amin(1).view(h, w) for q in queries])


class PositionGaussian:
    """A Gaussian of the features at each position of the grid, and Mahalanobis distances to it (PaDiM-like).

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
