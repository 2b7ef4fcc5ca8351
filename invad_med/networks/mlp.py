"""Token MLP: a noise predictor that treats every position of the feature map alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor, nn

from invad_med.networks.blocks import Blocks
from invad_med.networks.dit import TimestepEmbedder, modulate


class ResBlock(nn.Module):
    """Residual SiLU-MLP, modulated and gated by the timestep."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(hidden_size, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 3 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c).chunk(3, dim=1)
        return x + gate.unsqueeze(1) * self.mlp(modulate(self.in_ln(x), shift, scale))


class FinalLayer(nn.Module):
    """Modulated norm (with affine) and a linear layer, zero at the start of training."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class TokenMLP(nn.Module):
    """Noise predictor ``eps(x, t)`` applied to each position of a feature map on its own.

    Args:
        in_channels: C of the feature map; any h and w.
        hidden_size: width.
        depth: number of residual blocks.
    """

    def __init__(self, in_channels: int, hidden_size: int, depth: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.input_proj = nn.Linear(in_channels, hidden_size)
        self.time_embed = TimestepEmbedder(hidden_size)
        self.res_blocks = Blocks(ResBlock(hidden_size) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, in_channels)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the noise in ``x`` (B, C, h, w) at integer ``timesteps`` (B,); the shape of ``x``."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"TokenMLP expects (B, {self.in_channels}, h, w), not {tuple(x.shape)}")
        c = self.time_embed(timesteps)
        tokens = self.input_proj(x.flatten(2).transpose(1, 2))  # (B, C, h, w) -> (B, h w, C) -> (B, h w, D)
        tokens = self.res_blocks(tokens, c)
        return self.final_layer(tokens, c).transpose(1, 2).reshape(x.shape)  # (B, h w, C) -> (B, C, h, w)

    @property
    def blocks(self) -> Blocks:
        """The residual blocks, under the name that every network offers them by."""
        return self.res_blocks


@dataclass(frozen=True)
class TokenMLPSizes:
    """Sizes of a `TokenMLP`."""

    depth: int  # number of residual blocks
    hidden_size: int  # width

    def build(self, in_channels: int, input_size: int) -> nn.Module:
        """Return a new network over feature maps (B, in_channels, h, w) of any side."""
        return TokenMLP(in_channels, **dataclasses.asdict(self))
