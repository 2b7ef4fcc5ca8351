"""Smooth random fields over the template's space: deformations and shading."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_DOMAIN = np.array([[-110.0, 110.0], [-146.0, 110.0], [-90.0, 90.0]])  # mm RAS, where fields are defined


@dataclass(frozen=True)
class SmoothField:
    """A smooth random vector or scalar field: uniform cubic B-spline with normal coefficients (C, nx, ny, nz)."""

    coefficients: np.ndarray
    spacing: float

    @classmethod
    def draw(cls, rng: np.random.Generator, channels: int, spacing: float, sd: float) -> SmoothField:
        """Draw a field whose values have standard deviation ``sd``, with knots every ``spacing`` mm."""
        counts = [math.ceil((high - low) / spacing) + 4 for low, high in _DOMAIN]
        # Averaged over position the squared weights of a cubic B-spline sum to 151/315 on each axis.
        gain = sd / (151 / 315) ** 1.5
        return cls(gain * rng.standard_normal((channels, *counts)), spacing)

    def _weights(self, axis: int, positions: np.ndarray) -> np.ndarray:
        """B-spline weights (P, n) of the knots of one axis at positions (P,) in mm."""
        knots = np.arange(self.coefficients.shape[axis + 1])
        t = np.abs((positions - _DOMAIN[axis, 0]) / self.spacing + 1.0 - knots[:, None]).T
        return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))

    def on_grid(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Values (C, D, H, W) at every combination of z (D,), y (H,) and x (W,) in mm."""
        wx, wy, wz = (self._weights(axis, p) for axis, p in enumerate((x, y, z)))
        return np.einsum("cijk,wi,hj,dk->cdhw", self.coefficients, wx, wy, wz, optimize=True)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Values (C, P) at scattered points (3, P) in mm."""
        wx, wy, wz = (self._weights(axis, p) for axis, p in enumerate(points))
        partial = np.einsum("cijk,pi->cpjk", self.coefficients, wx)
        return np.einsum("cpj,pj->cp", np.einsum("cpjk,pk->cpj", partial, wz), wy)
