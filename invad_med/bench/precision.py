"""A host whose networks compute in another precision; what lies between them stays float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from invad_med.detection.host import FeatureHost


class InPrecision(nn.Module):
    """A network that is given its first input in another precision.

    Args:
        network: whose weights are in it.
        dtype: the precision.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, *inputs: Tensor) -> Any:
        """Return what the network makes of them, in its precision."""
        return self.network(x.to(self.dtype), *inputs)


def in_precision(host: FeatureHost, dtype: torch.dtype) -> None:
    """Let backbone and noise predictor of a host compute in ``dtype``, in place.

    The noise predictor's tables stay float32: in bfloat16 its timesteps would be others.
    """
    host.features.body = InPrecision(host.features.body.to(dtype), dtype)
    for parameter in host.denoiser.parameters():
        parameter.data = parameter.data.to(dtype)
    host.denoiser = InPrecision(host.denoiser, dtype)
