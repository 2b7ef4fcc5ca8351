"""From a source's predictions to the DICOM objects that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType

from PIL import Image

from invad_med.data.modalities import find_modality
from invad_med.data.prediction import Prediction
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.study import Study
from invad_med.data.transforms import to_unit
from invad_med.readers.dicom.stored import StoredImage, stored_image
from invad_med.readers.spool import Spool
from invad_med.writers.dicom.account import Account, map_of
from invad_med.writers.dicom.anonymous import Anonymiser, own_secret
from invad_med.writers.dicom.blending import write_blending
from invad_med.writers.dicom.common import Author, Result, quiet
from invad_med.writers.dicom.evidence import Evidence, Refused
from invad_med.writers.dicom.overlay import OverlayWriter
from invad_med.writers.dicom.parametric_map import ParametricMap, make_parametric_map, write_parametric_map
from invad_med.writers.dicom.presentation_state import write_presentation_state
from invad_med.writers.dicom.report import History, write_report
from invad_med.writers.dicom.secondary_capture import CaptureWriter
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
        history: by Series Instance UID the earlier reports of a series; not of anonymous objects.

    Raises:
        ValueError: an unknown kind; no secret.
    """

    def __init__(
        self,
        output_dir: str | Path,
        kinds: Collection[str] | str = (),
        anonymize: bool = False,
        deterministic_uids: bool = False,
        history: Mapping[str, History] | None = None,
    ) -> None:
        kinds = kinds.replace(",", " ").split() if isinstance(kinds, str) else list(kinds or ())
        unknown = [k for k in kinds if k not in KINDS]
        if unknown:
            raise ValueError(f"dicom_out holds {unknown[0]!r}; object types are {', '.join(KINDS)}")
        self.folder, self.deterministic = Path(output_dir) / "dicom", deterministic_uids
        self.history: Mapping[str, History] = history or {}
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


class DicomJob:
    """The objects of one source in the making: give it every scored slice, then finish it.

    Neither pixels nor map of a slice are held once it was added, but the map with the highest value. What objects need
    of them when the source is complete waits in files without names in the folder of the run's objects. As a context
    manager it lets go of everything if it is left before it was finished.

    Args:
        writer: whose options hold.
        source, provenance: as `DicomWriter.begin`.
    """

    def __init__(self, writer: DicomWriter, source: Source, provenance: Provenance) -> None:
        self._writer, self.source = writer, source
        self._failed: dict[DicomKind, tuple[str, bool]] = {}  # why, and whether it could be made
        self._file: StoredImage | None = None  # of several frames
        dicom, several_frames = source.kind == "dicom", len(source.paths) == 1 < source.n_slices
        waiting = {*_OF_MAPS, DicomKind.OVERLAY} if several_frames else set(_OF_MAPS)
        pictures = Spool(0, writer.folder)
        maps = Spool(0, writer.folder) if dicom and waiting & set(writer.kinds) else None
        secret = writer.anonymise.secret if writer.anonymise else ""
        self.folder: Path = fitted(writer.folder, source.name)
        self.account, self.evidence = Account(source, provenance, maps), Evidence(source, writer.anonymise)
        self.author: Author = Author(self.account, self.evidence, writer.deterministic, secret)
        self.overlay = OverlayWriter(self.author, self.folder)
        self.capture: CaptureWriter = CaptureWriter(self.author, self.folder, pictures)
        self._stack = ExitStack()
        for spool in (pictures, maps):
            if spool is not None:
                self._stack.callback(spool.close)
        self._stack.callback(self.overlay.close)

    def __enter__(self) -> DicomJob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, prediction: Prediction, piece: Slice) -> None:
        """Take one scored slice; what cannot be written of it, `finish` tells.

        Args:
            prediction: of the slice, by ascending index, with its map, which is asked for once but for a capture.
            piece: the slice.
        """
        with quiet():
            self._attempt(self._writer.kinds, lambda: self._take(prediction, piece))

    def finish(self, study: Study) -> Outcome:
        """Write what is left and put all objects in place; one that cannot be written stops no other.

        Args:
            study: what the slices come to.
        """
        outcome = Outcome()
        if not self.account.slices and not self._failed:
            return outcome
        with quiet():
            self._attempt(self._writer.kinds, lambda: self._complete(study))
            for kind in self._writer.kinds:
                self._attempt([kind], partial(self._write, kind, outcome.written))
        outcome.failed = [(kind, self._failed[kind][0]) for kind in self._writer.kinds if kind in self._failed]
        outcome.faults = [(kind, reason) for kind, reason in outcome.failed if self._failed[DicomKind(kind)][1]]
        self.close()
        return outcome

    def close(self) -> None:
        """Let go of what was taken, and remove what is not in place yet."""
        self._stack.close()

    @cached_property
    def parametric_map(self) -> ParametricMap:
        return make_parametric_map(self.author)

    @property
    def history(self) -> History | None:
        """Earlier reports of the series."""
        return self._writer.history.get(str(self.evidence.first.SeriesInstanceUID))

    def _take(self, prediction: Prediction, piece: Slice) -> None:
        header, values = self.evidence.add(piece), map_of(prediction)
        slice_ = self.account.add(prediction, values)
        if self.evidence.stored and values.shape != self.account.shape:
            raise Refused("slices of the source differ in size, so that no object can hold them all")
        self.author.tell(header, slice_, piece, values)
        maps = self.account.maps
        if maps is not None:
            self._attempt([*_OF_MAPS, DicomKind.OVERLAY], lambda: maps.append(values))
        if self.evidence.frames is not None:
            self._file = stored_image(piece)
        elif header is not None:
            name = f"overlay_s{slice_.index:03d}.dcm" if len(self.source.paths) > 1 else "overlay.dcm"
            self._attempt(
                [DicomKind.OVERLAY],
                lambda: self.overlay.add(stored_image(piece), header, [values > self.account.limit], name),
            )
        self._attempt([DicomKind.SECONDARY_CAPTURE], lambda: self.capture.add(self._draw(prediction, piece)))

    def finish_overlay(self) -> list[Path]:
        """Put overlays in place; that of a multi-frame file, which holds all its frames, is written here."""
        maps = self.account.maps
        if self._file is not None and maps is not None:
            order = self.evidence.in_stored_order(range(len(maps)))
            header = deepcopy(self.evidence.first)
            self.overlay.add(self._file, header, (maps[i] > self.account.limit for i in order))
        return self.overlay.finish()

    def _write(self, kind: DicomKind, written: list[Path]) -> None:
        written += _WRITERS[kind](self)

    def _complete(self, study: Study) -> None:
        self.evidence.complete()
        self.author.seal(study)
        if not self.evidence.stored:
            self.evidence.first.StudyInstanceUID = self.author.uid("study")
            self.evidence.first.SeriesInstanceUID = self.author.uid("source")

    def _draw(self, prediction: Prediction, piece: Slice) -> Image.Image:
        modality = find_modality(prediction.modality or "")
        if modality is None:
            raise Refused(f"no data set is called {prediction.modality!r}, so its grey scale is unknown")
        if self._writer.anonymise:  # the name may be that of a folder, or hold a digest of the source's UID
            prediction = replace(prediction, source=replace(prediction.source, name="image"))
        return draw_heatmap(prediction, to_unit(piece, modality), reduce=False)

    def _attempt(self, kinds: Collection[DicomKind], do: Callable[[], object]) -> None:
        """Do what these kinds need, unless they failed before; if it fails, they do."""
        kinds = [kind for kind in kinds if kind in self._writer.kinds and kind not in self._failed]
        if not kinds:
            return
        fault = False
        try:
            do()
            return
        except (Refused, ReadError) as error:
            reason = str(error)
        except OSError as error:
            reason, fault = f"cannot be written ({error.strerror or 'input or output error'})", True
        except Exception as error:  # libraries quote values, which can be the patient's name
            reason = f"the source breaks the standard ({type(error).__name__})"
        self._failed |= dict.fromkeys(kinds, (reason, fault))


def _referring(write: Callable[[DicomJob], list[Path]]) -> Callable[[DicomJob], list[Path]]:
    def checked(job: DicomJob) -> list[Path]:
        if job.source.kind != "dicom":
            raise Refused("the input never was DICOM: there is no image to refer to; ask for secondary_capture")
        return write(job)

    return checked


_OF_MAPS = (DicomKind.PARAMETRIC_MAP, DicomKind.SEGMENTATION, DicomKind.PRESENTATION_STATE, DicomKind.BLENDING)
_WRITERS: dict[DicomKind, Callable[[DicomJob], list[Path]]] = {
    DicomKind.OVERLAY: _referring(lambda job: job.finish_overlay()),
    DicomKind.PARAMETRIC_MAP: _referring(lambda job: write_parametric_map(job.parametric_map, job.author, job.folder)),
    DicomKind.SEGMENTATION: _referring(lambda job: write_segmentation(job.author, job.folder)),
    DicomKind.SECONDARY_CAPTURE: lambda job: job.capture.finish(),
    DicomKind.PRESENTATION_STATE: _referring(lambda job: write_presentation_state(job.author, job.folder)),
    DicomKind.BLENDING: _referring(lambda job: write_blending(job.author, job.folder, job.parametric_map.header)),
    DicomKind.REPORT: _referring(lambda job: write_report(job.author, job.folder, job.history)),
}
KINDS = tuple(DicomKind)
