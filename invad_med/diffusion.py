"""The diffusion mathematics of InvAD (arXiv 2504.05662) as pure functions over tensors.

Notation: ``abar[t]`` is the cumulative product of ``1 - beta``; ``x_t = sqrt(abar[t]) x_0 + sqrt(1 - abar[t]) eps``.
Schedules are float64; a network computes in whatever dtype it has; the walk itself never drops below float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Mode = Literal["paper", "official"]
Timesteps = Sequence[tuple[int, int | None]]


def linear_alphas_cumprod(num_train_timesteps: int = 1000) -> Tensor:
    """Return ``abar`` of the linear schedule, beta from 1e-4 to 2e-2: (num_train_timesteps,) float64, decreasing."""
    betas = torch.linspace(1e-4, 2e-2, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1.0 - betas, dim=0)


def inversion_timesteps(
    steps: int, mode: Mode = "paper", num_train_timesteps: int = 1000
) -> list[tuple[int, int | None]]:
    """Return the pairs (t, t_next) of an inversion with ``steps`` network evaluations.

    Args:
        steps: number of network evaluations S.
        mode: ``paper``: uniform subset, targets ``round(i (T-1) / S)``, evaluated at t and ending at T-1
            (S = 3: 0, 333, 666 -> 999). ``official``: the authors' code, both ends evaluated, built by accumulation
            (S = 3: 0, 500, 999), whose last target is pure noise (abar = 0), written as ``None``.
        num_train_timesteps: T of the schedule.

    Raises:
        ValueError: an unknown mode, or a number of steps that the grid does not have.
    """
    last = num_train_timesteps - 1
    if mode == "paper":
        if not 1 <= steps <= last:
            raise ValueError(f"steps={steps} is out of range for mode='paper': 1 to {last}")
        grid = [round(i * last / steps) for i in range(steps + 1)]
        return list(itertools.pairwise(grid))
    if mode == "official":
        if not 2 <= steps <= num_train_timesteps:
            raise ValueError(f"steps={steps} is out of range for mode='official': 2 to {num_train_timesteps}")
        # By accumulation: the closed form round(i * stride) differs by one for some S.
        stride, position, grid = last / (steps - 1), 0.0, []
        for _ in range(steps):
            grid.append(round(position))
            position += stride
        return list(zip(grid, [*grid[1:], None], strict=True))
    raise ValueError(f"mode={mode!r} is not a timestep grid: choose 'paper' or 'official', or give the pairs yourself")


def check_timesteps(timesteps: Timesteps, num_train_timesteps: int) -> None:
    """Raise ValueError, with the offending pair, unless every pair lies on the schedule and walks towards noise."""
    if not timesteps:
        raise ValueError("timesteps is empty: give at least one pair (t, t_next)")
    for t, t_next in timesteps:
        inside = 0 <= t < num_train_timesteps and (t_next is None or t < t_next < num_train_timesteps)
        if not inside:
            raise ValueError(
                f"timestep pair {(t, t_next)} must satisfy 0 <= t < t_next < {num_train_timesteps} "
                "(t_next None: abar 0)"
            )


def invert(
    network: Callable[..., Tensor],
    x: Tensor,
    timesteps: Timesteps,
    alphas_cumprod: Tensor,
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
        abar = float(alphas_cumprod[t])
        abar_next = 0.0 if t_next is None else float(alphas_cumprod[t_next])
        eps = network(x, torch.full((x.shape[0],), t, device=x.device, dtype=torch.long), *args, **kwargs)
        if eps.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(eps.shape)} for input {tuple(x.shape)}: not a noise")
        eps = eps.to(x.dtype)
        x0 = (x - (1.0 - abar) ** 0.5 * eps) / abar**0.5
        x = abar_next**0.5 * x0 + (1.0 - abar_next) ** 0.5 * eps
    return x


def reconstruct(
    network: Callable[..., Tensor],
    x: Tensor,
    noise: Tensor,
    level: int,
    steps: int,
    alphas_cumprod: Tensor,
) -> Tensor:
    """Noise ``x`` to ``level`` and denoise it by ``steps`` deterministic DDIM steps: what InvAD does without.

    Args:
        network: noise predictor ``eps(x, t)``, t a (B,) int64 tensor.
        x: clean features (B, ...), float32.
        noise: standard normal, of x's shape.
        level: timestep r the features are noised to, 1 <= r < T.
        steps: network evaluations S <= r, at timesteps round(r i / S), i = S..1; the last one ends at abar = 1.
        alphas_cumprod: (T,) float64.

    Returns:
        the reconstruction, the shape of ``x``.

    Raises:
        ValueError: a level or a number of steps that the schedule does not have.
    """
    if not 1 <= level < len(alphas_cumprod) or not 1 <= steps <= level:
        raise ValueError(
            f"level={level} must be 1 to {len(alphas_cumprod) - 1}, and steps={steps} at least 1 and at most the level"
        )
    grid = [round(level * i / steps) for i in range(steps, 0, -1)]
    y = add_noise(x, noise, torch.full((len(x),), level, device=x.device), alphas_cumprod)
    for t, t_next in zip(grid, [*grid[1:], None], strict=True):
        abar = float(alphas_cumprod[t])
        abar_next = 1.0 if t_next is None else float(alphas_cumprod[t_next])
        eps = network(y, torch.full((len(x),), t, device=x.device, dtype=torch.long)).to(y.dtype)
        x0 = (y - (1.0 - abar) ** 0.5 * eps) / abar**0.5
        y = abar_next**0.5 * x0 + (1.0 - abar_next) ** 0.5 * eps
    return y


def add_noise(x: Tensor, noise: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return ``x_t`` for clean ``x`` (B, ...), ``noise`` of its shape and timesteps ``t`` (B,)."""
    abar = alphas_cumprod.to(x.device)[t].view(-1, *[1] * (x.ndim - 1))
    return abar.sqrt().to(x.dtype) * x + (1.0 - abar).sqrt().to(x.dtype) * noise


def noise_prediction_loss(
    network: Callable[..., Tensor],
    x: Tensor,
    alphas_cumprod: Tensor,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the training loss, mean of ``(eps(x_t, t) - eps)^2`` over a batch of clean normal features.

    Args:
        x: (B, ...) clean features of normal images.
        t: (B,) int64 timesteps; drawn uniformly from 0..T-1 if None.
        noise: standard normal noise of x's shape; drawn if None.
        generator: source of the draws, on x's device.
    """
    if t is None:
        t = torch.randint(len(alphas_cumprod), (x.shape[0],), device=x.device, generator=generator)
    if noise is None:
        noise = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
    predicted = network(add_noise(x, noise, t, alphas_cumprod), t)
    return torch.mean((predicted.to(noise.dtype) - noise) ** 2)
