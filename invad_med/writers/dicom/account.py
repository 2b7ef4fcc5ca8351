"""What is kept of a source while its scored slices come one by one: numbers, the highest map, other maps on disk."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from invad_med.data.prediction import Prediction, Scores
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Source
from invad_med.data.study import Study
from invad_med.readers.spool import Spool
from invad_med.writers.dicom.evidence import Refused


@dataclass(frozen=True, kw_only=True)
class ScoredSlice(Scores):
    """What is kept of one slice.

    Args:
        index, modality, reason: as of its prediction.
        highest: highest value of its map.
    """

    index: int
    modality: str | None
    reason: str | None
    highest: float


class Account:
    """The scored slices of one source.

    Args:
        source: the file or series.
        provenance: of the model, as its checkpoint states.
        maps: where maps wait that objects need when the source is complete; None where none does.

    Attributes:
        slices: by ascending index.
        engines: what computed them, each once.
        highest: position among them and map, (H, W) float32, of the one with the highest value.
        study: what they come to, once that is known.
    """

    def __init__(self, source: Source, provenance: Provenance, maps: Spool | None) -> None:
        self.source, self.provenance, self.maps = source, provenance, maps
        self.slices: list[ScoredSlice] = []
        self.engines: dict[str, None] = {}
        self.highest = 0, np.zeros((1, 1), np.float32)
        self.study: Study | None = None

    def add(self, prediction: Prediction, values: np.ndarray) -> ScoredSlice:
        """Keep what is to be kept of a slice.

        Args:
            prediction: of it.
            values: its map, from `map_of`.
        """
        numbers = {f.name: getattr(prediction, f.name) for f in fields(Scores)}
        slice_ = ScoredSlice(
            **numbers, index=prediction.index, modality=prediction.modality, reason=prediction.reason,
            highest=float(values.max()),
        )  # fmt: skip
        if not self.slices or slice_.highest > self.slices[self.highest[0]].highest:
            self.highest = len(self.slices), values
        self.slices.append(slice_)
        self.engines |= dict.fromkeys([prediction.computed_by] if prediction.computed_by else [])
        return slice_

    @property
    def limit(self) -> float:
        """Map value above which a pixel counts as abnormal.

        Raises:
            Refused: the model gives none.
        """
        limit = self.slices[0].map_threshold
        if limit is None or not 0 < limit < np.inf:
            raise Refused(f"the model gives no map threshold ({limit}), which the object is drawn by")
        return float(limit)

    @property
    def model(self) -> str:
        """Name of the model, for equipment and text."""
        return f"InvAD {self.provenance.title or self.slices[0].modality or ''}".strip()[:64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        height, width = self.highest[1].shape
        return height, width


def map_of(prediction: Prediction) -> np.ndarray:
    """Return the map of a scored slice, (H, W) float32; what is not finite is 0."""
    found = prediction.map  # made at every access
    assert found is not None
    values = np.asarray(found, np.float32)
    if not np.isfinite(values).all():
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return values
