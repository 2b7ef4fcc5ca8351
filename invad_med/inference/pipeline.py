"""The one way from a slice to its prediction: prepare, detect, map back; and a source or a folder gone through so.

`score_inputs` goes it for Python. MONAI's evaluator goes it by the same functions, which `invad_med.inference.monai`
and `invad_med.inference.handler` call.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from invad_med.data.contrast import NoContrast, judged
from invad_med.data.prediction import Detection, Prediction, Scores, Status
from invad_med.data.slices import ReadError, Slice
from invad_med.data.transforms import from_image, to_image
from invad_med.detection import Detectors
from invad_med.inference.inputs import Input, Inputs
from invad_med.readers.dicom.pixels import LastFile
from invad_med.readers.sources import read_source


def prepare(item: Input, piece: Slice, size: int = 256) -> np.ndarray:
    """Return the image of a slice that the networks take: (3, size, size) float32 in [0, 1]."""
    return to_image(piece, item.modality, size)


def map_back(item: Input, piece: Slice, anomaly: np.ndarray) -> np.ndarray:
    """Return a map (h, w) of a prepared image on the slice's own grid: (H, W) float32."""
    return from_image(anomaly, piece, item.modality)


def scored(item: Input, detection: Detection, anomaly: np.ndarray) -> Prediction:
    """Return the prediction for one slice; it has neither numbers nor map where the image is unfamiliar.

    Args:
        item: the slice.
        detection: what the detector says of it.
        anomaly: (H, W), its map on the slice's own grid.
    """
    reasons = [*([detection.withheld] if detection.withheld else []), *item.source.notes]
    reason = "; ".join(reasons) or None
    choice, engine = (item.modality.name, item.chosen_by), detection.computed_by or None
    if detection.unfamiliar:
        return Prediction(item.source, item.index, Status.UNFAMILIAR, reason, *choice, computed_by=engine)
    numbers = {field.name: getattr(detection, field.name) for field in dataclasses.fields(Scores)}
    return Prediction(
        item.source,
        item.index,
        Status.SCORED,
        reason,
        *choice,
        map=np.asarray(anomaly, dtype=np.float32),
        computed_by=engine,
        **numbers,
    )


def unreadable(item: Input, error: ReadError) -> Prediction:
    """Return the prediction for a slice that could not be read, or that shows nothing."""
    status = Status.NO_CONTRAST if isinstance(error, NoContrast) else Status.UNREADABLE
    return Prediction(item.source, item.index, status, str(error), item.modality.name, item.chosen_by)


def score_source(
    detectors: Detectors, items: Sequence[Input], pieces: Sequence[Slice | ReadError], batch_size: int = 4
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    """Score slices of one source, a batch at a time; one that could not be read stops no other.

    Args:
        detectors: the models.
        items: the slices to be scored.
        pieces: all slices of the source, as `read_source` gives them.
        batch_size: images that the networks take at once, at least 1.

    Yields:
        For each item in order its prediction, and the slice it is of.

    Raises:
        ValueError: a batch of less than one image.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    for start in range(0, len(items), batch_size):
        batch = [(item, judged(pieces[item.index], item.modality)) for item in items[start : start + batch_size]]
        readable = [(item, piece) for item, piece in batch if isinstance(piece, Slice)]
        detections: Iterator[Detection] = iter(())
        if readable:
            images = [prepare(item, piece, detectors.image_size(item.modality.name)) for item, piece in readable]
            names = [item.modality.name for item, _ in readable]
            detections = iter(detectors.detect(np.stack(images), names))
        for item, piece in batch:
            if isinstance(piece, ReadError):
                yield unreadable(item, piece), piece
                continue
            detection = next(detections)
            yield scored(item, detection, map_back(item, piece, detection.map)), piece


def score_inputs(
    detectors: Detectors, inputs: Inputs, batch_size: int = 4
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    """Decode and score source after source; one source is held at a time.

    Args:
        detectors: the models.
        inputs: what is to be scored; `Inputs.unscored` is not.
        batch_size: as `score_source`.

    Yields:
        For each item in order its prediction, and the slice it is of, as `invad_med.inference.results.SourceWriter`
        takes them.
    """
    last = LastFile()
    for source, items in itertools.groupby(inputs.items, key=lambda item: item.source):
        yield from score_source(detectors, list(items), read_source(source, last), batch_size)
