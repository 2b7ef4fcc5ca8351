"""Networks: frozen features and noise predictors."""

from typing import TYPE_CHECKING

from invad_med.lazy import offer

if TYPE_CHECKING:
    from invad_med.networks.checkpoints import load_denoiser
    from invad_med.networks.dit import DiT
    from invad_med.networks.features import FrozenFeatures
    from invad_med.networks.mlp import TokenMLP
    from invad_med.networks.presets import PRESETS, Preset, create_denoiser, find_recipe
    from invad_med.networks.recipe import Recipe
    from invad_med.networks.velocity import VelocityDenoiser

__all__ = [
    "PRESETS",
    "DiT",
    "FrozenFeatures",
    "Preset",
    "Recipe",
    "TokenMLP",
    "VelocityDenoiser",
    "create_denoiser",
    "find_recipe",
    "load_denoiser",
]
__getattr__ = offer(
    __name__,
    {
        "load_denoiser": "checkpoints",
        "DiT": "dit",
        "FrozenFeatures": "features",
        "TokenMLP": "mlp",
        "PRESETS Preset create_denoiser find_recipe": "presets",
        "Recipe": "recipe",
        "VelocityDenoiser": "velocity",
    },
)
