"""How unlike an image is what a model was trained on: a limit beyond which its score would mean nothing.

Mean and logarithm of the deviation of each channel of an image's encoding, over its positions, say what sort of
picture it is and little of where anything lies in it, so that a lesion hardly moves them while another organ, sequence
or scanner does. Over normal training images they are taken as Gaussian, with the leading directions of their covariance
and one variance for all others (Tipping and Bishop 1999, probabilistic principal components). The distance is
Mahalanobis's, by the square root of the number of statistics, in multiples of a limit: 2.5 times the median of held-out
normal images. A median needs few images and is not moved by an odd one; docs/results.md has what was measured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from invad_med.scoring.likeness import LEAST_DEVIATION, Likeness, statistics

LEAST_TRAIN, LEAST_HELD_OUT = 50, 10  # images; below it nothing is fitted
_MARGIN = 2.5
_DIRECTIONS = 64
_CHUNK = 64  # images whose encodings are converted at once


class Familiarity(nn.Module):
    """Statistics of the encodings of normal images, stored with the model; before `fit` every image is familiar."""

    deviation: Tensor
    centre: Tensor
    scale: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor
    limit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.zeros(0))  # (C,) of each channel over all positions and images
        self.register_buffer("centre", torch.zeros(0))  # (2C,) of the statistics over images, and
        self.register_buffer("scale", torch.zeros(0))  # their deviations
        self.register_buffer("directions", torch.zeros(0))  # (k, 2C) of largest variance, and
        self.register_buffer("variances", torch.zeros(0))  # (k,) these, and
        self.register_buffer("rest", torch.zeros(0))  # (1,) the mean of all others
        self.register_buffer("limit", torch.zeros(0))  # (1,) of the distance

    @property
    def fitted(self) -> bool:
        """Whether there is a limit."""
        return len(self.limit) > 0

    @torch.no_grad()
    def fit(self, train: Tensor, held_out: Tensor) -> Familiarity:
        """Fit on raw encodings of normal images and return self; on too few of them nothing is fitted.

        Args:
            train: (N, C, h, w) of normal training images, on the CPU.
            held_out: (n, C, h, w) of others, for the limit.

        Raises:
            ValueError: values that are not finite.
        """
        if len(train) < LEAST_TRAIN or len(held_out) < LEAST_HELD_OUT:
            return self
        for name, raw in (("train", train), ("held_out", held_out)):
            if not torch.isfinite(raw).all():
                raise ValueError(f"encodings of {name} are not finite: an image or the encoder is damaged")
        mean, square = torch.stack([_sums(part) for part in train.split(_CHUNK)]).sum(0) / len(train)
        self.deviation = (square - mean.square()).clamp_min(0.0).sqrt().clamp_min(1e-6).float()
        found = torch.from_numpy(statistics(moments(train).numpy(), self.deviation.numpy()))
        self.centre = found.mean(0).float()
        floor = torch.cat([self.deviation, torch.ones_like(self.deviation)]) * LEAST_DEVIATION
        self.scale = torch.maximum(found.std(0).float(), floor)
        standard = (found - self.centre) / self.scale
        _, singular, directions = torch.linalg.svd(standard, full_matrices=False)
        variances = singular.square() / (len(train) - 1)
        count = min(_DIRECTIONS, len(train) // 4, len(self.centre) // 2)
        self.directions = directions[:count].half().float()  # as a checkpoint stores them
        self.rest = (variances[count:].sum() / (len(self.centre) - count)).clamp_min(1e-6).float()[None]
        self.variances = torch.maximum(variances[:count].float(), self.rest)
        self.limit = torch.ones(1)
        self.limit = _MARGIN * self.distance(held_out).median()[None]
        return self

    @property
    def likeness(self) -> Likeness | None:
        """What was fitted, in NumPy; None before."""
        return Likeness.of(lambda name: getattr(self, name).numpy(force=True)) if self.fitted else None

    def distance(self, raw: Tensor) -> Tensor:
        """Return `Likeness.distance` of ``raw`` (B, C, h, w): (B,) float32 on the CPU.

        Raises:
            ValueError: nothing is fitted.
        """
        likeness = self.likeness
        if likeness is None:
            raise ValueError("there is no limit: fit one")
        return torch.from_numpy(likeness.distance(moments(raw).numpy(force=True))).float()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, own in list(self.named_buffers()):  # all sizes are the checkpoint's
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=own.device, dtype=own.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)


def moments(raw: Tensor) -> Tensor:
    """Return mean and deviation of each channel of ``raw`` (B, C, h, w) over positions: (B, 2C) float32."""
    return torch.cat([_moments(part.float()) for part in raw.split(_CHUNK)])


def _moments(raw: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(raw, dim=(2, 3), correction=0)
    return torch.cat([mean, deviation], dim=1)


def _sums(raw: Tensor) -> Tensor:
    """Return the sums over images (B, C, h, w) of the means over positions of values and squares: (2, C) float64."""
    values = raw.double()
    return torch.stack([values.mean((2, 3)).sum(0), values.square().mean((2, 3)).sum(0)])
