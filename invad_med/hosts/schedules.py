"""Schedules of other libraries, read and never stepped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1e-5
# Options by which a network is asked by something else than numbers of timesteps: name, harmless value, reason.
_NOT_BY_TIMESTEP = (
    ("timestep_type", "discrete", "its network takes noise levels in the place of timesteps"),
    ("use_flow_sigmas", False, "a flow's velocity belongs to straight paths, not to a schedule of alphas_cumprod"),
)


def schedule_of(scheduler: Any) -> Tensor:
    """Return alphas_cumprod of a diffusers or MONAI scheduler: (T,) float64, multiplied anew from its betas.

    Where the scheduler's own alphas_cumprod is another (an SNR shift), that is taken. Timestep lists, offsets, clipping
    and thresholds belong to its sampling and are not used.

    Raises:
        ValueError: it has no betas, as those of flows have none, or its network is not asked by numbers of timesteps.
    """
    config: Any = getattr(scheduler, "config", None) or {}
    for option, of_no_account, why in _NOT_BY_TIMESTEP:
        if config.get(option, of_no_account) != of_no_account:
            raise ValueError(f"{type(scheduler).__name__} has {option}={config[option]!r}: {why}")
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor) or betas.ndim != 1:
        raise ValueError(
            f"{type(scheduler).__name__} has no betas of a diffusion over noise levels alphas_cumprod (flow matching "
            "has none): such a model cannot be inverted here"
        )
    schedule = torch.cumprod(1.0 - betas.detach().cpu().double(), dim=0)
    stored = getattr(scheduler, "alphas_cumprod", None)
    if isinstance(stored, Tensor) and stored.shape == schedule.shape:
        stored = stored.detach().cpu().double()
        schedule = schedule if (stored - schedule).abs().max() < _ROUNDING else stored
    return checked_schedule(schedule)


def digest_of(alphas_cumprod: Tensor) -> str:
    """Return a digest of a schedule (T,), of 6 digits of each value: 16 hex digits."""
    return hashlib.sha256(" ".join(f"{a:.6f}" for a in alphas_cumprod.tolist()).encode()).hexdigest()[:16]


def checked_schedule(alphas_cumprod: Tensor | Sequence[float]) -> Tensor:
    """Return a schedule as (T,) float64.

    Raises:
        ValueError: it is not a schedule: at least two values in [0, 1] that do not rise, from mostly image to mostly
            noise.
    """
    schedule = torch.as_tensor(alphas_cumprod).detach().cpu().double()
    if schedule.ndim != 1 or len(schedule) < 2:
        raise ValueError(f"alphas_cumprod has shape {tuple(schedule.shape)}: at least two timesteps, (T,), are needed")
    inside = (schedule >= 0.0).all() and (schedule <= 1.0).all()  # false for NaN
    if not inside or (schedule.diff() > 0.0).any():
        raise ValueError(
            f"alphas_cumprod must fall from at most 1 to at least 0; it has values from {float(schedule.min()):.3g} to "
            f"{float(schedule.max()):.3g}: give the cumulative product of 1 - beta, not beta"
        )
    first, last = float(schedule[0]), float(schedule[-1])
    if first < 0.5 or last > 0.75 or first == last:
        raise ValueError(
            f"alphas_cumprod goes from {first:.3g} to {last:.3g}: a diffusion begins with mostly image and "
            "ends in mostly noise; give the cumulative product of 1 - beta of all its timesteps"
        )
    return schedule
