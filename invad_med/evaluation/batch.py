"""Images as methods see them: pictures, features and end points, each made once, when first asked for, for all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invad_med.data.slices import Slice
from invad_med.data.transforms import to_image
from invad_med.detection import AnomalyDetector
from invad_med.diffusion import Timesteps, Walked, invert
from invad_med.evaluation.truth import Truth
from invad_med.features.cached import cached_features


class Batch:
    """A few images of a split.

    Args:
        truth: of the split.
        rows: which of its images.
        detector: whose image size, features and network are shared, on its device.
        keep: keep what is decoded as long as the batch; False: only features are kept, and pictures decoded anew.
    """

    def __init__(self, truth: Truth, rows: Sequence[int], detector: AnomalyDetector, keep: bool = True) -> None:
        self.truth, self.rows, self.detector, self.keep = truth, rows, detector, keep
        self._slices: list[Slice] | None = None
        self._images: Tensor | None = None
        self._end_points: dict[tuple[tuple[int, int | None], ...], Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def slices(self) -> list[Slice]:
        """The images, decoded.

        Raises:
            ReadError: one cannot be read.
        """
        slices = self._slices or [self.truth.read(i) for i in self.rows]
        self._slices = slices if self.keep else None
        return slices

    def squares(self, size: int) -> Tensor:
        """Return the images as squares of another size: (B, 3, size, size) float32 in [0, 1] on the CPU."""
        return torch.from_numpy(np.stack([to_image(image, self.truth.modality, size) for image in self.slices]))

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1], as the detector takes them, on its device."""
        images = self._images
        if images is None:
            images = self.squares(self.detector.host.image_size).to(self.device)
        self._images = images if self.keep else None
        return images

    @property
    def device(self) -> torch.device:
        """Where the detector computes."""
        return self.detector.host.device

    @cached_property
    @torch.no_grad()
    def raw(self) -> Tensor:
        """(B, C, h, w) float32: what the detector's own host makes of the images, not normalised, on its device."""
        return self.detector.host.raw(self.images)

    @cached_property
    @torch.no_grad()
    def features(self) -> Tensor:
        """(B, C, h, w) float32: the encoding of the detector's own host, on its device."""
        return self.detector.host.normalise(self.raw)

    @torch.no_grad()
    def end_point(self, timesteps: Timesteps | None = None) -> Tensor:
        """Return z_T (B, C, h, w) of the detector, or of its network walked over other timesteps."""
        own, host = tuple(self.detector.timesteps), self.detector.host
        grid = own if timesteps is None else tuple(timesteps)
        if grid not in self._end_points:
            self._end_points[grid] = (
                self.detector.walk(self.images, self.raw).end_point
                if grid == own
                else invert(host.predictor(self.raw), self.features, grid, host.alphas_cumprod)
            )
        return self._end_points[grid]

    def walked(self) -> Walked:
        """Return encodings and end points (B, C, h, w) of the detector."""
        return Walked(self.features, self.end_point())


class Images:
    """All images of a split that methods are fitted on (normal training images) or set on (``valid``).

    Args:
        truth: of the split.
        detector: see `Batch`.
        cache_dir: folder for `features`, kept between runs; None: not kept.
        size: images of a batch.
    """

    def __init__(
        self, truth: Truth, detector: AnomalyDetector, cache_dir: str | Path | None = None, size: int = 16
    ) -> None:
        self.truth, self.detector, self.cache_dir = truth, detector, cache_dir
        self.batches = [Batch(truth, rows, detector, keep=False) for rows in cut(len(truth.images), size)]

    @property
    def labels(self) -> np.ndarray:
        """(N,) 0 good, 1 Ungood."""
        return self.truth.labels

    @cached_property
    @torch.no_grad()
    def features(self) -> Tensor:
        """(N, C, h, w) float16 encodings on the CPU, through the cache; computed once for all methods."""
        host = self.detector.host
        raw = cached_features(host, self.truth.images, self.truth.modality, self.cache_dir)
        return torch.cat([host.normalise(part.to(host.device).float()).half().cpu() for part in raw.split(64)])


def cut(count: int, size: int) -> list[range]:
    """Return the ranges that cut ``count`` images into batches."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
