"""MONAI inferers: thin shells over `invad_med.diffusion`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from invad_med.diffusion import (
    Mode,
    Timesteps,
    check_timesteps,
    inversion_timesteps,
    invert,
    linear_alphas_cumprod,
    reconstruct,
)


class InversionInferer(Inferer):
    """Walk features towards noise with any noise predictor ``eps(x, t)``: ``(inputs, network) -> z_T``.

    Args:
        steps: network evaluations S.
        mode: ``paper`` or ``official`` timestep grid, see `invad_med.diffusion.inversion_timesteps`.
        timesteps: explicit pairs (t, t_next) instead of a grid; ``steps`` and ``mode`` are then not used.
        num_train_timesteps: T of the linear schedule the network was trained with.

    Raises:
        ValueError: a grid or pair that the schedule does not have.
    """

    def __init__(
        self,
        steps: int = 3,
        mode: Mode = "paper",
        timesteps: Timesteps | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        self.alphas_cumprod = linear_alphas_cumprod(num_train_timesteps)
        self.timesteps = (
            inversion_timesteps(steps, mode, num_train_timesteps)
            if timesteps is None
            else [(t, t_next) for t, t_next in timesteps]
        )
        check_timesteps(self.timesteps, num_train_timesteps)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return z_T of ``inputs`` (B, C, h, w): same shape and device, float32 (float64 if the inputs are)."""
        return invert(network, inputs, self.timesteps, self.alphas_cumprod, *args, **kwargs)


class ReconstructionInferer(Inferer):
    """Noise features to a level and denoise them again, the way of most diffusion detectors: ``-> reconstruction``.

    The noise is the same for every image, so that no image's result depends on which others are there.

    Args:
        level: timestep r the features are noised to.
        steps: network evaluations S (deterministic DDIM).
        seed: of the noise.
        num_train_timesteps: T of the linear schedule the network was trained with.
    """

    def __init__(self, level: int = 300, steps: int = 3, seed: int = 0, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        self.level, self.steps, self.seed = level, steps, seed
        self.alphas_cumprod = linear_alphas_cumprod(num_train_timesteps)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the reconstruction of ``inputs`` (B, C, h, w): same shape and device."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(inputs.shape[1:], generator=generator).to(inputs).expand_as(inputs)
        return reconstruct(network, inputs, noise, self.level, self.steps, self.alphas_cumprod)
