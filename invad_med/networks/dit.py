"""Diffusion transformer with adaLN-Zero (DiT; Peebles and Xie, arXiv 2212.09748), state-dict names as published.

In shapes: B images, N tokens, D = ``hidden_size``, p = ``patch_size``, (C, h, w) the feature map.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.networks.blocks import Blocks


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, N, D) by one vector (B, D) each."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class TimestepEmbedder(nn.Module):
    """Embed integer timesteps (B,): 256 sinusoids (cos, then sin; longest period 10000), then Linear-SiLU-Linear."""

    rates: Tensor

    def __init__(self, hidden_size: int, frequencies: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        half = frequencies // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, timesteps: Tensor) -> Tensor:
        angles = timesteps.float()[:, None] * self.rates  # (B, frequencies / 2)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, frequencies)
        return self.mlp(sinusoids.to(next(self.mlp.parameters()).dtype))


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, D); q, k, v stay 4-D so that fused kernels apply."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads)  # (B, N, 3, heads, d), d = D / heads
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, D))  # heads side by side again: (B, N, D)


class MLP(nn.Module):
    """Two linear layers with a tanh-approximated GELU between."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the timestep (adaLN-Zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.mlp = MLP(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)  # each (B, D)
        x = x + gate_a.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer to patches, zero at the start of training."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PatchEmbed(nn.Module):
    """Non-overlapping patches of (B, C, h, w) to tokens (B, N, D), row by row."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, D, h/p, w/p) -> (B, D, N) -> (B, N, D)


class DiT(nn.Module):
    """Noise predictor ``eps(x, t)`` over feature maps, a transformer of adaLN-Zero blocks.

    Args:
        in_channels: C of the feature map.
        input_size: h = w of the feature map.
        hidden_size: width, a multiple of ``num_heads`` and of 4.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of a token's patch, a divisor of ``input_size``.
        mlp_ratio: inner width of a block's MLP over ``hidden_size``.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        patch_size: int = 1,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide input_size={input_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads} and of 4")
        self.in_channels, self.input_size, self.patch_size = in_channels, input_size, patch_size
        self.x_embedder = PatchEmbed(in_channels, hidden_size, patch_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.pos_embed = nn.Parameter(sincos_position_table(hidden_size, input_size // patch_size))
        self.blocks = Blocks(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels)
        self._initialise()

    def _initialise(self) -> None:
        # adaLN-Zero: every block starts as the identity and the output as zero.
        for name, parameter in self.named_parameters():
            if name == "pos_embed":
                continue
            if parameter.ndim == 1 or "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
            elif name.startswith("t_embedder"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter.data.flatten(1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the noise in ``x`` (B, C, h, w) at integer ``timesteps`` (B,); the shape of ``x``."""
        if x.shape[1:] != (self.in_channels, self.input_size, self.input_size):
            raise ValueError(
                f"DiT expects (B, {self.in_channels}, {self.input_size}, {self.input_size}), not {tuple(x.shape)}"
            )
        c = self.t_embedder(timesteps)  # (B, D)
        tokens = self.x_embedder(x) + self.pos_embed  # (B, N, D), N = (h/p)^2
        tokens = self.blocks(tokens, c)
        patches = self.final_layer(tokens, c)  # (B, N, p*p*C)
        side, p = self.input_size // self.patch_size, self.patch_size
        grid = patches.reshape(-1, side, side, p, p, self.in_channels)  # (B, h/p, w/p, p, p, C)
        grid = grid.permute(0, 5, 1, 3, 2, 4)  # (B, C, h/p, p, w/p, p)
        return grid.reshape(-1, self.in_channels, side * p, side * p)  # (B, C, h, w)


@dataclass(frozen=True)
class DiTSizes:
    """Sizes of a `DiT`."""

    depth: int  # number of blocks
    hidden_size: int  # width, a multiple of num_heads and of 4
    num_heads: int  # attention heads
    patch_size: int = 1  # side of a token's patch, a divisor of the feature map's side
    mlp_ratio: float = 4.0  # inner width of a block's MLP over hidden_size

    def build(self, in_channels: int, input_size: int) -> nn.Module:
        """Return a new network over feature maps (B, in_channels, input_size, input_size)."""
        return DiT(in_channels, input_size, **dataclasses.asdict(self))


def sincos_position_table(hidden_size: int, side: int) -> Tensor:
    """Return the 2-D sine-cosine table of a ``side`` x ``side`` grid: (1, side^2, hidden_size), columns first."""
    quarter = hidden_size // 4
    rates = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    halves = []
    for position in (columns, rows):
        angles = position.reshape(-1, 1).double() * rates  # (side^2, D / 4)
        halves.append(torch.cat([angles.sin(), angles.cos()], dim=1))
    return torch.cat(halves, dim=1)[None].float()
