"""The one way from a slice to its prediction: prepare, detect, map back; and a source or a folder gone through so.

`score_inputs` goes it for Python. MONAI's evaluator goes it by the same functions, which `invad_med.inference.monai`
and `invad_med.inference.handler` call.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

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


def together(
    sizes: Sequence[int], readable: Sequence[bool], names: Sequence[str], alone: Callable[[str], bool]
) -> list[list[int]]:
    """Return which images of a batch the networks take together: those of one size, if any of them is of a slice.

    The black images in the place of slices that could not be read go along, so that the others are in a batch of the
    size that they always are in: the last digits of a score can depend on it.

    Args:
        sizes: side of each image in pixels.
        readable: whether it is the image of a slice.
        names: of their modalities.
        alone: whether the images of a modality are computed one by one, so that no black one is needed.
    """
    groups = []
    for size in dict.fromkeys(sizes):
        chosen = [i for i, other in enumerate(sizes) if other == size]
        if any(readable[i] for i in chosen):
            groups.append([i for i in chosen if readable[i] or not alone(names[i])])
    return groups


def score_batch(
    detectors: Detectors, batch: Sequence[tuple[Input, Slice | ReadError]]
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    """Score slices at once; one that could not be read stops no other.

    Yields:
        For each in order its prediction, and the slice, or why it shows nothing.
    """
    batch = [(item, judged(piece, item.modality)) for item, piece in batch]
    names = [item.modality.name for item, _ in batch]
    sizes = [detectors.image_size(name) for name in names]
    images = [
        prepare(item, piece, size) if isinstance(piece, Slice) else np.zeros((3, size, size), np.float32)
        for (item, piece), size in zip(batch, sizes, strict=True)
    ]
    found: dict[int, Detection] = {}
    for group in together(sizes, [isinstance(piece, Slice) for _, piece in batch], names, detectors.alone):
        detections = detectors.detect(np.stack([images[i] for i in group]), [names[i] for i in group])
        found |= zip(group, detections, strict=True)
    for i, (item, piece) in enumerate(batch):
        if isinstance(piece, ReadError):
            yield unreadable(item, piece), piece
        else:
            yield scored(item, found[i], map_back(item, piece, found[i].map)), piece


def score_source(
    detectors: Detectors, items: Sequence[Input], pieces: Sequence[Slice | ReadError], batch_size: int = 4
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    """Score slices of one source, a batch at a time.

    Args:
        detectors: the models.
        items: the slices to be scored.
        pieces: all slices of the source, as `read_source` gives them.
        batch_size: images that the networks take at once, at least 1.

    Yields:
        As `score_batch`.

    Raises:
        ValueError: a batch of less than one image.
    """
    return _in_batches(detectors, ((item, pieces[item.index]) for item in items), batch_size)


def score_inputs(
    detectors: Detectors, inputs: Inputs, batch_size: int = 4
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    """Decode and score source after source; one source is held at a time, and a batch goes on with the next one.

    Args:
        detectors: the models.
        inputs: what is to be scored; `Inputs.unscored` is not.
        batch_size: as `score_source`.

    Yields:
        As `score_batch`, which is what `invad_med.inference.results.SourceWriter` takes.

    Raises:
        ValueError: as `score_source`.
    """
    return _in_batches(detectors, _decoded(inputs), batch_size)


def _decoded(inputs: Inputs) -> Iterator[tuple[Input, Slice | ReadError]]:
    last = LastFile()
    for source, items in itertools.groupby(inputs.items, key=lambda item: item.source):
        pieces = read_source(source, last)
        for item in items:
            yield item, pieces[item.index]


def _in_batches(
    detectors: Detectors, slices: Iterable[tuple[Input, Slice | ReadError]], batch_size: int
) -> Iterator[tuple[Prediction, Slice | ReadError]]:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    slices = iter(slices)
    while batch := list(itertools.islice(slices, batch_size)):
        yield from score_batch(detectors, batch)
