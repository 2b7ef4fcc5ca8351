"""Denoisers by name: the sizes of method section 5, and the small one that trains on two cores."""

from __future__ import annotations

from typing import Any

from torch import nn

from invad_med.networks.dit import DiT
from invad_med.networks.mlp import TokenMLP
from invad_med.networks.velocity import VelocityDenoiser

DIT_PRESETS: dict[str, dict[str, int]] = {
    "gigant": {"depth": 16, "hidden_size": 2048, "num_heads": 8},  # the paper's
    "huge": {"depth": 8, "hidden_size": 1024, "num_heads": 8},
    "base": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "small": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "tiny": {"depth": 4, "hidden_size": 384, "num_heads": 8},
}
# Ours: minutes of training on two cores. No wider than its features, so it predicts velocity.
VELOCITY_PRESETS: dict[str, dict[str, int]] = {"cpu": {"depth": 4, "hidden_size": 192, "num_heads": 4}}
MLP_PRESETS: dict[str, dict[str, int]] = {
    "mlp": {"depth": 16, "hidden_size": 2048},
    "mlp_small": {"depth": 8, "hidden_size": 1024},
}


def create_denoiser(
    name: str,
    in_channels: int = 272,
    input_size: int = 16,
    activation_checkpointing: bool = False,
    compiled: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Return a new denoiser by preset name, with any of its sizes overridden.

    Args:
        name: of the tables above.
        in_channels, input_size: C and h = w of the feature map.
        activation_checkpointing: recompute each block in the backward pass: less memory, a third more time.
        compiled: fuse the operations of each block (`torch.compile`; the blocks are alike, so one is compiled).
        overrides: sizes.

    Raises:
        ValueError: an unknown name, or activation checkpointing or compilation of a network that is no transformer.
    """
    if name in MLP_PRESETS:
        if activation_checkpointing or compiled:
            raise ValueError(f"{name!r} is no transformer: activation checkpointing and compilation are for those")
        return _labelled(TokenMLP(in_channels=in_channels, **(MLP_PRESETS[name] | overrides)), name, overrides)
    sizes = DIT_PRESETS.get(name) or VELOCITY_PRESETS.get(name)
    if sizes:
        transformer = DiT(in_channels=in_channels, input_size=input_size, **(sizes | overrides))
        transformer.activation_checkpointing = activation_checkpointing
        for block in transformer.blocks if compiled else ():
            block.compile()
        network = VelocityDenoiser(transformer) if name in VELOCITY_PRESETS else transformer
        return _labelled(network, name, overrides)
    known = ", ".join([*DIT_PRESETS, *MLP_PRESETS, *VELOCITY_PRESETS])
    raise ValueError(f"{name!r} is no denoiser preset; choose one of {known}")


def _labelled(network: nn.Module, preset: str, sizes: dict[str, Any]) -> nn.Module:
    """Return the network with what a checkpoint states of it: ``preset`` and the ``sizes`` that override it."""
    network.preset, network.sizes = preset, sizes  # type: ignore[assignment]
    return network
