"""What a run leaves: a writer that takes predictions with their slices and writes all that is asked for of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from invad_med.data.modalities import find_modality
from invad_med.data.prediction import Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.study import Study
from invad_med.data.transforms import to_unit
from invad_med.inference.progress import Progress, content_of
from invad_med.inference.studies import StudyJudge
from invad_med.writers.dicom.common import Result
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.heatmap import save_heatmap
from invad_med.writers.maps import write_map
from invad_med.writers.naming import printable
from invad_med.writers.overview import draw_overview
from invad_med.writers.report.writer import PAGE, ReportWriter, remove_page
from invad_med.writers.study_table import write_studies
from invad_med.writers.table import GrowingTable, write_table

logger = logging.getLogger(__name__)

INCOMPLETE = 3  # exit status of a run that could not read some of its input, or write or store some of its results


class Store(Protocol):
    """Where DICOM objects are sent, such as `invad_med.archive.dicomweb.Destination`; what fails there is counted."""

    host: str
    stored: int
    failed: Counter[str]

    def store(self, paths: Iterable[Path]) -> None:
        """Send the objects of one source."""


class SourceWriter:
    """Write heatmaps of slices, maps and DICOM objects of sources, a table, an overview and a page into a folder.

    Give it every prediction with its slice, those of one source one after the other, and close it; nothing of a source
    is held once its last slice was taken. The table is whole after every slice, also if the process is killed. What
    cannot be written costs that file alone: the table says why, the run counts as incomplete, and a later run into
    the same folder tries that source again.

    Args:
        progress: the folder, what is known of its inputs, and what an earlier run did of them, which table, overview
            and counts take up.
        dicom: writes each source's DICOM objects; None writes none.
        provenance: what the model of a modality states of itself, for the DICOM objects and the page.
        destination: where the DICOM objects are stored as well, or None.
        judge: makes studies of predictions; None withholds their verdicts.
        report: writes the page; None writes none.
    """

    def __init__(
        self,
        progress: Progress,
        dicom: DicomWriter | None = None,
        provenance: Callable[[str], Provenance] | None = None,
        destination: Store | None = None,
        judge: StudyJudge | None = None,
        report: ReportWriter | None = None,
    ) -> None:
        self.progress, self.output_dir, self.dicom = progress, progress.output_dir, dicom
        self.provenance = provenance or (lambda modality: Provenance(modality=modality))
        self.destination, self.report = destination, report
        self.judge = judge or StudyJudge()
        self.inputs = progress.todo
        self.predictions: list[Prediction] = []  # without their maps: a long run does not hold them all
        self.objects = 0
        self.refused: Counter[tuple[str, str]] = Counter()  # DICOM objects that cannot be made of a source
        self.faults: Counter[str] = Counter()  # files that could not be written
        self.studies: list[Study] = []  # of the whole run, once it is closed
        self._table: GrowingTable | None = None
        self._source: Source | None = None
        self._first = 0  # place in ``predictions`` of the first of the source in hand
        self._files: list[Path] = []  # written of it
        self._failed_before = 0
        self._pieces: dict[int, Slice | ReadError] = {}  # of the source in hand, by index
        self._scored: dict[int, Prediction] = {}  # of it, with maps

    def __enter__(self) -> SourceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, prediction: Prediction, piece: Slice | ReadError) -> None:
        """Write what is to be written of one slice, and of its source if it was the last; nothing of what is done.

        Args:
            prediction: of the slice; with its map if it was scored.
            piece: the slice, or why it could not be read.

        Raises:
            OSError: the table cannot be begun: the output folder cannot be written to.
        """
        if prediction.source.name in self.progress.earlier:
            return
        if self._table is None:
            self._table = GrowingTable(self._known, self.inputs.problems, self.output_dir, self.inputs.base)
        if prediction.source != self._source:
            self._finish_source()
            self._source, self._first = prediction.source, len(self.predictions)
            self._failed_before = self._failures()
            self._attempt("progress", lambda: self.progress.begin(prediction.source))
        self._pieces[prediction.index] = piece
        if isinstance(piece, Slice) and prediction.map is not None:
            fault = self._attempt("heatmap", lambda: self._draw(prediction, piece))
            prediction = _with_reason(prediction, [fault] if fault else [])
            self._scored[prediction.index] = prediction
        self.predictions.append(replace(prediction, map=None, content=piece.digest))
        try:
            self._table.add(prediction)
        except OSError as error:
            logger.warning("the table lacks rows until the run ends (%s)", error.strerror)
        if len(self._pieces) == prediction.source.n_slices:
            self._finish_source()

    def close(self) -> None:
        """Write what is left, the table in order, that of studies, the overview and the page, and say what went wrong.

        Raises:
            OSError: the table cannot be written.
        """
        self._finish_source()
        everything = [*self.predictions, *self._known]
        write_table(everything, self.inputs.problems, self.output_dir, self.inputs.base)
        self.studies = self.judge(everything, self.inputs.unread)
        self._attempt("table of studies", lambda: write_studies(self.studies, self.output_dir))
        self._attempt(
            "overview", lambda: draw_overview(self.studies, everything, self.inputs.problems, self.output_dir)
        )
        if self.report is None:
            remove_page(self.output_dir)
        else:
            write, inputs = self.report.write, self.inputs
            self._attempt(PAGE, lambda: write(self.output_dir, self.studies, everything, inputs.problems, inputs.base))
        self._warn()
        self.progress.close()

    @property
    def unreadable(self) -> int:
        """Number of files and slices that could not be read."""
        return len(self.inputs.problems) + sum(p.status is Status.UNREADABLE for p in self.predictions)

    @property
    def incomplete(self) -> bool:
        """Whether anything could not be read, written or stored."""
        return bool(self.unreadable or self.faults or (self.destination and self.destination.failed))

    def summary(self) -> str:
        """Return the counts and where the results are, in a few lines."""
        earlier = [p for done in self.progress.earlier.values() for p in done.predictions]
        predictions = [*self.predictions, *earlier]
        done = [p for p in predictions if p.status is Status.SCORED]
        above = sum(bool(p.abnormal) for p in done)
        stored = f", {self.destination.stored} stored on {self.destination.host}" if self.destination else ""
        count = self.objects + sum(done.objects for done in self.progress.earlier.values())
        objects = f", dicom ({count} objects{stored})" if count else ""
        faults = f"{sum(self.faults.values())} file(s) not written, " if self.faults else ""
        blank = sum(p.status is Status.NO_CONTRAST for p in predictions)
        nothing = f"{blank} without contrast, " if blank else ""
        unlike = sum(p.status is Status.UNFAMILIAR for p in predictions)
        other = f"{unlike} unlike what their model was trained on, " if unlike else ""
        besides = f"Passed over: {self.inputs.passed_over}.\n" if self.inputs.passed_over else ""
        page = f"{PAGE}, " if self.report and not any(f.startswith(PAGE) for f in self.faults) else ""
        taken = f"{len(earlier)} of them were scored by an earlier run and are unchanged.\n" if earlier else ""
        return (
            f"{len(done)} slices scored, {above} above threshold; {len(self.inputs.unscored)} without a model; "
            f"{other}{nothing}{faults}{self.unreadable} not read (reasons in scores.csv).\n"
            f"{self._of_studies}{taken}{besides}"
            f"Results in {self.output_dir.resolve()}: {page}overview.png, studies.csv, scores.csv, heatmaps, "
            f"maps{objects}. Research use only."
        )

    @property
    def _of_studies(self) -> str:
        judged = [study.abnormal for study in self.studies if study.abnormal is not None]
        rest = len(self.studies) - len(judged)
        said = [f"{sum(judged)} of {len(judged)} studies above threshold"] if judged else []
        said += [f"studies without a verdict: {rest} (reasons in studies.csv)"] if rest else []
        return f"{'; '.join(said)}.\n" if said else ""

    @property
    def _known(self) -> list[Prediction]:
        """What the table holds besides the predictions that were taken."""
        return [*self.inputs.unscored, *(p for done in self.progress.earlier.values() for p in done.predictions)]

    def _draw(self, prediction: Prediction, piece: Slice) -> None:
        modality = find_modality(prediction.modality or "")
        assert modality is not None  # it was scored by the model of one
        self._files.append(save_heatmap(prediction, to_unit(piece, modality), self.output_dir))

    def _finish_source(self) -> None:
        """Write what is written of the source in hand as a whole, note that it is done if it is, and let go of it."""
        source, pieces = self._source, self._pieces
        if source is None:
            return
        rest: dict[str, Any] = self._write_whole(source) if self._scored else {}
        if any(isinstance(piece, Slice) for piece in pieces.values()):
            fault = self._attempt("report pictures", lambda: self._add_part(source))
            self._say([fault] if fault else [], pieces)
        content = content_of([pieces[i].digest for i in sorted(pieces)])
        if content and len(pieces) == source.n_slices and self._failures() == self._failed_before:
            done = tuple(self.predictions[self._first :])
            self._attempt("progress", lambda: self.progress.finish(source, content, done, tuple(self._files), **rest))
        self._source, self._pieces, self._scored, self._files = None, {}, {}, []

    def _write_whole(self, source: Source) -> dict[str, Any]:
        """Write the map of a source and its DICOM objects; return how many these are and which were refused."""
        pieces, scored, objects, refused = self._pieces, self._scored, 0, list[tuple[str, str]]()
        indices = sorted(scored)
        fault = self._attempt("map", lambda: self._files.extend(self._map(source, pieces, scored)))
        faults = [fault] if fault else []
        slices = tuple(piece for i in indices if isinstance(piece := pieces[i], Slice))
        predictions = tuple(scored[i] for i in indices)
        study = self.judge.study(source.name, self.predictions[self._first :])
        result = Result(source, predictions, slices, self.provenance(predictions[0].modality or ""), study)
        if self.dicom is not None and self.dicom.wanted(source):
            outcome = self.dicom(result)
            self._files += outcome.written
            objects, refused = len(outcome.written), outcome.failed
            for kind, reason in outcome.faults:
                faults.append(f"DICOM {kind} {reason}")
                self.faults[faults[-1]] += 1
            if self.destination:
                self.destination.store(outcome.written)
        self.objects += objects
        self.refused.update(refused)
        self._say(faults, scored)
        return {"objects": objects, "refused": tuple(refused)}

    def _add_part(self, source: Source) -> None:
        """Write what the page shows of the source in hand."""
        if self.report is None:
            return
        predictions = [self._scored.get(p.index, p) for p in self.predictions[self._first :]]
        provenance = self.provenance(predictions[0].modality or "")
        path = self.report.add(self.output_dir, source, predictions, self._pieces, provenance)
        self._files += [path] if path else []

    def _say(self, faults: Sequence[str], indices: Container[int]) -> None:
        """Add what could not be written to the reasons of slices of the source in hand."""
        for i in range(self._first, len(self.predictions)):
            if faults and self.predictions[i].index in indices:
                self.predictions[i] = _with_reason(self.predictions[i], faults)

    def _failures(self) -> int:
        """Return how often anything could not be written or stored."""
        return sum(self.faults.values()) + (sum(self.destination.failed.values()) if self.destination else 0)

    def _map(
        self, source: Source, pieces: Mapping[int, Slice | ReadError], scored: Mapping[int, Prediction]
    ) -> list[Path]:
        maps = {i: p.map for i, p in scored.items() if p.map is not None}
        blank = np.full(next(iter(maps.values())).shape, np.nan, dtype=np.float32)
        missing = ReadError("not taken")
        written = write_map(
            source,
            [pieces.get(i, missing) for i in range(source.n_slices)],
            np.stack([maps.get(i, blank) for i in range(source.n_slices)]),
            self.output_dir,
        )
        return written if isinstance(written, list) else [written]

    def _attempt(self, what: str, write: Callable[[], object]) -> str | None:
        """Do what may fail without ending the run; return why it failed, in words that name no patient, or None."""
        try:
            write()
            return None
        except OSError as error:
            reason = error.strerror or "input or output error"
        except Exception as error:  # libraries quote values of the source, which can be the patient's name
            logger.debug("%s not written", what, exc_info=True)
            reason = type(error).__name__
        fault = f"{what} not written ({reason})"
        self.faults[fault] += 1
        return fault

    def _warn(self) -> None:
        for name, reason in self.inputs.unread:
            logger.warning("not read: %s: %s", printable(name), reason)
        scored = (p for p in [*self.predictions, *self._known] if p.status is Status.SCORED)
        for reason in dict.fromkeys(p.reason for p in scored if p.reason):
            logger.warning("%s", reason)
        earlier = Counter(pair for done in self.progress.earlier.values() for pair in done.refused)
        for (kind, reason), count in (earlier + self.refused).items():
            logger.warning("DICOM %s not written for %d source(s): %s", kind, count, reason)
        if self.destination:
            for reason, count in self.destination.failed.items():
                logger.warning("%d DICOM object(s) not stored on %s: %s", count, self.destination.host, reason)


def _with_reason(prediction: Prediction, faults: Sequence[str]) -> Prediction:
    """Return the prediction with what could not be written of it added to its reason."""
    return replace(prediction, reason="; ".join([*([prediction.reason] if prediction.reason else []), *faults]) or None)
