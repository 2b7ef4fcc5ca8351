"""Noise prediction through velocity: what lets a network narrower than its features predict full-rank noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invad_med.diffusion import linear_alphas_cumprod
from invad_med.networks.blocks import Blocks, blocks_of
from invad_med.networks.dit import DiTSizes


class VelocityDenoiser(nn.Module):
    """Noise predictor ``eps(x, t) = sqrt(abar) v(x, t) + sqrt(1 - abar) x`` around a network ``v``.

    ``v = sqrt(abar) eps - sqrt(1 - abar) x_0`` is the velocity (Salimans and Ho, arXiv 2202.00512). For features of
    about unit variance the second term is already most of the answer at high noise, so ``network`` need only predict
    what the data adds; at its zero start this is the exact predictor for N(0, I) data.

    Args:
        network: any network ``v(x, t)``, such as a `DiT`.
        alphas_cumprod: (T,) the schedule; the linear one of 1000 if None.
    """

    sqrt_abar: Tensor
    sqrt_noise: Tensor

    def __init__(self, network: nn.Module, alphas_cumprod: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        abar = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self.register_buffer("sqrt_abar", abar.sqrt().float(), persistent=False)
        self.register_buffer("sqrt_noise", (1.0 - abar).sqrt().float(), persistent=False)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the noise in ``x`` (B, C, h, w) at integer ``timesteps`` (B,); the shape of ``x``."""
        steps = timesteps.to(torch.long)
        signal, noise = (table[steps].view(-1, 1, 1, 1) for table in (self.sqrt_abar, self.sqrt_noise))
        return signal * self.network(x, timesteps) + noise * x

    @property
    def blocks(self) -> Blocks:
        """Those of the network within."""
        return blocks_of(self.network)


@dataclass(frozen=True)
class VelocityDiTSizes(DiTSizes):
    """Sizes of a `VelocityDenoiser` around a `DiT`."""

    def build(self, in_channels: int, input_size: int) -> nn.Module:
        """Return a new network over feature maps (B, in_channels, input_size, input_size)."""
        return VelocityDenoiser(super().build(in_channels, input_size))
