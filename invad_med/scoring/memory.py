"""A memory of vectors at normal positions, and how far others are from the nearest of it (Roth et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def averaged(vectors: Tensor) -> Tensor:
    """Return the mean of each position's 3 x 3 neighbours in (B, C, h, w), zeros beyond the border: (B, C, h, w)."""
    return F.avg_pool2d(vectors, 3, stride=1, padding=1)


def draw(normals: Tensor, size: int, seed: int = 0) -> Tensor:
    """Return vectors at positions of normals (M, C, h, w) drawn at random: (n <= size, C) float32."""
    m, _, h, w = normals.shape
    order = torch.randperm(m * h * w, generator=torch.Generator().manual_seed(seed))[:size]
    return normals[order // (h * w), :, order % (h * w) // w, order % w].float()


def distances(vectors: Tensor, bank: Tensor) -> Tensor:
    """Return each position's distance to the nearest of a bank (n, C), for vectors (N, C, h, w): (N, h, w)."""
    n, c, h, w = vectors.shape
    queries = vectors.permute(0, 2, 3, 1).reshape(n, h * w, c)
    return torch.stack([torch.cdist(q, bank).amin(1).view(h, w) for q in queries])


def exact_distances(vectors: Tensor, bank: Tensor) -> Tensor:
    """Return `distances`, exact also where a vector, or one almost like it, is in the bank.

    The nearest is found by squares and products, as `distances` does, whose small difference of large numbers would
    leave there what each engine rounds by; it is then measured itself.
    """
    n, c, h, w = vectors.shape
    queries, squares = vectors.permute(0, 2, 3, 1).reshape(n, h * w, c), bank.square().sum(1)
    nearest = (bank[(squares - 2.0 * q @ bank.T).argmin(1)] for q in queries)
    return torch.stack([(q - near).norm(dim=1).view(h, w) for q, near in zip(queries, nearest, strict=True)])


def coreset(bank: Tensor, size: int) -> Tensor:
    """Return vectors of a bank (n, C), the first of it and then always the farthest from all chosen: (<= size, C)."""
    farthest, chosen, square = 0, [], bank.square().sum(1)
    nearest = torch.full((len(bank),), float("inf"), device=bank.device)
    for _ in range(min(size, len(bank))):
        chosen.append(farthest)
        nearest = torch.minimum(nearest, square + square[farthest] - 2.0 * (bank @ bank[farthest]))
        farthest = int(nearest.argmax())
    return bank[chosen]
