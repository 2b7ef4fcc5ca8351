"""Which row of the table prepares a data set's images, and which model scores it."""

from __future__ import annotations

from pathlib import Path

from invad_med.data.bmad import BmadDataset
from invad_med.data.datasets import DatasetFacts, all_datasets, find_dataset
from invad_med.detection import ModelFiles, read_provenance


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
    if alone and ckpt_path and (facts := find_dataset(str(read_provenance(ckpt_path).modality))):
        return facts
    raise ValueError(
        f"the folder's name {dataset.root.resolve().name!r} is none of the known data sets: evaluate it alone with "
        f"--modality, one of {', '.join(all_datasets())}"
    )


def choose_checkpoint(name: str, ckpt_path: str | None, models_dir: str | Path, alone: bool) -> Path:
    """Return a modality's checkpoint: the given one if it is for it (or the data set is given alone), else its own.

    Raises:
        ValueError: there is none.
    """
    if ckpt_path and (alone or read_provenance(ckpt_path).modality == name):
        return Path(ckpt_path)
    return ModelFiles.in_folder(models_dir)[name]
