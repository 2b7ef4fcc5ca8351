"""The ignite handler that writes what a MONAI evaluator finds: a shell round `SourceWriter`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, IterationEvents
from tqdm import tqdm

from invad_med.data.prediction import Prediction
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice
from invad_med.inference.ahead import AHEAD, Behind
from invad_med.inference.monai import Carried, stacked
from invad_med.inference.pipeline import scored, unreadable
from invad_med.inference.progress import Progress
from invad_med.inference.results import INCOMPLETE, SourceWriter
from invad_med.inference.studies import StudyJudge
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.report.writer import ReportWriter


class WriteResults:
    """Write the results of a MONAI evaluator whose network is `invad_med.inference.monai.DetectorsNetwork`.

    The engine's output has ``pred``, the maps, and ``detection``, a record for each image, where postprocessing and
    other handlers find them.

    Args:
        progress: what the evaluator goes through, ``progress.todo``, and where results lie.
        dicom, provenance: see `SourceWriter`.
        destination: DICOMweb root of a server that the DICOM objects are stored on as well, or None.
        judge: see `SourceWriter`.
        report: see `SourceWriter`.

    Raises:
        ValueError, ConnectionError, ImportError: the destination cannot be used; see
            `invad_med.archive.dicomweb.Destination`.
    """

    def __init__(
        self,
        progress: Progress,
        dicom: DicomWriter | None = None,
        provenance: Callable[[str], Provenance] | None = None,
        destination: str | None = None,
        judge: StudyJudge | None = None,
        report: ReportWriter | None = None,
    ) -> None:
        store = None
        if destination:
            from invad_med.archive.dicomweb import Destination

            store = Destination(destination)
        self.progress = progress
        self._begin = functools.partial(SourceWriter, progress, dicom, provenance, store, judge, report)
        self.writer = self._begin()

    def run(self, evaluator: Evaluator) -> None:
        """Run the evaluator that this is attached to, or write what earlier runs left if that is all there is."""
        if self.progress.todo.items:
            evaluator.run()
        else:
            self.writer.close()
            print(self.writer.summary())

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._unpack)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Engine) -> None:
        self.writer = self._begin()
        self._behind = Behind[tuple[Prediction, Slice | ReadError]](lambda pair: self.writer.take(*pair), AHEAD)
        self.bar = tqdm(total=len(self.progress.todo.items), desc="scoring", unit="slice")

    @staticmethod
    def _unpack(engine: Engine) -> None:
        output: Any = engine.state.output
        detections = output["pred"]
        if isinstance(detections, list):
            output["pred"] = stacked([torch.from_numpy(d.map)[None] for d in detections])
            output["detection"] = [Carried(d) for d in detections]

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, result in zip(batch, output, strict=True):
            piece, entry = item["slice"], item["input"]
            if isinstance(piece, ReadError):
                prediction = unreadable(entry, piece)
            else:
                prediction = scored(entry, result["detection"], result["pred"][0].numpy(force=True))
            self._behind.put((prediction, piece))
            self.bar.update()

    def _complete(self, engine: Engine) -> None:
        self._behind.close()
        self.writer.close()
        self.bar.close()
        print(self.writer.summary())

    def finish(self) -> None:
        """End the program with status 3 if anything could not be read, written or stored; the rest is there.

        Raises:
            SystemExit: with status 3.
        """
        if self.writer.incomplete:
            raise SystemExit(INCOMPLETE)
