"""Every scorer of an evaluation, ours and the baselines, on the same cached features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from invad_med.baselines import gaussian_maps, nearest_neighbour_maps
from invad_med.inferers import InversionInferer, ReconstructionInferer
from invad_med.networks import AnomalyDetector
from invad_med.scoring import anomaly_map, max_min, nll, paper_score
from invad_med.training.endpoints import walk_to_noise

LEVELS = (100, 200, 300, 500, 700)  # of reconstruction, chosen from on `valid`


@dataclass(frozen=True)
class Scored:
    """Scores (N,) and, where a scorer has one, maps (N, h, w) of a split, by scorer; larger is more abnormal."""

    scores: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]


def score_ours(detector: AnomalyDetector, raw: Tensor) -> Scored:
    """Score raw features (N, C, h, w) by inversion.

    ``calibrated``: as the detector does, where its calibration is for its timesteps. ``paper``, ``nll`` and
    ``max_min``: of the paper's three steps with the same denoiser. ``official``: of the same, min-max-normalised over
    the whole split, abnormal images included (transductive, method section 4): no score of one image.
    """
    z = walk_to_noise(detector.features, detector.denoiser, InversionInferer(), raw)
    scores = {"paper": paper_score(z), "official": _min_max(max_min(z)) + _min_max(nll(z)), "nll": nll(z)}
    scores["max_min"] = max_min(z)
    maps = {"paper": anomaly_map(z), "official": anomaly_map(z)}
    if detector.calibration.why_not(detector.inferer.timesteps) is None:
        z = walk_to_noise(detector.features, detector.denoiser, detector.inferer, raw)
        scores = {"calibrated": detector.calibration.score(z), **scores}
        maps = {"calibrated": detector.calibration.map(z), **maps}
    return Scored(_arrays(scores), _arrays(maps))


def score_baselines(
    detector: AnomalyDetector, raw: Tensor, train: Tensor, valid: Tensor, valid_labels: np.ndarray, steps: int = 3
) -> tuple[Scored, list[str]]:
    """Score raw features (N, C, h, w) by what needs no inversion; each map by its mean and by its largest value.

    ``norm`` (of the normalised features), ``gaussian`` (per position, PaDiM-like), ``neighbours`` (PatchCore-like) and
    ``reconstruction`` with the same denoiser, its level chosen on ``valid``.

    Args:
        detector: whose features and denoiser are used.
        raw: to be scored.
        train: (M, C, h, w) of normal training images.
        valid, valid_labels: (K, C, h, w) and (K,), K may be 0.
        steps: of the reconstruction.

    Returns:
        The scores and maps, and notes.
    """
    normalise = detector.features.normalise
    features, normals = normalise(raw.float()), normalise(train.float())
    maps = {
        "norm": torch.linalg.vector_norm(features, dim=1),
        "gaussian": gaussian_maps(features, normals),
        "neighbours": nearest_neighbour_maps(features, normals),
    }
    notes = []
    if len(set(valid_labels.tolist())) == 2:
        found = {level: _residual(detector, valid, level, steps) for level in LEVELS}
        quality = {level: _best(valid_labels, residual) for level, residual in found.items()}
        level = max(LEVELS, key=lambda candidate: quality[candidate])
        maps["reconstruction"] = _residual(detector, raw, level, steps)
        notes.append(
            f"reconstruction from level {level}, of {LEVELS}: image AUROC on valid {quality[level]:.3f}, {steps} steps"
        )
    else:
        notes.append("no reconstruction baseline: its level is chosen on valid images of both classes")
    statistics: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda m: m.mean((1, 2)),
        "max": lambda m: m.amax((1, 2)),
    }
    scores = {f"{name}_{kind}": f(value) for name, value in maps.items() for kind, f in statistics.items()}
    return Scored(_arrays(scores), _arrays({f"{name}_max": value for name, value in maps.items()})), notes


def _residual(detector: AnomalyDetector, raw: Tensor, level: int, steps: int) -> Tensor:
    inferer = ReconstructionInferer(level, steps)
    batches = (detector.features.normalise(chunk.float()) for chunk in raw.split(16))
    return torch.cat([torch.linalg.vector_norm(b - inferer(b, detector.denoiser), dim=1) for b in batches])


def _best(labels: np.ndarray, maps: Tensor) -> float:
    flat = maps.flatten(1).numpy()
    return max(float(roc_auc_score(labels, s)) for s in (flat.mean(1), flat.max(1)))


def _min_max(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: value.cpu().double().numpy() if value.ndim == 1 else value.cpu().numpy()
        for name, value in tensors.items()
    }
