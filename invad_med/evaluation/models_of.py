"""Which row of the table prepares a data set's images, and which model scores it."""

from __future__ import annotations

from pathlib import Path

import torch

from invad_med.data.bmad import BmadDataset
from invad_med.data.datasets import DatasetFacts, all_datasets, find_dataset
from invad_med.detection import AnomalyDetector
from invad_med.detection.detectors import load_like
from invad_med.networks.checkpoints import read_provenance


def choose_facts(dataset: BmadDataset, modality: str | None, alone: bool, ckpt_path: str | None) -> DatasetFacts:
    """Return the row of the table by which a data set's images are prepared.

    ``modality`` decides for a data set given alone; else its name does; else, alone, the given checkpoint.

    Raises:
        ValueError: none of them says.
    """
    if modality and alone:
        if facts := find_dataset(modality):
            return facts
        raise ValueError(f"modality {modality!r} is none of {', '.join(all_datasets())}")
    if dataset.facts:
        return dataset.facts
    if alone and ckpt_path and (facts := find_dataset(str(read_provenance(ckpt_path).get("dataset")))):
        return facts
    raise ValueError(
        f"the folder's name {dataset.root.resolve().name!r} is none of the known data sets: evaluate it alone with "
        f"--modality, one of {', '.join(all_datasets())}"
    )


def choose_checkpoint(name: str, ckpt_path: str | None, models_dir: str | Path, alone: bool) -> Path:
    """Return a data set's checkpoint: the given one if it is for it (or the data set is given alone), else its own.

    Raises:
        ValueError: there is none.
    """
    if ckpt_path and (alone or read_provenance(ckpt_path).get("dataset") == name):
        return Path(ckpt_path)
    own = Path(models_dir) / f"{name}.pt"
    if own.is_file():
        return own
    default = Path(models_dir) / "model.pt"
    if default.is_file() and read_provenance(default).get("dataset") == name:
        return default
    have = ", ".join(sorted(p.stem for p in Path(models_dir).glob("*.pt"))) or "none"
    raise ValueError(
        f"no model for {name} in the models folder (there: {have}): train one with configs/train.json and give "
        "--models_dir or --ckpt_path"
    )


def load_detector(network_def: AnomalyDetector, path: str | Path, device: torch.device | str) -> AnomalyDetector:
    """Return the detector of a checkpoint on a device, built like ``network_def``."""
    return load_like(network_def, path).to(device)
