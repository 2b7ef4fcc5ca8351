"""Which statistics of an end point make an image's score: the one table of rules.

A rule turns the whitened end point (B, C, h, w), each channel with mean 0 and deviation 1 on normal images, into k
statistics (B, k). `invad_med.scoring.Calibration` standardises them over normal training images, and an image's score
is the length of the deviations above normal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Callable[[Tensor], Tensor]
DEFAULT_RULE = "whitened_mean_and_cell"


def whitened_mean_and_cell(whitened: Tensor) -> Tensor:
    """Return the logarithms of the map's mean and of the longest mean vector in a cell of a 4 x 4 grid: (B, 2)."""
    cells = F.adaptive_avg_pool2d(whitened, 4).square().mean(1).sqrt()
    statistics = torch.stack([whitened.square().mean(1).sqrt().mean((1, 2)), cells.amax((1, 2))], dim=1)
    return statistics.clamp_min(1e-12).log()  # an untrained DiT predicts 0 everywhere


RULES: dict[str, Rule] = {DEFAULT_RULE: whitened_mean_and_cell}


def find_rule(name: str) -> Rule:
    """Return a rule by name.

    Raises:
        ValueError: the table has none of that name.
    """
    if name not in RULES:
        raise ValueError(
            f"there is no rule {name!r} for the score; known are {', '.join(RULES)}. A rule of your own is an entry of "
            "invad_med.scoring.rules.RULES, made before the model is loaded"
        )
    return RULES[name]
