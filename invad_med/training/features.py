"""The features of a cohort, part by part, and what is fitted on them before training begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from invad_med.detection.host import Host
from invad_med.features.cached import cached_features
from invad_med.networks.checkpoints import round_to_half
from invad_med.training.cohort import Cohort


@dataclass(frozen=True)
class CohortFeatures:
    """Raw features (N, C, h, w) float16 of the parts of a `Cohort`, on the CPU."""

    train: Tensor
    selection: Tensor
    calibration: Tensor
    abnormal: Tensor


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
    parts = (cohort.train, cohort.selection, cohort.calibration, cohort.abnormal)
    images = list(dict.fromkeys(path for part in parts for path in part))
    raw = cached_features(host, images, cohort.modality, cache_dir, progress, workers, limit_gb)
    train = raw[: len(cohort.train)]  # large: not copied
    place = {path: i for i, path in enumerate(images)}
    selection, calibration, abnormal = (raw[[place[path] for path in part]] for part in parts[1:])
    host.fit_normalisation(train)
    return CohortFeatures(train, selection, calibration, abnormal)
