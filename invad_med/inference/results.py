"""What a run leaves: a writer that takes predictions with their slices and writes all that is asked for of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from invad_med.data.prediction import Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice
from invad_med.data.study import Study
from invad_med.inference.progress import Progress, content_of
from invad_med.inference.source_files import Outputs, SourceFiles, with_reason
from invad_med.inference.studies import StudyJudge
from invad_med.writers.dicom.export import DicomWriter
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

    Give it every prediction with its slice, those of one source one after the other and in order, and close it. What is
    written of a slice is written when it is taken: neither its pixels nor its map are held afterwards. The table is
    whole after every slice, also if the process is killed; files of several slices appear when the last of their source
    was taken. What cannot be written costs that file alone: the table says why, the run counts as incomplete, and a
    later run into the same folder tries that source again.

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
        self._outputs = Outputs(self.output_dir, self._attempt, self.provenance, dicom, report)
        self._hand: SourceFiles | None = None  # of the source in hand
        self._first = 0  # place in ``predictions`` of the first of it
        self._failed_before = 0

    def __enter__(self) -> SourceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

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
        hand = self._hand
        if hand is None or (prediction.source is not hand.source and prediction.source != hand.source):
            self._finish_source()
            hand = self._hand = SourceFiles(prediction.source, self._outputs)
            self._first, self._failed_before = len(self.predictions), self._failures()
            self._attempt("progress", lambda: self.progress.begin(prediction.source))
        prediction = hand.take(prediction, piece)
        self.predictions.append(replace(prediction, map=None, content=piece.digest))
        try:
            self._table.add(self.predictions[-1])
        except OSError as error:
            logger.warning("the table lacks rows until the run ends (%s)", error.strerror)
        if len(hand.digests) == prediction.source.n_slices:
            self._finish_source()

    def close(self) -> None:
        """Write what is left, the table in order, that of studies, overview and page, and say what went wrong."""
        self._finish_source()
        everything = [*self.predictions, *self._known]
        problems, base = self.inputs.problems, self.inputs.base
        if fault := self._attempt("table", lambda: write_table(everything, problems, self.output_dir, base)):
            logger.warning("%s: what is there of it is in the order of the run", fault)
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

    def abandon(self) -> None:
        """Let go of a run that did not come to its end: what is of whole sources stays, and a later run goes on."""
        self._abandon_source()
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

    def _finish_source(self) -> None:
        """Write what is written of the source in hand as a whole, note that it is done if it is, and let go of it."""
        hand = self._hand
        if hand is not None and len(hand.digests) < hand.source.n_slices:
            self.faults["sources of which not all slices came, so that nothing is written of them as a whole"] += 1
            self._abandon_source()
        hand, self._hand = self._hand, None
        if hand is None:
            return
        source, predictions = hand.source, self.predictions[self._first :]
        written = hand.finish(self.judge.study(source.name, predictions) if hand.scored else None)
        faults, dicom = list(written.faults), written.dicom
        for kind, reason in dicom.faults:
            faults.append(f"DICOM {kind} {reason}")
            self.faults[faults[-1]] += 1
        if self.destination and dicom.written:
            self.destination.store(dicom.written)
        self.objects += len(dicom.written)
        self.refused.update(dicom.failed)
        self._say(faults, hand.scored)
        self._say(written.unseen, hand.digests)
        content = content_of([hand.digests[i] for i in sorted(hand.digests)])
        if content and self._failures() == self._failed_before:
            done = tuple(self.predictions[self._first :])
            counts = len(dicom.written), tuple(dicom.failed)
            self._attempt("progress", lambda: self.progress.finish(source, content, done, written.files, *counts))

    def _abandon_source(self) -> None:
        hand, self._hand = self._hand, None
        if hand is not None:
            hand.abandon()

    def _say(self, faults: Sequence[str], indices: Container[int]) -> None:
        """Add what could not be written to the reasons of slices of the source in hand."""
        for i in range(self._first, len(self.predictions)):
            if faults and self.predictions[i].index in indices:
                self.predictions[i] = with_reason(self.predictions[i], faults)

    def _failures(self) -> int:
        """Return how often anything could not be written or stored."""
        return sum(self.faults.values()) + (sum(self.destination.failed.values()) if self.destination else 0)

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
