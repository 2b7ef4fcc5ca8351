"""The features of a cohort, part by part, and what is fitted on them before training begins."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invad_med.data.mask_grid import mask_on_grid
from invad_med.data.masks import read_mask
from invad_med.data.slices import ReadError
from invad_med.detection.host import Host
from invad_med.features.cached import cached_features
from invad_med.networks.checkpoints import round_to_half
from invad_med.readers.sources import read_raster
from invad_med.training.cohort import Cohort

logger = logging.getLogger(__name__)

_PIXELS = 8  # a side of a cell, for the share of it that is abnormal


@dataclass(frozen=True)
class CohortFeatures:
    """Raw features (N, C, h, w) float16 of the parts of a `Cohort`, on the CPU.

    Args:
        train, selection, calibration, abnormal: of these parts.
        lesions: (n, h, w) bool, the cells of the abnormal images of which half is abnormal; None if any has no mask.
        patients: numbers of those that the images of the selection and the abnormal ones are of; None if unknown.
    """

    train: Tensor
    selection: Tensor
    calibration: Tensor
    abnormal: Tensor
    lesions: Tensor | None = None
    patients: tuple[list[int], list[int]] | None = None

    @property
    def held_out(self) -> Tensor:
        """Those of the selection and of the calibration, once where they are the same."""
        same = torch.equal(self.selection, self.calibration)
        return self.calibration if same else torch.cat([self.selection, self.calibration])


def prepare_features(
    host: Host,
    cohort: Cohort,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    limit_gb: float | None = None,
) -> CohortFeatures:
    """Round the backbone as it will be stored, compute a cohort's features, and fit the channel normalisation.

    The arguments are those of `invad_med.features.cached.cached_features`.
    """
    round_to_half(host.encoder)
    raw = cached_features(host, cohort.images, cohort.modality, cache_dir, progress, workers, limit_gb)
    host.fit_normalisation(raw[: len(cohort.train)])
    return divide_features(raw, cohort, host.grid_size)


def divide_features(raw: Tensor, cohort: Cohort, grid_size: int) -> CohortFeatures:
    """Return the parts of the features (N, C, h, w) of `Cohort.images`, on a grid of ``grid_size`` = h = w."""
    place = {path: i for i, path in enumerate(cohort.images)}
    others = (cohort.selection, cohort.calibration, cohort.abnormal)
    selection, calibration, abnormal = (raw[[place[path] for path in part]] for part in others)
    train = raw[: len(cohort.train)]  # large: not copied
    names = {name: i for i, name in enumerate(dict.fromkeys(cohort.patients.values()))}
    of_selection, of_abnormal = (
        [names[cohort.patients[path]] for path in part] for part in (cohort.selection, cohort.abnormal)
    )
    lesions = lesion_cells(cohort, grid_size)
    return CohortFeatures(train, selection, calibration, abnormal, lesions, (of_selection, of_abnormal))


def lesion_cells(cohort: Cohort, side: int) -> Tensor | None:
    """Return which cells of a ``side`` x ``side`` grid over each abnormal image are abnormal in half of their area.

    Returns:
        (n, side, side) bool, or None if the mask of any is unknown, not readable or of another size than its image:
        masks are a help, not a need.
    """
    if not cohort.masks or None in cohort.masks:
        return None
    cells = []
    for image, path in zip(cohort.abnormal, cohort.masks, strict=True):
        assert path is not None
        shown = read_raster(image)
        try:
            placed, _ = mask_on_grid(read_mask(path), shown, cohort.modality, side * _PIXELS)
        except (ReadError, ValueError) as error:
            logger.warning(
                "masks of valid are not used: one cannot be read, or has another size than its image (%s)",
                type(error).__name__,
            )
            return None
        cells.append(torch.from_numpy(placed).view(side, _PIXELS, side, _PIXELS).float().mean((1, 3)) >= 0.5)
    return torch.stack(cells)
