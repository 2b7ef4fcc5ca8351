"""Networks: frozen features and noise predictors."""

from invad_med.networks.checkpoints import load_denoiser
from invad_med.networks.dit import DiT
from invad_med.networks.features import FrozenFeatures
from invad_med.networks.mlp import TokenMLP
from invad_med.networks.presets import DIT_PRESETS, MLP_PRESETS, create_denoiser
from invad_med.networks.velocity import VelocityDenoiser

__all__ = [
    "DIT_PRESETS",
    "MLP_PRESETS",
    "DiT",
    "FrozenFeatures",
    "TokenMLP",
    "VelocityDenoiser",
    "create_denoiser",
    "load_denoiser",
]
