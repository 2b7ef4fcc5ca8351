"""Scores of an inversion's end point ``z`` (B, C, h, w), as pure functions (`Calibration` gives them a meaning)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_map(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, h, w) maps to ``size`` (H, W), bilinear, ``align_corners=False``: no blur, no normalisation."""
    return F.interpolate(maps[:, None], size=list(size), mode="bilinear", align_corners=False)[:, 0]


def anomaly_map(z: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Return the channel-wise L2 norm of ``z``: (B, h, w), >= 0, or (B, H, W) if ``size`` is given."""
    maps = torch.linalg.vector_norm(z.float() if z.dtype != torch.float64 else z, dim=1)
    return maps if size is None else resize_map(maps, size)


def max_min(z: Tensor) -> Tensor:
    """Return max(A) - min(A) of the anomaly map A before any resizing: (B,)."""
    maps = anomaly_map(z).flatten(1)
    return maps.amax(1) - maps.amin(1)


def nll(z: Tensor) -> Tensor:
    """Return the negative log-likelihood under N(0, I), ``0.5 sum(z^2 + log 2 pi)``: (B,)."""
    flat = (z.float() if z.dtype != torch.float64 else z).flatten(1)
    return 0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2.0 * math.pi))


def paper_score(z: Tensor) -> Tensor:
    """Return the paper's image score, ``max(A) - min(A) + sum(A)``: (B,)."""
    maps = anomaly_map(z).flatten(1)
    return maps.amax(1) - maps.amin(1) + maps.sum(1)


def top_mean(maps: Tensor, fraction: float) -> Tensor:
    """Return the mean of the largest ``fraction`` (at least one pixel) of each map (B, h, w): (B,)."""
    flat = maps.flatten(1)
    count = max(1, round(fraction * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)
