"""What is measured: anything that is fitted, sees images batch by batch, and gives each a score and a map."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from invad_med.detection import AnomalyDetector
from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.plan import Plan
from invad_med.parallel import together


@dataclass(frozen=True)
class Scored:
    """What one method says of N images.

    Args:
        scores: (N,) larger is more abnormal.
        maps: (N, h, w) float32 on a grid of the method's own.
        threshold: score above which an image counts as abnormal, or None.
        map_threshold: the same for a pixel, or None.
        note: how the method was set, for the reader.
        p_values: (N,) in (0, 1], or None.
    """

    scores: np.ndarray
    maps: np.ndarray
    threshold: float | None = None
    map_threshold: float | None = None
    note: str = ""
    p_values: np.ndarray | None = None


class NoMeaning(ValueError):
    """A score that has no meaning for a detector; the others have."""


class Method(Protocol):
    """A score by its name in a table of methods: made, fitted, then given every image once.

    Of several processes each gives its own methods every P-th batch; `gather` puts the parts together in all of them.
    """

    @property
    def about(self) -> str:
        """What the score is, in a line for the report."""
        ...

    def fit(self, train: Images | None, valid: Images | None) -> None:
        """Learn from normal training images and choose settings on ``valid``; None where there are none."""
        ...

    def add(self, batch: Batch) -> None:
        """Score a batch."""
        ...

    def gather(self) -> None:
        """Take up what the other processes scored."""
        ...

    def scored(self) -> Scored:
        """Return what was said of all images, in the order of the split."""
        ...


Factory = Callable[[AnomalyDetector, Plan], Method]


class Rows:
    """Values of images, kept batch by batch on the CPU, by name: what most methods gather."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor) -> None:
        """Keep values of a batch, each (B, ...)."""
        for name, value in values.items():
            self.parts.setdefault(name, []).append(value.float().cpu())

    def gather(self) -> None:
        """Take up the other processes' values; the first process has at least one batch."""
        everyone = together(lambda: self.parts)
        self.parts = {name: interleaved([parts.get(name, []) for parts in everyone]) for name in everyone[0]}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the values of all images: (N, ...) float32."""
        return torch.cat(self.parts[name]).numpy()


def interleaved(everyone: list[list[Tensor]]) -> list[Tensor]:
    """Return batches in their order, where each process has done every P-th from its rank on."""
    return [part for row in itertools.zip_longest(*everyone) for part in row if part is not None]
