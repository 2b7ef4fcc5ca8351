"""End points of cached features: what scores are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invad_med.inferers import InversionInferer
from invad_med.networks.features import FrozenFeatures


def walk_to_noise(
    features: FrozenFeatures, network: nn.Module, inferer: InversionInferer, raw: Tensor, batch_size: int = 16
) -> Tensor:
    """Return z_T of raw features (N, C, h, w) on the network's device: (N, C, h, w) float32 on the CPU."""
    device = next(network.parameters()).device
    batches = (features.normalise(chunk.to(device).float()) for chunk in raw.split(batch_size))
    return torch.cat([inferer(batch, network).cpu() for batch in batches])
