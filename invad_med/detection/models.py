"""Which checkpoint serves which modality."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from invad_med.data.provenance import Provenance
from invad_med.serving.weights import open_weights

logger = logging.getLogger(__name__)

DEFAULT = "model"  # stem of the file whose modality its provenance states


def read_provenance(path: str | Path) -> Provenance:
    """Return what a detector's checkpoint states about itself, without reading its tensors.

    Raises:
        FileNotFoundError, ValueError: as `invad_med.serving.weights.open_weights`.
    """
    with open_weights(path) as weights:
        return Provenance.from_state(weights.read("_extra_state") if "_extra_state" in weights.values else {})


@dataclass(frozen=True)
class ModelFiles:
    """The checkpoints of a run.

    Args:
        files: modality -> file.
        default: the modality of the one that was given or is the folder's ``model.pt``; None without one.
    """

    files: Mapping[str, Path]
    default: str | None = None

    @classmethod
    def in_folder(cls, models_dir: str | Path) -> ModelFiles:
        """Return the models of a folder: ``<modality>.pt``, and ``model.pt`` for the modality that it states."""
        files = {path.stem: path for path in sorted(Path(models_dir).glob("*.pt"))}
        path = files.pop(DEFAULT, None)
        modality = read_provenance(path).modality if path else None
        if path is None or modality is None:
            return cls(files)
        if modality in files:
            logger.warning("%s and %s are both for %s: the first is used", path, files[modality], modality)
        return cls({modality: path} | {name: file for name, file in files.items() if name != modality}, modality)

    def with_checkpoint(self, path: str | Path, modality: str | None = None) -> ModelFiles:
        """Return the same with a checkpoint first, for the modality that it states, else the given one.

        Raises:
            ValueError: neither says a modality.
        """
        name = read_provenance(path).modality or modality
        if not name:
            raise ValueError(f"checkpoint {path} does not say which modality it is for: give --modality")
        others = {other: file for other, file in self.files.items() if other != name}
        return ModelFiles({name: Path(path), **others}, name)

    def __getitem__(self, modality: str) -> Path:
        """Return a modality's checkpoint.

        Raises:
            ValueError: there is none, or it states another modality than its name.
            FileNotFoundError: it is gone.
        """
        if modality not in self.files:
            raise ValueError(
                f"no model for {modality} (there: {', '.join(self.files) or 'none'}): train one with "
                "configs/train.json and give --models_dir or --ckpt_path"
            )
        path = self.files[modality]
        stated = read_provenance(path).modality
        if stated and stated != modality:
            raise ValueError(
                f"{path} is called as a model for {modality}, but was trained for {stated}: name it {stated}.pt, or "
                "give it by --ckpt_path"
            )
        return path


def model_files(ckpt_path: str | Path, models_dir: str | Path, modality: str | None = None) -> ModelFiles:
    """Return the models of an inference run: a checkpoint that ships brings its folder, another stands alone.

    Args:
        ckpt_path: the default model.
        models_dir: folder of the models that ship.
        modality: of the checkpoint, where it does not say.

    Raises:
        FileNotFoundError, ValueError: no such file; not a checkpoint; it does not say its modality.
    """
    shipped = Path(ckpt_path).resolve().parent == Path(models_dir).resolve()
    others = ModelFiles.in_folder(models_dir) if shipped else ModelFiles({})
    return others.with_checkpoint(ckpt_path, modality)
