"""The shipped models in three lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invad_med.bundle import root
from invad_med.options import check_parser, literals

if TYPE_CHECKING:
    from invad_med.data.prediction import Prediction
    from invad_med.detection.detectors import DetectorShelf


def load(modality: str | None = None, **overrides: Any) -> Predictor:
    """Load the shipped bundle as ``configs/inference.json`` defines it.

    Args:
        modality: data set that images belong to where nothing else says so; the default model's if None.
        overrides: keys of the configuration, such as ``ckpt_path=...``, ``device="cpu"`` or ``inferer={...}``.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or does not fit.
        OptionError: no such key, or a value that its key does not take.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(Path(root()) / "configs" / "inference.json")
    parser.update(literals({"modality": modality, **overrides}))
    check_parser(parser, "inference.json")
    return Predictor(parser.get_parsed_content("network"), modality)


class Predictor:
    """Give it a path or an array, get map, score and provenance.

    Args:
        network: the detectors.
        modality: data set stated by the user, or None.
    """

    def __init__(self, network: DetectorShelf, modality: str | None = None) -> None:
        self.network, self.modality = network.eval(), modality

    @property
    def provenance(self) -> dict[str, Any]:
        """What the default model was trained on and with, as its checkpoint states."""
        return self.network.detector(self.network.default).provenance

    def __call__(self, image: str | Path | np.ndarray) -> list[Prediction]:
        """Score a file, every image below a folder, or one array.

        Args:
            image: path; or (H, W) or (H, W, 3), uint8 as displayed, or any other dtype in its own units.

        Returns:
            One `Prediction` per slice, in the order of files and slices; those without a model or unreadable are
            among them, with the reason.

        Raises:
            FileNotFoundError, ValueError: nothing is there, nothing that a model is for, or no image array.
        """
        from invad_med.data.slices import ReadError
        from invad_med.inference.inputs import list_inputs
        from invad_med.inference.pipeline import unreadable
        from invad_med.readers.sources import read_slice

        if isinstance(image, np.ndarray):
            return [self._score(*self._from_array(image))]
        inputs = list_inputs(image, self.network.names, self.network.default, self.modality)
        results = []
        for wanted in inputs.items:
            try:
                results.append(self._score(wanted, read_slice(wanted.source, wanted.index)))
            except ReadError as error:
                results.append(unreadable(wanted, str(error)))
        return [*results, *inputs.unscored]

    def _score(self, wanted: Any, piece: Any) -> Prediction:
        import torch

        from invad_med.data.transforms import from_image, to_image
        from invad_med.inference.pipeline import scored

        device = next(self.network.parameters()).device
        with torch.no_grad():
            found = self.network(to_image(piece, wanted.facts)[None].to(device), [wanted.facts.name])
        row = {key: value[0] for key, value in found.items()}
        row["pred"] = from_image(row["pred"][0].cpu(), piece, wanted.facts)[None]
        return scored(wanted, row)

    def _from_array(self, image: np.ndarray) -> tuple[Any, Any]:
        from invad_med.data.slices import Slice, Source
        from invad_med.inference.choose import choose_dataset
        from invad_med.inference.inputs import Input
        from invad_med.readers.decoding import value_range

        colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
        if not colour and image.ndim != 2:
            raise ValueError(f"an array must be (H, W), or (H, W, 3) uint8, not {image.shape} {image.dtype}")
        source = Source("raster", (), "array", 1)
        choice = choose_dataset(source, self.modality, self.network.default)
        assert choice.facts is not None  # the default model has one
        if choice.facts.name not in self.network.names:
            raise ValueError(f"no model for {choice.facts.title}; there are {', '.join(self.network.names)}")
        eight_bit = image.dtype == np.uint8
        pixels = image if colour else image.astype(np.float32)
        shown = (0.0, 255.0) if eight_bit else value_range([pixels])
        piece = Slice(pixels, source, 0, "8bit" if eight_bit else "stored", shown)
        return Input(source, 0, choice.facts, str(choice.chosen_by)), piece
