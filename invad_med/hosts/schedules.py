"""Schedules of other libraries, read and never stepped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def schedule_of(scheduler: Any) -> Tensor:
    """Return alphas_cumprod of a diffusers or MONAI scheduler: (T,) float64, multiplied anew from its betas.

    Timestep lists, offsets, clipping and thresholds of the scheduler belong to its sampling and are not used.

    Raises:
        ValueError: it has no betas, as those of flows have none.
    """
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor) or betas.ndim != 1:
        raise ValueError(
            f"{type(scheduler).__name__} has no betas of a diffusion over noise levels alphas_cumprod (flow matching "
            "has none): such a model cannot be inverted here"
        )
    return checked_schedule(torch.cumprod(1.0 - betas.detach().cpu().double(), dim=0))


def checked_schedule(alphas_cumprod: Tensor | Sequence[float]) -> Tensor:
    """Return a schedule as (T,) float64.

    Raises:
        ValueError: it is not a schedule: at least two values in [0, 1] that do not rise.
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
    return schedule
