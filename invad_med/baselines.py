"""What a detector must beat: simple image statistics, and older methods on the same features."""

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


def gaussian_maps(features: Tensor, normals: Tensor, regularisation: float = 0.01) -> Tensor:
    """Return each position's Mahalanobis distance to the normal features there (PaDiM-like): (N, h, w).

    Args:
        features: (N, C, h, w) normalised features.
        normals: (M, C, h, w) of normal training images, M > 1.
        regularisation: added to the diagonal of each position's covariance.
    """
    maps = torch.empty(len(features), *features.shape[2:])
    ridge = regularisation * torch.eye(features.shape[1], dtype=torch.float64)
    for row in range(features.shape[2]):
        for column in range(features.shape[3]):
            here = normals[:, :, row, column].double()
            inverse_root = torch.linalg.inv(torch.linalg.cholesky(torch.cov(here.T) + ridge))
            away = features[:, :, row, column].double() - here.mean(0)
            maps[:, row, column] = torch.linalg.vector_norm(away @ inverse_root.T, dim=1)
    return maps
