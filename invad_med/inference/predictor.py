"""The shipped models in three lines of Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from invad_med.bundle import root
from invad_med.data.prediction import Prediction
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Slice, Source
from invad_med.data.study import Study
from invad_med.detection import Detectors, model_files
from invad_med.detection.serve import usual_device
from invad_med.inference.choose import choose_modality
from invad_med.inference.inputs import Input, Inputs, list_inputs
from invad_med.inference.pipeline import score_inputs, score_source
from invad_med.inference.studies import StudyJudge
from invad_med.readers.decoding import value_range
from invad_med.timesteps import Grid


def load(
    modality: str | None = None,
    ckpt_path: str | Path | None = None,
    device: object = None,
    false_positive_rate: float = 0.05,
    grid: Grid | None = None,
    engine: str | None = None,
    bundle_root: str | Path | None = None,
    gate: bool = True,
) -> Predictor:
    """Load the shipped models, or a checkpoint of your own, as ``configs/inference.json`` does.

    Args:
        modality: what images show that do not say so themselves; the default model's if None.
        ckpt_path: the default model; the bundle's if None.
        device: to compute on; the GPU if there is one, where None.
        false_positive_rate: share of normal images that may exceed the threshold, 0 < rate < 1.
        grid: timesteps instead of those that the models are calibrated for; scores are then withheld.
        engine: what computes, see `invad_med.detection.serve.serve`; the fastest that gives the same, where None.
        bundle_root: folder of the bundle; the installed one if None.
        gate: withhold the scores of images unlike those that their model was trained on: status ``unfamiliar``.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or does not fit.
    """
    models = Path(bundle_root or root()) / "models"
    device = usual_device() if device is None else device
    files = model_files(ckpt_path or models / "model.pt", models, modality)
    return Predictor(
        Detectors(files, None, grid, engine, device, false_positive_rate, gate),
        modality,
    )


class Predictor:
    """Give it a path or an array, get map, score and provenance.

    Args:
        detectors: the models.
        modality: what images show that do not say so, as the user states; None: what the default model is for.
    """

    def __init__(self, detectors: Detectors, modality: str | None = None) -> None:
        self.detectors, self.modality = detectors, modality
        detectors.detector(detectors.default)  # what does not load is told at once

    @property
    def provenance(self) -> Provenance:
        """What the default model was trained on and with, as its checkpoint states."""
        return self.detectors.provenance(self.detectors.default)

    def __call__(self, image: str | Path | np.ndarray, batch_size: int = 4) -> list[Prediction]:
        """Score a file, every image below a folder, or one array.

        Args:
            image: path; or (H, W) or (H, W, 3), uint8 as displayed, or (H, W) of other numbers in their own units.
            batch_size: slices of a source that are scored at once.

        Returns:
            One `Prediction` per slice, in the order of files and slices; those without a model or unreadable are
            among them, with the reason.

        Raises:
            FileNotFoundError, ValueError: nothing is there, nothing that a model is for, or no image array: of another
                shape, not of finite real numbers, or masked; a batch of less than one image.
        """
        if isinstance(image, np.ndarray):
            item, piece = self._from_array(image)
            return [prediction for prediction, _ in score_source(self.detectors, [item], [piece])]
        inputs = self._list(image)
        results = [prediction for prediction, _ in score_inputs(self.detectors, inputs, batch_size)]
        return [*results, *inputs.unscored]

    def study(self, path: str | Path, by: str | None = None, batch_size: int = 4) -> list[Study]:
        """Score a file, or every image below a folder, and judge each volume, series or image as a whole.

        Args:
            path: of it.
            by: ``folder`` makes one study of the images of a folder, see `invad_med.inference.studies`.
            batch_size: slices of a source that are scored at once.

        Returns:
            One `Study` each, the most abnormal first; those without a verdict come last, with the reason.

        Raises:
            FileNotFoundError, ValueError: as a call; or ``by`` is another word.
        """
        judge, inputs = StudyJudge(self.detectors, by), self._list(path)
        pairs = score_inputs(self.detectors, inputs, batch_size)
        scored = [replace(p, map=None, content=piece.digest) for p, piece in pairs]
        return judge([*scored, *inputs.unscored], inputs.unread)

    def _list(self, path: str | Path) -> Inputs:
        return list_inputs(path, self.detectors.names, self.detectors.default, self.modality)

    def _from_array(self, image: np.ndarray) -> tuple[Input, Slice]:
        colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
        if not colour and image.ndim != 2:
            raise ValueError(f"an array must be (H, W), or (H, W, 3) uint8, not {image.shape} {image.dtype}")
        if image.dtype.kind not in "buif" or isinstance(image, np.ma.MaskedArray):
            what = "a masked array" if isinstance(image, np.ma.MaskedArray) else f"an array of {image.dtype}"
            raise ValueError(f"{what} is no image: give its values as real numbers, with a value where it is masked")
        source = Source("raster", (), "array", 1)
        choice = choose_modality(source, self.modality, self.detectors.default, self.detectors.names)
        assert choice.modality is not None and choice.chosen_by is not None  # the default model has one
        if choice.modality.name not in self.detectors.names:
            raise ValueError(f"no model for {choice.modality.title}; there are {', '.join(self.detectors.names)}")
        eight_bit = image.dtype == np.uint8
        with np.errstate(over="ignore"):
            pixels = image if colour else image.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise ValueError("the array holds NaN, infinite values, or values beyond 3.4e38: replace them before")
        shown = (0.0, 255.0) if eight_bit else value_range([pixels])
        piece = Slice(pixels, source, 0, "8bit" if eight_bit else "stored", shown)
        return Input(source, 0, choice.modality, choice.chosen_by), piece
