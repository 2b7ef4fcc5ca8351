"""What is written of one source: of each slice when it is taken, of the source when its last slice was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from invad_med.data.modalities import find_modality
from invad_med.data.prediction import Prediction
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.study import Study
from invad_med.data.transforms import to_unit
from invad_med.writers.dicom.export import DicomJob, DicomWriter, Outcome
from invad_med.writers.heatmap import save_heatmap
from invad_med.writers.maps import MapWriter
from invad_med.writers.report.writer import PartWriter, ReportWriter

Attempt = Callable[[str, Callable[[], object]], str | None]


@dataclass(frozen=True)
class Outputs:
    """What is written of every source.

    Args:
        output_dir: folder of the run.
        attempt: does what may fail, and returns why it failed or None; given what is written, in a word.
        provenance: what the model of a modality states of itself.
        dicom: writes DICOM objects; None writes none.
        report: writes the page; None writes none.
    """

    output_dir: Path
    attempt: Attempt
    provenance: Callable[[str], Provenance]
    dicom: DicomWriter | None = None
    report: ReportWriter | None = None


@dataclass(frozen=True)
class Written:
    """What became of a source.

    Args:
        files: in place.
        dicom: what became of its DICOM objects.
        faults: why its map was not written, if it was not.
        unseen: why the page shows nothing of it, if that could not be written.
    """

    files: tuple[Path, ...] = ()
    dicom: Outcome = field(default_factory=Outcome)
    faults: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


class SourceFiles:
    """Writes heatmaps, the map, DICOM objects and the page's part of one source; what fails costs itself alone.

    Of a slice that was taken digest and position are held, no pixels and no map; of the source what the page shows of
    it, up to 15 MB.

    Args:
        source: the source.
        outputs: what is written.

    Attributes:
        digests: of the slices that were taken, by index.
        scored: which of them have a map.
    """

    def __init__(self, source: Source, outputs: Outputs) -> None:
        self.source, self._outputs = source, outputs
        self.digests: dict[int, str] = {}
        self.scored: set[int] = set()
        self._files: list[Path] = []
        self._maps: MapWriter | None = MapWriter(source, outputs.output_dir)
        self._part: PartWriter | None = None
        self._dicom: DicomJob | None = None
        self._faults: list[str] = []
        self._unseen: list[str] = []

    def take(self, prediction: Prediction, piece: Slice | ReadError) -> Prediction:
        """Write what is written of one slice; return its prediction, with a reason if that is no heatmap."""
        index, values = prediction.index, prediction.map if isinstance(piece, Slice) else None
        self.digests[index] = piece.digest
        if isinstance(piece, Slice):
            modality = find_modality(prediction.modality or "")
            unit = None if modality is None else to_unit(piece, modality)
            if values is not None:
                self.scored.add(index)
                fault = self._outputs.attempt("heatmap", partial(self._draw, prediction, unit, values))
                prediction = with_reason(prediction, [fault] if fault else [])
            if unit is not None:
                self._show(prediction, piece, unit, values)
            if values is not None:
                self._add_dicom(prediction, piece)
        self._try_map(lambda maps: maps.add(index, piece, values))
        return prediction

    def finish(self, study: Study | None) -> Written:
        """Put the files in place that hold several slices.

        Args:
            study: what the slices come to; None if none was scored.
        """
        self._try_map(lambda maps: self._files.extend(maps.finish()))
        outcome = Outcome()
        if self._dicom is not None and study is not None:
            with self._dicom as job:
                outcome = job.finish(study)
        self._try_part(lambda part: self._files.extend(path for path in [part.finish()] if path is not None))
        return Written((*self._files, *outcome.written), outcome, tuple(self._faults), tuple(self._unseen))

    def abandon(self) -> None:
        """Leave nothing that would be of the whole source: heatmaps of its slices stay."""
        if self._maps is not None:
            self._maps.abandon()
        if self._dicom is not None:
            self._dicom.close()

    def _draw(self, prediction: Prediction, unit: np.ndarray | None, values: np.ndarray) -> None:
        if unit is None:
            raise ValueError(f"no data set is called {prediction.modality!r}, so its grey scale is unknown")
        self._files.append(save_heatmap(prediction, unit, self._outputs.output_dir, values))

    def _show(self, prediction: Prediction, piece: Slice, unit: np.ndarray, values: np.ndarray | None) -> None:
        """Keep what the page shows of a slice."""
        report, outputs = self._outputs.report, self._outputs
        if report is not None and self._part is None and not self._unseen:
            provenance = outputs.provenance(prediction.modality or "")
            self._part = report.begin(outputs.output_dir, self.source, provenance)
        self._try_part(lambda part: part.add(prediction, piece, unit, values))

    def _add_dicom(self, prediction: Prediction, piece: Slice) -> None:
        dicom = self._outputs.dicom
        if dicom is not None and dicom.wanted(self.source):
            if self._dicom is None:
                self._dicom = dicom.begin(self.source, self._outputs.provenance(prediction.modality or ""))
            self._dicom.add(prediction, piece)

    def _try_map(self, write: Callable[[MapWriter], None]) -> None:
        """Do something with the map, which is abandoned if that fails."""
        maps = self._maps
        if maps is not None and (fault := self._outputs.attempt("map", lambda: write(maps))):
            maps.abandon()
            self._faults.append(fault)
            self._maps = None

    def _try_part(self, write: Callable[[PartWriter], None]) -> None:
        """Do something with the page's part, which is given up if that fails."""
        part = self._part
        if part is not None and (fault := self._outputs.attempt("report pictures", lambda: write(part))):
            self._unseen.append(fault)
            self._part = None


def with_reason(prediction: Prediction, faults: Sequence[str]) -> Prediction:
    """Return the prediction with what could not be written of it added to its reason."""
    return replace(prediction, reason="; ".join([*([prediction.reason] if prediction.reason else []), *faults]) or None)
