"""What a run leaves: an ignite handler that gathers predictions and writes them as they come."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from tqdm import tqdm

from invad_med.data.prediction import Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Source
from invad_med.data.transforms import to_unit
from invad_med.inference.inputs import Input, Inputs
from invad_med.inference.monai import Carried
from invad_med.inference.pipeline import scored, unreadable
from invad_med.readers.sources import read_slice
from invad_med.writers.dicom.common import Result
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.heatmap import draw_heatmap, save_heatmap
from invad_med.writers.maps import write_map
from invad_med.writers.overview import Overview
from invad_med.writers.table import write_table

logger = logging.getLogger(__name__)

INCOMPLETE = 3  # exit status of a run that could not read some of its input


class WriteResults:
    """Write heatmaps of slices, maps and DICOM objects of sources, a table and an overview below ``output_dir``.

    Attach it to a MONAI evaluator whose network is `invad_med.detection.Detectors`; the engine's output then has
    ``pred``, the maps, and ``detection``, a record for each image, where postprocessing and other handlers find them. A
    source's map is written when its last slice is there.

    Args:
        inputs: what the evaluator's items refer to.
        output_dir: folder, made if need be.
        dicom: writes each source's DICOM objects when its last slice is there; None writes none.
        provenance: what is known of the model of a data set, for the DICOM objects.
        destination: DICOMweb root of a server that the DICOM objects are stored on as well, or None.

    Raises:
        ValueError, ConnectionError, ImportError: the destination cannot be used; see
            `invad_med.archive.dicomweb.Destination`.
    """

    def __init__(
        self,
        inputs: Inputs,
        output_dir: str | Path,
        dicom: DicomWriter | None = None,
        provenance: Callable[[str], Provenance] | None = None,
        destination: str | None = None,
    ) -> None:
        self.inputs, self.output_dir, self.dicom = inputs, Path(output_dir), dicom
        self.provenance = provenance or (lambda modality: Provenance(modality=modality))
        self.destination = None
        if destination:
            from invad_med.archive.dicomweb import Destination

            self.destination = Destination(destination)
        self.objects = 0
        self.refused: Counter[tuple[str, str]] = Counter()
        self.predictions: list[Prediction] = []
        self.overview = Overview()
        self._current: Source | None = None
        self._scored: dict[int, Prediction] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._unpack)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Engine) -> None:
        self.predictions = []
        self.bar = tqdm(total=len(self.inputs.items), desc="scoring", unit="slice")

    @staticmethod
    def _unpack(engine: Engine) -> None:
        output: Any = engine.state.output
        detections = output["pred"]
        if isinstance(detections, list):
            output["pred"] = torch.stack([d.map for d in detections])[:, None]
            output["detection"] = [Carried(d) for d in detections]

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            wanted = self.inputs.items[int(item["item"])]
            if wanted.source != self._current:
                self._flush()
                self._current = wanted.source
            self._take(wanted, item, found)
            self.bar.update()

    def _take(self, wanted: Input, item: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        if item["problem"]:
            self.predictions.append(unreadable(wanted, item["problem"]))
            return
        prediction = scored(wanted, found["detection"], found["pred"])
        assert prediction.map is not None
        unit = to_unit(read_slice(wanted.source, wanted.index), wanted.modality)
        picture = draw_heatmap(prediction, unit)
        save_heatmap(prediction, unit, self.output_dir, picture)
        self.overview.add(prediction, picture)
        self._scored[wanted.index] = prediction
        self.predictions.append(dataclasses.replace(prediction, map=None))  # a long run does not hold them all

    def _flush(self) -> None:
        """Write the map of the source that is complete, and its DICOM objects."""
        if self._current is not None and self._scored:
            maps = {index: p.map for index, p in self._scored.items() if p.map is not None}
            blank = np.full(next(iter(maps.values())).shape, np.nan, dtype=np.float32)
            whole = [maps.get(i, blank) for i in range(self._current.n_slices)]
            write_map(self._current, np.stack(whole), self.output_dir)
            self._export(self._current)
        self._scored = {}

    def _export(self, source: Source) -> None:
        predictions = tuple(self._scored[i] for i in sorted(self._scored))
        result = Result(source, predictions, self.provenance(predictions[0].modality or ""))
        if self.dicom is not None and self.dicom.wanted(result):
            outcome = self.dicom(result)
            self.objects += len(outcome.written)
            self.refused.update(outcome.failed)
            if self.destination:
                self.destination.store(outcome.written)

    def _complete(self, engine: Engine) -> None:
        self._flush()
        self.bar.close()
        everything = [*self.predictions, *self.inputs.unscored]
        write_table(everything, self.inputs.problems, self.output_dir, base=self.inputs.base)
        self.overview.save(self.output_dir / "overview.png", everything, self.inputs.problems)
        for problem in self.inputs.problems:
            logger.warning("not read: %s: %s", problem.path.relative_to(self.inputs.base), problem.reason)
        for reason in dict.fromkeys(p.reason for p in self.predictions if p.status is Status.SCORED and p.reason):
            logger.warning("%s", reason)
        for (kind, reason), count in self.refused.items():
            logger.warning("DICOM %s not written for %d source(s): %s", kind, count, reason)
        if self.destination:
            for reason, count in self.destination.failed.items():
                logger.warning("%d DICOM object(s) not stored on %s: %s", count, self.destination.host, reason)
        print(self.summary())

    @property
    def unreadable(self) -> int:
        """Number of files and slices that could not be read."""
        return len(self.inputs.problems) + sum(p.status is Status.UNREADABLE for p in self.predictions)

    def summary(self) -> str:
        """Return the counts and where the results are, in a few lines."""
        done = [p for p in self.predictions if p.status is Status.SCORED]
        above = sum(p.score is not None and p.threshold is not None and p.score > p.threshold for p in done)
        objects = f", dicom ({self.objects} objects{self._stored()})" if self.objects else ""
        return (
            f"{len(done)} slices scored, {above} above threshold; {len(self.inputs.unscored)} without a model; "
            f"{self.unreadable} not read (reasons in scores.csv).\nResults in {self.output_dir.resolve()}: "
            f"overview.png, scores.csv, heatmaps, maps{objects}. "
            "Research use only."
        )

    def _stored(self) -> str:
        return f", {self.destination.stored} stored on {self.destination.host}" if self.destination else ""

    def finish(self) -> None:
        """End the program with status 3 if anything could not be read or stored; the rest is written all the same.

        Raises:
            SystemExit: with status 3.
        """
        if self.unreadable or (self.destination and self.destination.failed):
            raise SystemExit(INCOMPLETE)
