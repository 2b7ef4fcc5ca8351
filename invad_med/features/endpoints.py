"""End points of cached features: what scores are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invad_med.detection.host import Host
from invad_med.diffusion import Timesteps, Walked, invert


@torch.no_grad()
def walk_to_noise(
    host: Host, raw: Tensor, timesteps: Timesteps, network: Callable[..., Tensor] | None = None, batch_size: int = 16
) -> Tensor:
    """Return z_T of a host's raw encodings (N, C, h, w), on its device: (N, C, h, w) float32 on the CPU.

    Args:
        host: whose encoding and schedule.
        raw: any float dtype.
        timesteps: pairs (t, t_next).
        network: noise predictor instead of the host's, such as averaged weights.
        batch_size: images at a time.
    """
    batches = (part.to(host.device).float() for part in raw.split(batch_size))
    walks = (
        invert(network or host.predictor(part), host.normalise(part), timesteps, host.alphas_cumprod)
        for part in batches
    )
    return torch.cat([z.cpu() for z in walks])


@torch.no_grad()
def encodings(host: Host, raw: Tensor, batch_size: int = 16) -> Tensor:
    """Return what inversions of a host's raw encodings (N, C, h, w) start from: (N, C, h, w) float32 on the CPU."""
    return torch.cat([host.normalise(part.to(host.device).float()).cpu() for part in raw.split(batch_size)])


def walked(
    host: Host, raw: Tensor, timesteps: Timesteps, network: Callable[..., Tensor] | None = None, batch_size: int = 16
) -> Walked:
    """Return `encodings` and `walk_to_noise` of a host's raw encodings (N, C, h, w)."""
    return Walked(encodings(host, raw, batch_size), walk_to_noise(host, raw, timesteps, network, batch_size))
