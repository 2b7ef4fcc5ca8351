"""Noise predictors by name: the sizes of method section 5 and how each is trained, in one table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from invad_med.networks.blocks import blocks_of
from invad_med.networks.dit import DiTSizes
from invad_med.networks.mlp import TokenMLPSizes
from invad_med.networks.recipe import Recipe
from invad_med.networks.velocity import VelocityDiTSizes


class Sizes(Protocol):
    """A frozen dataclass of a network's sizes, which builds it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, in_channels: int, input_size: int) -> nn.Module:
        """Return a new network ``eps(x, t)`` over (B, in_channels, input_size, input_size)."""


@dataclass(frozen=True)
class Preset:
    """A network and how it is trained.

    Args:
        network: its sizes, which build it.
        recipe: used unless told otherwise.
    """

    network: Sizes
    recipe: Recipe


def _paper(batch_size: int, **changes: Any) -> Recipe:
    return Recipe(5e-5, 64, batch_size, epochs=300, **changes)


PRESETS: dict[str, Preset] = {
    # Ours: minutes of training on two cores. No wider than its features, so it predicts velocity.
    "cpu": Preset(
        VelocityDiTSizes(depth=4, hidden_size=192, num_heads=4),
        Recipe(2e-3, 16, 16, steps=800, backbone="tf_efficientnet_lite0", merge="area", focus=(50, 450)),
    ),
    "tiny": Preset(DiTSizes(depth=4, hidden_size=384, num_heads=8), _paper(64)),
    "small": Preset(DiTSizes(depth=12, hidden_size=384, num_heads=6), _paper(64)),
    "base": Preset(DiTSizes(depth=12, hidden_size=768, num_heads=12), _paper(32)),
    "huge": Preset(DiTSizes(depth=8, hidden_size=1024, num_heads=8), _paper(32)),
    "gigant": Preset(  # the paper's
        DiTSizes(depth=16, hidden_size=2048, num_heads=8),
        _paper(8, activation_checkpointing=True, fully_sharded=True),
    ),
    "mlp": Preset(TokenMLPSizes(depth=16, hidden_size=2048), _paper(32)),
    "mlp_small": Preset(TokenMLPSizes(depth=8, hidden_size=1024), _paper(64)),
}
AS_SHIPPED = dict(PRESETS)  # without entries of your own


def find_preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"{name!r} is no denoiser preset; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def find_recipe(preset: str, **values: Any) -> Recipe:
    """Return a preset's recipe, ``values`` of it replaced; None is the preset's own.

    Raises:
        ValueError: no such preset, or a value that a recipe does not have or take.
    """
    return find_preset(preset).recipe.override(values)


def create_denoiser(
    name: str,
    in_channels: int = 272,
    input_size: int = 16,
    activation_checkpointing: bool = False,
    compiled: bool = False,
    **sizes: Any,
) -> nn.Module:
    """Return a new denoiser by preset name, with any of its sizes replaced; it states both as ``preset`` and ``sizes``.

    Args:
        name: key of `PRESETS`.
        in_channels, input_size: C and h = w of the feature map.
        activation_checkpointing: recompute each block in the backward pass: less memory, a third more time.
        compiled: fuse the operations of each block (`torch.compile`; the blocks are alike, so one is compiled).
        sizes: other values of the preset's sizes.

    Raises:
        ValueError: an unknown preset or size, or activation checkpointing or compilation of a network without blocks.
    """
    preset = find_preset(name)
    known = [field.name for field in dataclasses.fields(preset.network)]
    unknown = sorted(sizes.keys() - set(known))
    if unknown:
        raise ValueError(f"preset {name!r} has no size {', '.join(unknown)}; it has {', '.join(known)}")
    chosen = dataclasses.replace(preset.network, **sizes)
    network = chosen.build(in_channels, input_size)
    if activation_checkpointing:
        blocks_of(network).recompute = True
    if compiled:
        for block in blocks_of(network):
            block.compile()
    network.preset, network.sizes = name, dataclasses.asdict(chosen)  # type: ignore[assignment]
    return network
