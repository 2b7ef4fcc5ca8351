"""How each denoiser preset is trained unless told otherwise: the one table that ``train.json`` reads.

Common to all (method of arXiv 2504.05662 and its code): AdamW without weight decay, a linear warm-up from 2 % of the
peak rate over 40 of 300 epochs, cosine decay to 0, gradient norm clipped at 1, exponential moving average 0.999.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARMUP_FRACTION = 40 / 300


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one preset.

    Args:
        learning_rate: peak of AdamW.
        total_batch_size: images an optimiser step averages over.
        batch_size: images a process computes at a time; the rest is accumulated.
        epochs: passes over the training images; or
        steps: optimiser steps, where data sets are small and unequal.
        backbone: `timm` name of the frozen features.
        activation_checkpointing: recompute activations in the backward pass, for networks that else do not fit.
    """

    learning_rate: float
    total_batch_size: int
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    backbone: str = "tf_efficientnet_b4.aa_in1k"
    activation_checkpointing: bool = False

    def accumulation_steps(self, batch_size: int, processes: int) -> int:
        """Return how many batches of all processes make about ``total_batch_size`` images, at least 1."""
        return max(1, round(self.total_batch_size / (batch_size * processes)))

    def optimiser_steps(self, images: int, step_size: int) -> int:
        """Return the number of optimiser steps for ``images`` training images, ``step_size`` of them a step."""
        return self.steps if self.steps is not None else (self.epochs or 1) * math.ceil(images / step_size)


def _paper(batch_size: int, activation_checkpointing: bool = False) -> Recipe:
    return Recipe(5e-5, 64, batch_size, epochs=300, activation_checkpointing=activation_checkpointing)


RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(2e-3, 16, 16, steps=1500, backbone="tf_efficientnet_lite0"),
    "tiny": _paper(64),
    "small": _paper(64),
    "base": _paper(32),
    "huge": _paper(32),
    "gigant": _paper(8, activation_checkpointing=True),
    "mlp": _paper(32),
    "mlp_small": _paper(64),
}


def find_recipe(preset: str) -> Recipe:
    """Return a preset's recipe.

    Raises:
        ValueError: there is no such preset.
    """
    if preset not in RECIPES:
        raise ValueError(f"--preset {preset!r} is none of {', '.join(RECIPES)}")
    return RECIPES[preset]
