"""From a source's predictions to the DICOM objects that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import TracebackType

from PIL import Image
from pydicom.dataset import Dataset

from invad_med.data.modalities import find_modality
from invad_med.data.prediction import Prediction
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.study import Study
from invad_med.data.transforms import to_unit
from invad_med.writers.dicom.anonymous import Anonymiser, own_secret
from invad_med.writers.dicom.blending import write_blending
from invad_med.writers.dicom.common import Author, Result, quiet
from invad_med.writers.dicom.evidence import Refused, evidence_of, no_evidence
from invad_med.writers.dicom.overlay import write_overlay
from invad_med.writers.dicom.parametric_map import make_parametric_map, save_parametric_map
from invad_med.writers.dicom.presentation_state import write_presentation_state
from invad_med.writers.dicom.report import write_report
from invad_med.writers.dicom.secondary_capture import write_secondary_capture
from invad_med.writers.dicom.segmentation import write_segmentation
from invad_med.writers.heatmap import draw_heatmap
from invad_med.writers.naming import fitted


class DicomKind(str, Enum):
    """An object that can be written; a new one is a module, a row here and one in ``_WRITERS``."""

    OVERLAY = "overlay"
    PARAMETRIC_MAP = "parametric_map"
    SEGMENTATION = "segmentation"
    SECONDARY_CAPTURE = "secondary_capture"
    PRESENTATION_STATE = "presentation_state"
    BLENDING = "blending"
    REPORT = "report"

    __str__ = str.__str__


@dataclass
class Outcome:
    """What became of one source.

    Args:
        written: files in place.
        failed: object type and why it was not written; names neither file nor patient.
        faults: those of ``failed`` that could be made but not written, as on a full disk.
    """

    written: list[Path] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


class DicomWriter:
    """Write DICOM objects about results below ``<output_dir>/dicom/<source.name>/``.

    Args:
        output_dir: folder of the run.
        kinds: of `KINDS`; ``blending`` brings ``parametric_map`` with it, which it refers to.
        anonymize: leave no identity in the objects: see `invad_med.writers.dicom.anonymous`.
        deterministic_uids: an object that is made again, of the same source with the same result, has the same UIDs;
            one that differs in anything but the time of its making has others. With ``anonymize`` they depend on the
            user's secret too, see `invad_med.writers.dicom.anonymous.own_secret`.

    Raises:
        ValueError: an unknown kind; no secret.
    """

    def __init__(
        self,
        output_dir: str | Path,
        kinds: Collection[str] | str = (),
        anonymize: bool = False,
        deterministic_uids: bool = False,
    ) -> None:
        kinds = kinds.replace(",", " ").split() if isinstance(kinds, str) else list(kinds or ())
        unknown = [k for k in kinds if k not in KINDS]
        if unknown:
            raise ValueError(f"dicom_out holds {unknown[0]!r}; object types are {', '.join(KINDS)}")
        self.folder, self.deterministic = Path(output_dir) / "dicom", deterministic_uids
        self.kinds = tuple(k for k in KINDS if k in kinds or (k == "parametric_map" and "blending" in kinds))
        self.anonymise = (Anonymiser(own_secret()) if deterministic_uids else Anonymiser()) if anonymize else None

    @property
    def secret_mark(self) -> str:
        """What tells objects under one secret of the user's own from those under another; empty without such a one."""
        return self.anonymise.mark if self.anonymise and self.deterministic else ""

    def wanted(self, source: Source) -> bool:
        """Return whether anything is to be written: of an input that never was DICOM, only a capture can be made."""
        return bool(self.kinds) and (source.kind == "dicom" or "secondary_capture" in self.kinds)

    def begin(self, source: Source, provenance: Provenance) -> DicomJob:
        """Begin the objects of one source; nothing is written before its first slice is added.

        Args:
            source: the file or series.
            provenance: of the model that scores it.
        """
        return DicomJob(self, source, provenance)

    def __call__(self, result: Result) -> Outcome:
        """Write all objects of one source; one that cannot be written stops no other.

        Args:
            result: with at least one prediction.
        """
        with self.begin(result.source, result.provenance) as job:
            for prediction, piece in zip(result.predictions, result.pieces, strict=True):
                job.add(prediction, piece)
            return job.finish(result.study)

    def _write(self, result: Result) -> Outcome:
        outcome = Outcome()
        with quiet():
            try:
                folder = fitted(self.folder, result.source.name)
                job = _Job(result, self._author(result), folder, anonymous=self.anonymise is not None)
            except (Refused, ReadError) as error:
                outcome.failed = [(kind, str(error)) for kind in self.kinds]
                return outcome
            except Exception as error:
                outcome.failed = [(kind, _unusual(error)) for kind in self.kinds]
                return outcome
            for kind in self.kinds:
                try:
                    outcome.written += _WRITERS[kind](job)
                except (Refused, ReadError) as error:
                    outcome.failed.append((kind, str(error)))
                except OSError as error:
                    outcome.faults.append((kind, f"cannot be written ({error.strerror or 'input or output error'})"))
                    outcome.failed.append(outcome.faults[-1])
                except Exception as error:
                    outcome.failed.append((kind, _unusual(error)))
        return outcome

    def _author(self, result: Result) -> Author:
        secret = self.anonymise.secret if self.anonymise else ""
        if result.source.kind == "dicom":
            return Author(result, evidence_of(result.pieces, self.anonymise), self.deterministic, secret)
        author = Author(result, no_evidence(), self.deterministic, secret)
        author.evidence.first.StudyInstanceUID = author.uid("study")
        author.evidence.first.SeriesInstanceUID = author.uid("source")
        return author


class DicomJob:
    """The objects of one source in the making: give it every scored slice, then finish it.

    As a context manager it lets go of everything if it is left before it was finished.

    Args:
        writer: whose options hold.
        source, provenance: as `DicomWriter.begin`.
    """

    def __init__(self, writer: DicomWriter, source: Source, provenance: Provenance) -> None:
        self._writer, self._source, self._provenance = writer, source, provenance
        self._predictions: list[Prediction] = []
        self._pieces: list[Slice] = []

    def __enter__(self) -> DicomJob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, prediction: Prediction, piece: Slice) -> None:
        """Take one scored slice, by ascending index; what cannot be written of it, `finish` tells.

        Args:
            prediction: of the slice, with its map, which is asked for once.
            piece: the slice.
        """
        self._predictions.append(prediction)
        self._pieces.append(piece)

    def finish(self, study: Study) -> Outcome:
        """Write what is left and put all objects in place; one that cannot be written stops no other.

        Args:
            study: what the slices come to.
        """
        if not self._predictions:
            return Outcome()
        result = Result(self._source, tuple(self._predictions), tuple(self._pieces), self._provenance, study)
        return self._writer._write(result)

    def close(self) -> None:
        """Let go of what was taken, and remove what is not in place yet."""
        self._predictions, self._pieces = [], []


def _unusual(error: Exception) -> str:
    """Return what to say of an error that nobody foresaw: libraries quote values, which can be the patient's name."""
    return f"the source breaks the standard ({type(error).__name__})"


@dataclass(frozen=True)
class _Job:
    result: Result
    author: Author
    folder: Path
    anonymous: bool = False

    @cached_property
    def parametric_map(self) -> Dataset:
        return make_parametric_map(self.author)

    @property
    def pictures(self) -> list[Image.Image]:
        return [self._draw(i) for i in range(len(self.result.predictions))]

    def _draw(self, position: int) -> Image.Image:
        prediction = self.result.predictions[position]
        modality = find_modality(prediction.modality or "")
        if modality is None:
            raise Refused(f"no data set is called {prediction.modality!r}, so its grey scale is unknown")
        if self.anonymous:  # the name may be that of a folder, or hold a digest of the source's UID
            prediction = replace(prediction, source=replace(prediction.source, name="image"))
        return draw_heatmap(prediction, to_unit(self.result.pieces[position], modality), reduce=False)


def _referring(write: Callable[[_Job], list[Path]]) -> Callable[[_Job], list[Path]]:
    def checked(job: _Job) -> list[Path]:
        if job.result.source.kind != "dicom":
            raise Refused("the input never was DICOM: there is no image to refer to; ask for secondary_capture")
        return write(job)

    return checked


_WRITERS: dict[DicomKind, Callable[[_Job], list[Path]]] = {
    DicomKind.OVERLAY: _referring(lambda job: write_overlay(job.author, job.folder)),
    DicomKind.PARAMETRIC_MAP: _referring(lambda job: [save_parametric_map(job.parametric_map, job.author, job.folder)]),
    DicomKind.SEGMENTATION: _referring(lambda job: write_segmentation(job.author, job.folder)),
    DicomKind.SECONDARY_CAPTURE: lambda job: write_secondary_capture(job.author, job.folder, job.pictures),
    DicomKind.PRESENTATION_STATE: _referring(lambda job: write_presentation_state(job.author, job.folder)),
    DicomKind.BLENDING: _referring(lambda job: write_blending(job.author, job.folder, job.parametric_map)),
    DicomKind.REPORT: _referring(lambda job: write_report(job.author, job.folder)),
}
KINDS = tuple(DicomKind)
