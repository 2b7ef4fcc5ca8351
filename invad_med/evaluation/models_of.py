"""Which modality a data set's images are prepared as, and which model scores it."""

from __future__ import annotations

from pathlib import Path

from invad_med.data.bmad import BmadDataset
from invad_med.data.modalities import Modality, find_modality, how_to_state, require_modality
from invad_med.detection import ModelFiles, read_provenance


def modality_of(dataset: BmadDataset, named: str | None, alone: bool, ckpt_path: str | None) -> Modality:
    """Return the modality by which a data set's images are prepared.

    ``named`` decides for a data set given alone; else its name does; else, alone, the given checkpoint.

    Raises:
        ValueError: none of them says.
    """
    if named and alone:
        return require_modality(named)
    if dataset.modality:
        return dataset.modality
    if alone and ckpt_path and (modality := find_modality(read_provenance(ckpt_path).modality or "")):
        return modality
    raise ValueError(
        f"nothing says what the images show, the folder's name {dataset.root.resolve().name!r} neither: "
        f"{how_to_state()}"
    )


def choose_checkpoint(name: str, ckpt_path: str | None, models_dir: str | Path, alone: bool) -> Path:
    """Return a modality's checkpoint: the given one if it is for it (or the data set is given alone), else its own.

    Raises:
        ValueError: there is none.
    """
    if ckpt_path and (alone or read_provenance(ckpt_path).modality == name):
        return Path(ckpt_path)
    return ModelFiles.in_folder(models_dir)[name]
