"""MONAI inferers: thin shells over `invad_med.diffusion`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from invad_med.diffusion import Grid, Mode, Timesteps, invert, linear_alphas_cumprod, reconstruct


class InversionInferer(Inferer):
    """Walk features towards noise with any noise predictor ``eps(x, t)``: ``(inputs, network) -> z_T``.

    Args:
        steps: network evaluations S.
        mode: ``paper``, ``official`` or ``truncated`` timestep grid, see `invad_med.diffusion.inversion_timesteps`.
        timesteps: explicit pairs (t, t_next) instead of a grid; ``steps`` and ``mode`` are then not used.
        alphas_cumprod: (T,) float64, the schedule the network was trained with; the linear one of 1000 if None.

    Raises:
        ValueError: a grid or pair that the schedule does not have.
    """

    def __init__(
        self,
        steps: int = 3,
        mode: Mode = "paper",
        timesteps: Timesteps | None = None,
        alphas_cumprod: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.alphas_cumprod = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self.timesteps = Grid(steps, mode, timesteps).resolve((), len(self.alphas_cumprod))

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return z_T of ``inputs`` (B, C, h, w): same shape and device, float32 (float64 if the inputs are)."""
        return invert(network, inputs, self.timesteps, self.alphas_cumprod, *args, **kwargs)


class ReconstructionInferer(Inferer):
    """Noise features to a level and denoise them: ``(inputs, network) -> reconstruction``, a baseline for inversion.

    Args:
        level: timestep that the features are noised to.
        steps: DDIM denoising steps.
        seed: of the noise, which is the same for every image.
        alphas_cumprod: (T,) float64, the schedule the network was trained with; the linear one of 1000 if None.
    """

    def __init__(self, level: int = 300, steps: int = 3, seed: int = 0, alphas_cumprod: Tensor | None = None) -> None:
        super().__init__()
        self.alphas_cumprod = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self.level, self.steps, self.seed = level, steps, seed

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the reconstruction of ``inputs`` (B, C, h, w): same shape and device."""
        one = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        noise = one.to(inputs.device).expand_as(inputs)
        return reconstruct(network, inputs, noise, self.level, self.steps, self.alphas_cumprod, *args, **kwargs)
