"""What an image's score and its map are made of: the one table of rules.

A rule starts from the whitened end point (B, C, h, w), each channel with mean 0 and deviation 1 on normal images. Its
statistics (B, k) are standardised over normal training images by `invad_med.scoring.Calibration`, and an image's score
is the length of their deviations above normal; its map (B, h, w) shows where. `invad_med.scoring.choice` chooses among
`MENU` by images of ``valid``: the larger the cell, the more diffuse the disease that it finds.

A rule that remembers compares the mean whitened vector of each position's 3 x 3 neighbours with a memory of such means
of normal training images (`invad_med.scoring.memory`): what is far from every normal vector need not be far from the
mean of them all, where normal anatomy varies in many ways. A rule with encodings keeps single positions of what the
inversion starts from too, and adds the distance to the nearest of these to its map, each part divided by its deviation
on normal images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_RULE = "whitened_mean_and_cell"


def lengths(whitened: Tensor) -> Tensor:
    """Return the root mean square over channels at each position of (B, C, h, w): (B, h, w), about 1 on normals."""
    return whitened.square().mean(1).sqrt()


def lengths_of_means(whitened: Tensor) -> Tensor:
    """Return `lengths` of the weighted mean of each position's 3 x 3 neighbours, weights 1 2 1 either way: (B, h, w).

    Noise of single positions cancels, a shift in one direction stays. What lies beyond the border counts as normal:
    if it were left out, means at the border would be of fewer positions, and their noise would rank first.
    """
    for kernel in ((1, 3), (3, 1)):
        weights = whitened.new_tensor([0.25, 0.5, 0.25]).view(1, 1, *kernel).expand(whitened.shape[1], 1, *kernel)
        padding = (kernel[0] // 2, kernel[1] // 2)
        whitened = F.conv2d(whitened, weights, padding=padding, groups=whitened.shape[1])
    return lengths(whitened)


def farthest_cell(distances: Tensor, side: int) -> Tensor:
    """Return the largest mean that distances (B, h, w) have in any cell of a ``side`` x ``side`` grid: (B,)."""
    return F.adaptive_avg_pool2d(distances[:, None], side).amax((1, 2, 3))


def longest_cell(whitened: Tensor, side: int) -> Tensor:
    """Return the largest length that the mean vector has in any cell of a ``side`` x ``side`` grid: (B,)."""
    return lengths(F.adaptive_avg_pool2d(whitened, side)).amax((1, 2))


@dataclass(frozen=True)
class Rule:
    """What is made of a whitened end point (B, C, h, w).

    Args:
        statistics: for the score, (B, k), each larger where an image is less normal; of a rule that remembers they
            are made of the distances (B, h, w) to the nearest of its memory instead.
        map: (B, h, w), >= 0.
        remembers: how many vectors of normal training images the memory holds; 0: there is none.
        encodings: how many single positions of normal encodings its map compares an image's with; 0: it does not.
    """

    statistics: Callable[[Tensor], Tensor]
    map: Callable[[Tensor], Tensor] = lengths
    remembers: int = 0
    encodings: int = 0


def logarithms(*statistics: Tensor) -> Tensor:
    """Return the logarithms of statistics (B,) side by side: (B, k)."""
    return torch.stack(statistics, dim=1).clamp_min(1e-12).log()  # an untrained DiT predicts 0 everywhere


_MEMORY = Rule(lambda distances: logarithms(farthest_cell(distances, 4)), remembers=2_000)
RULES: dict[str, Rule] = {
    # Diffuse and regional disease: the mean of the map, and the longest mean vector in a cell of a 4 x 4 grid.
    DEFAULT_RULE: Rule(lambda whitened: logarithms(lengths(whitened).mean((1, 2)), longest_cell(whitened, 4))),
    # Local disease: the longest mean vector in a cell of an 8 x 8 grid.
    "cell_of_8": Rule(lambda whitened: logarithms(longest_cell(whitened, 8)), lengths_of_means),
    # Small and sharp disease: the same of 16 x 16.
    "cell_of_16": Rule(lambda whitened: logarithms(longest_cell(whitened, 16))),
    # Regional disease where normal anatomy varies: the largest mean distance to a memory in a cell of a 4 x 4 grid.
    "memory_and_features": replace(_MEMORY, encodings=2_000),
}
MENU = tuple(RULES)  # what is chosen from; rules added later are used when they are asked for
RULES["memory"] = _MEMORY  # the same score, its map of the end point alone
# Of models trained with other than Gaussian noise, whose end points have no prior to be likely under: the length alone.
LENGTH_RULE = "length"
RULES[LENGTH_RULE] = Rule(lambda whitened: logarithms(lengths(whitened).mean((1, 2))))
AS_SHIPPED = dict(RULES)  # without entries of your own


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
