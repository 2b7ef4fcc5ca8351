"""Measure a model on a test split beside what it must beat: ``python -m invad_med.scoreboard DATASET_DIR ...``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from invad_med.baselines import STATISTICS, nearest_neighbour_maps, trivial_statistics
from invad_med.bundle import root
from invad_med.data.bmad import datalist, read_mask
from invad_med.data.datasets import find_dataset
from invad_med.data.slices import Source
from invad_med.data.sources import read_slice
from invad_med.data.transforms import to_image
from invad_med.inferers import InversionInferer
from invad_med.networks import AnomalyDetector, FrozenFeatures, create_denoiser
from invad_med.networks.checkpoints import read_provenance
from invad_med.scoring import max_min, nll, paper_score, resize_map
from invad_med.training.artefact import end_points
from invad_med.training.endpoints import walk_to_noise
from invad_med.training.features import cached_features


def measure(
    dataset_dir: str | Path, ckpt_path: str | Path, split: str = "test", cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return image AUROC (and pixel AUROC and AP where masks exist) of every score and baseline.

    Args:
        dataset_dir: one data set in BMAD's layout, with a ``train`` split for the baselines.
        ckpt_path: a detector's checkpoint.
        split: ``valid`` or ``test``.
        cache_dir: folder for the features, kept between runs.

    Raises:
        ValueError: the split has images of one class only, or the checkpoint is for no data set of the table.
    """
    stated = read_provenance(ckpt_path)
    features = FrozenFeatures(stated.get("backbone", "tf_efficientnet_lite0"), weights="checkpoint")
    denoiser = create_denoiser(stated.get("preset", "cpu"), features.out_channels)
    detector = AnomalyDetector(features, denoiser, checkpoint=ckpt_path).eval()
    detector.inferer = InversionInferer(timesteps=detector.calibration.timesteps)
    facts = find_dataset(str(detector.provenance.get("dataset")))
    if facts is None:
        raise ValueError(f"checkpoint {ckpt_path} is for no data set of the table")
    normal = [Path(item["image"]) for item in datalist(dataset_dir, "train", good_only=True)]
    judged = datalist(dataset_dir, split)
    labels = np.array([item["label"] for item in judged])
    if len(set(labels.tolist())) < 2:
        raise ValueError(f"the {split} split has images of one class only: no AUROC")
    paths = [Path(item["image"]) for item in judged]
    raw_train, raw = (cached_features(features, p, facts, cache_dir) for p in (normal, paths))
    z = end_points(detector, raw)
    paper = walk_to_noise(features, detector.denoiser, InversionInferer(), raw)
    maps = detector.calibration.map(z)
    neighbours = nearest_neighbour_maps(features.normalise(raw.float()), features.normalise(raw_train.float()))

    scores: dict[str, Tensor] = {
        "calibrated": detector.calibration.score(z),
        "paper": paper_score(paper),
        "nll": nll(paper),
        "max-min": max_min(paper),
        "nearest neighbours, mean": neighbours.mean((1, 2)),
        "nearest neighbours, max": neighbours.amax((1, 2)),
    }
    table: dict[str, Any] = {
        name: {"image_auroc": float(roc_auc_score(labels, value.numpy()))} for name, value in scores.items()
    }
    grey, train_grey = (_grey(p, facts) for p in (paths, normal))
    floors = [float(roc_auc_score(labels, s)) for s in trivial_statistics(grey, train_grey).T]
    best = int(np.argmax([max(f, 1 - f) for f in floors]))
    table["trivial floor"] = {"image_auroc": max(floors[best], 1 - floors[best]), "statistic": STATISTICS[best]}

    if any(item["mask"] for item in judged):
        shape = grey.shape[1:]
        truth = np.stack([_mask(item["mask"], shape) for item in judged]).ravel()
        for name, value in (("calibrated", maps), ("nearest neighbours, max", neighbours)):
            pixels = resize_map(value, shape).numpy().ravel()
            table[name] |= {
                "pixel_auroc": float(roc_auc_score(truth, pixels)),
                "pixel_ap": float(average_precision_score(truth, pixels)),
            }
    threshold = detector.calibration.threshold(0.05)
    if threshold is not None:
        above = scores["calibrated"].numpy() > threshold
        table["calibrated"] |= {
            "false_positive_rate_at_5%": float(above[labels == 0].mean()),
            "sensitivity_at_5%": float(above[labels == 1].mean()),
        }
    counts = {"good": int((labels == 0).sum()), "Ungood": int(labels.sum())}
    return {"dataset": facts.name, "split": split, "images": counts, "scores": table}


def _grey(paths: Sequence[Path], facts: Any) -> np.ndarray:
    sources = (Source("raster", (p,), p.stem, 1) for p in paths)
    return np.stack([to_image(read_slice(s, 0), facts).mean(0).numpy() for s in sources])


def _mask(path: str, shape: Sequence[int]) -> np.ndarray:
    if not path:
        return np.zeros(shape, dtype=bool)
    mask = torch.from_numpy(read_mask(path)).float()[None]
    return (torch.nn.functional.interpolate(mask[None], size=tuple(shape), mode="area")[0, 0] >= 0.5).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m invad_med.scoreboard``."""
    parser = argparse.ArgumentParser(prog="python -m invad_med.scoreboard", description=(__doc__ or "").split(":")[0])
    parser.add_argument("dataset_dir", type=Path, help="one data set in BMAD's layout")
    parser.add_argument("--ckpt_path", type=Path, default=Path(root()) / "models" / "model.pt", help="%(default)s")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--cache_dir", type=Path, help="keep features here")
    options = parser.parse_args(argv)
    print(json.dumps(measure(options.dataset_dir, options.ckpt_path, options.split, options.cache_dir), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
