"""The diffusion mathematics of InvAD (arXiv 2504.05662) as pure functions over tensors.

Notation: ``abar[t]`` is the cumulative product of ``1 - beta``; ``x_t = sqrt(abar[t]) x_0 + sqrt(1 - abar[t]) eps``
(DDPM: Ho et al., arXiv 2006.11239, Eq. 4). A step is that of DDIM (Song et al., arXiv 2010.02502).
Schedules are float64; a network computes in whatever dtype it has; the walk itself never drops below float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invad_med.timesteps import Grid, Mode, Timesteps, check_timesteps, grid_mode, inversion_timesteps

__all__ = [
    "Grid",
    "Mode",
    "Timesteps",
    "Walked",
    "add_noise",
    "check_timesteps",
    "grid_mode",
    "inversion_timesteps",
    "invert",
    "linear_alphas_cumprod",
    "reconstruct",
]


@dataclass(frozen=True)
class Walked:
    """Where inversions of some images start and where they end.

    Args:
        encoding: (B, C, h, w), what is inverted.
        end_point: (B, C, h, w), z_T of it.

    Raises:
        ValueError: they differ in shape.
    """

    encoding: Tensor
    end_point: Tensor

    def __post_init__(self) -> None:
        if self.encoding.shape != self.end_point.shape:
            shapes = tuple(self.encoding.shape), tuple(self.end_point.shape)
            raise ValueError(f"encodings {shapes[0]} and end points {shapes[1]} are not of the same images")

    def __len__(self) -> int:
        return len(self.end_point)

    def joined(self, other: Walked) -> Walked:
        """Return these images and others after them."""
        return Walked(torch.cat([self.encoding, other.encoding]), torch.cat([self.end_point, other.end_point]))


def linear_alphas_cumprod(num_train_timesteps: int = 1000) -> Tensor:
    """Return ``abar`` of DDPM's linear schedule, beta from 1e-4 to 2e-2: (num_train_timesteps,) float64, decreasing."""
    betas = torch.linspace(1e-4, 2e-2, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1.0 - betas, dim=0)


def invert(
    network: Callable[..., Tensor],
    x: Tensor,
    timesteps: Timesteps,
    alphas_cumprod: Tensor | Sequence[float],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Walk ``x`` towards noise by DDIM inversion (method: paper section 3), one network evaluation per pair.

    Args:
        network: noise predictor ``eps(x, t, *args, **kwargs)``, t a (B,) int64 tensor.
        x: clean features (B, ...), float.
        timesteps: pairs (t, t_next), from `inversion_timesteps` or written by hand; ``[(t, None)]`` is one evaluation.
        alphas_cumprod: (T,) float64.

    Returns:
        z_T, the shape of ``x``; float32, or float64 if ``x`` is.

    Raises:
        ValueError: a pair outside the schedule, or a network whose output has another shape.
    """
    check_timesteps(timesteps, len(alphas_cumprod))
    x = x if x.dtype == torch.float64 else x.float()
    for t, t_next in timesteps:
        abar_next = 0.0 if t_next is None else float(alphas_cumprod[t_next])
        x = _ddim_step(network, x, t, float(alphas_cumprod[t]), abar_next, *args, **kwargs)
    return x


def reconstruct(
    network: Callable[..., Tensor],
    x: Tensor,
    noise: Tensor,
    level: int,
    steps: int,
    alphas_cumprod: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Noise clean ``x`` (B, ...) to timestep ``level`` and denoise it in ``steps`` DDIM steps: the shape of ``x``.

    What reconstruction-based detectors do, as a baseline. The grid is ``round(level (1 - i / steps))``, i = 0..steps,
    its last target clean (abar = 1).

    Args:
        noise: standard normal, the shape of ``x``.
        level: 1 to T - 1.
        steps: network evaluations, 1 to ``level``.

    Raises:
        ValueError: a level or number of steps that the schedule does not have.
    """
    if not 1 <= level < len(alphas_cumprod) or not 1 <= steps <= level:
        raise ValueError(f"level={level} must be 1 to {len(alphas_cumprod) - 1}, and steps={steps} from 1 to the level")
    x = x if x.dtype == torch.float64 else x.float()
    x = add_noise(x, noise.to(x), torch.full((len(x),), level, device=x.device), alphas_cumprod)
    grid = [round(level * (1 - i / steps)) for i in range(steps + 1)]
    for t, t_next in itertools.pairwise(grid):
        abar_next = float(alphas_cumprod[t_next]) if t_next else 1.0
        x = _ddim_step(network, x, t, float(alphas_cumprod[t]), abar_next, *args, **kwargs)
    return x


def _ddim_step(
    network: Callable[..., Tensor], x: Tensor, t: int, abar: float, abar_next: float, *args: Any, **kwargs: Any
) -> Tensor:
    """Return ``x`` at ``abar_next``, from ``x`` at timestep t, by the noise the network sees in it."""
    eps = network(x, torch.full((x.shape[0],), t, device=x.device, dtype=torch.long), *args, **kwargs)
    if eps.shape != x.shape:
        raise ValueError(f"the network returned shape {tuple(eps.shape)} for input {tuple(x.shape)}: not a noise")
    eps = eps.to(x.dtype)
    x0 = (x - (1.0 - abar) ** 0.5 * eps) / abar**0.5  # DDIM, Eq. 12 with sigma = 0, walked either way
    return abar_next**0.5 * x0 + (1.0 - abar_next) ** 0.5 * eps


def add_noise(x: Tensor, noise: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return ``x_t`` for clean ``x`` (B, ...), ``noise`` of its shape and timesteps ``t`` (B,)."""
    abar = alphas_cumprod.to(x.device)[t].view(-1, *[1] * (x.ndim - 1))
    return abar.sqrt().to(x.dtype) * x + (1.0 - abar).sqrt().to(x.dtype) * noise
