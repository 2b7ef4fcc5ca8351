"""What is measured: the detector's own scores, and what it must beat, on the same features of the same images.

======================  ================================================================================================
``calibrated``          `invad_med.scoring.Calibration`: whitened end point, scored against held-out normals
``paper``               max(A) - min(A) + sum(A) of the norm A of the end point, three steps of the paper's grid
``official``            the authors' code: its grid, and min-max over the whole test set (transductive: an image's score
                        depends on the others; only to reproduce)
``no_inversion``        norm of the normalised features: no diffusion at all
``gaussian``            Mahalanobis distance to a Gaussian per position (PaDiM-like)
``nearest_neighbours``  distance to the nearest of a bank of normal positions (PatchCore-like)
``reconstruction``      distance to what noising to level r and denoising gives back, as many network evaluations
======================  ================================================================================================

A baseline's image score is the mean, the largest 1 % or the maximum of its map, whichever has the best AUROC on
``valid`` (and r with it); the maximum, and r = 300, where ``valid`` lacks a class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invad_med.data.transforms import to_image
from invad_med.detection import AnomalyDetector
from invad_med.diffusion import Timesteps, inversion_timesteps, invert
from invad_med.evaluation.baselines import PositionGaussian, nearest_neighbour_maps
from invad_med.evaluation.judge import Scored
from invad_med.evaluation.truth import Truth
from invad_med.features.cached import cached_features
from invad_med.inferers import ReconstructionInferer
from invad_med.metrics.image import auroc
from invad_med.parallel import together
from invad_med.scoring import anomaly_map, max_min, nll, paper_score
from invad_med.scoring.scores import top_mean

LEVELS = (100, 200, 300, 500, 700)
_DEFAULT_LEVEL = 300
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda maps: maps.flatten(1).amax(1),
    "largest 1 %": lambda maps: top_mean(maps, 0.01),
    "mean": lambda maps: maps.flatten(1).mean(1),
}
MapMaker = Callable[[Tensor], Tensor]


@torch.no_grad()
def image_features(detector: AnomalyDetector, truth: Truth, chosen: range) -> Tensor:
    """Return the normalised features of some images: (n, C, h, w) float32 on the detector's device."""
    images = torch.stack([to_image(truth.piece(i), truth.modality, detector.host.image_size) for i in chosen])
    return detector.host.encode(images.to(detector.host.device))


class OwnScores:
    """The detector's three scores, gathered batch by batch.

    Args:
        detector: calibrated, on its device.
        false_positive_rate: of the thresholds.

    Raises:
        ValueError: the detector is not calibrated for its own timesteps.
    """

    def __init__(self, detector: AnomalyDetector, false_positive_rate: float) -> None:
        if detector.withheld is not None:
            raise ValueError(detector.withheld)
        self.detector, self.rate = detector, false_positive_rate
        length = len(detector.host.alphas_cumprod)
        self.paper, self.official = (inversion_timesteps(3, mode, length) for mode in ("paper", "official"))
        self.rows: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Score features (n, C, h, w)."""
        d = self.detector
        z, z_official = self._walk(x, d.timesteps), self._walk(x, self.official)
        z_paper = z if d.timesteps == self.paper else self._walk(x, self.paper)
        score = d.calibration.score(z)
        found = {
            "score": score,
            "map": d.calibration.map(z),
            "p_value": d.calibration.p_value(score),
            "paper": paper_score(z_paper),
            "paper map": anomaly_map(z_paper),
            "diff": max_min(z_official),
            "nll": nll(z_official),
            "official map": anomaly_map(z_official),
        }
        for name, value in found.items():
            self.rows.setdefault(name, []).append(value.float().cpu())

    def _walk(self, x: Tensor, timesteps: Timesteps) -> Tensor:
        return invert(self.detector.host.eps, x, timesteps, self.detector.host.alphas_cumprod)

    def gather(self) -> None:
        """Take up what the other processes scored."""
        everyone = together(lambda: self.rows)  # the first has at least one batch
        self.rows = {name: _interleaved([rows.get(name, []) for rows in everyone]) for name in everyone[0]}

    def scored(self) -> tuple[dict[str, Scored], np.ndarray]:
        """Return the three scores of all images added, and the calibrated one's p-values (N,)."""
        rows = {name: torch.cat(parts).numpy() for name, parts in self.rows.items()}
        calibration = self.detector.calibration
        own = Scored(
            rows["score"],
            rows["map"],
            calibration.threshold(self.rate),
            calibration.map_threshold(self.rate),
            f"timesteps {self.detector.timesteps}, {len(calibration.reference)} held-out normals",
        )
        official = sum(_unit_range(rows[name]) for name in ("diff", "nll"))
        return {
            "calibrated": own,
            "paper": Scored(rows["paper"], rows["paper map"], note=f"timesteps {self.paper}"),
            "official": Scored(
                np.asarray(official),
                rows["official map"],
                note=f"timesteps {self.official}; transductive: min-max over the whole split",
            ),
        }, rows["p_value"]


def _unit_range(values: np.ndarray) -> np.ndarray:
    low, high = values.astype(float).min(), values.astype(float).max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


class Baseline:
    """One baseline: makers of maps to choose from on ``valid``, then maps and scores batch by batch.

    Args:
        makers: setting -> function from features (n, C, h, w) to maps (n, h, w); the first is the default.
    """

    def __init__(self, makers: dict[str, MapMaker]) -> None:
        self.makers = makers
        self.setting, self.statistic, self.chosen_on = next(iter(makers)), "maximum", "by default, without valid"
        self.maps: list[Tensor] = []

    def choose(self, features: Tensor, labels: np.ndarray) -> None:
        """Choose setting and statistic by image AUROC on a split of both classes."""
        best = -1.0
        for setting, maker in self.makers.items():
            maps = torch.cat([maker(part).cpu() for part in features.split(16)])
            for name, statistic in STATISTICS.items():
                value = auroc(labels, statistic(maps).numpy())
                if value is not None and value > best:
                    best, self.setting, self.statistic = value, setting, name
                    self.chosen_on = f"chosen on valid, {len(labels)} images"

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Make the maps of features (n, C, h, w)."""
        self.maps.append(self.makers[self.setting](x).float().cpu())

    def gather(self) -> None:
        """Take up the maps that the other processes made."""
        self.maps = _interleaved(together(lambda: self.maps))

    def scored(self) -> Scored:
        """Return maps and scores of all images added."""
        maps = torch.cat(self.maps)
        note = f"{self.setting + ', ' if self.setting else ''}{self.statistic} of the map, {self.chosen_on}"
        return Scored(STATISTICS[self.statistic](maps).numpy(), maps.numpy(), note=note)


def make_baselines(
    detector: AnomalyDetector, train: Truth, valid: Truth | None, cache_dir: str | Path | None = None
) -> dict[str, Baseline]:
    """Fit the four baselines on the normal images of ``train`` and set them on ``valid``.

    Args:
        detector: whose features and denoiser they use.
        train: its abnormal images, if any, are left out.
        valid: None where there is none.
        cache_dir: folder for features, kept between runs.
    """
    host = detector.host
    normal = [path for path, label in zip(train.images, train.labels, strict=True) if not label]
    raw = cached_features(host, normal, train.modality, cache_dir)
    normals = torch.cat([host.normalise(part.to(host.device).float()).half().cpu() for part in raw.split(64)])
    del raw
    gaussian = PositionGaussian(normals)
    bank = _bank(normals)

    def reconstructed(level: int) -> MapMaker:
        inferer = ReconstructionInferer(level, len(detector.timesteps), alphas_cumprod=host.alphas_cumprod)
        return lambda x: (inferer(x, host.eps) - x).norm(dim=1)

    levels = sorted(LEVELS, key=lambda level: level != _DEFAULT_LEVEL)  # the default first
    baselines = {
        "no_inversion": Baseline({"": lambda x: x.norm(dim=1)}),
        "gaussian": Baseline({"": lambda x: gaussian.maps(x.cpu())}),
        "nearest_neighbours": Baseline({"": lambda x: nearest_neighbour_maps(x, bank.to(x.device))}),
        "reconstruction": Baseline({f"r = {level}": reconstructed(level) for level in levels}),
    }
    if valid is not None and 0 < valid.labels.sum() < len(valid.labels):
        features = torch.cat([image_features(detector, valid, part) for part in batches(len(valid.images), 16)])
        with torch.no_grad():
            for baseline in baselines.values():
                baseline.choose(features, valid.labels)
    return baselines


def batches(count: int, size: int) -> list[range]:
    """Return the ranges that cut ``count`` images into batches."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _bank(normals: Tensor, size: int = 20_000, seed: int = 0) -> Tensor:
    """Return positions of normal features drawn at random: (1, C, 1, n) float32."""
    n, c, h, w = normals.shape
    order = torch.randperm(n * h * w, generator=torch.Generator().manual_seed(seed))[:size]
    drawn = normals[order // (h * w), :, order % (h * w) // w, order % w]
    return drawn.float().T.reshape(1, c, 1, -1)


def _interleaved(everyone: list[list[Tensor]]) -> list[Tensor]:
    """Return batches in their order, where each process has done every P-th from its rank on."""
    return [part for row in itertools.zip_longest(*everyone) for part in row if part is not None]
