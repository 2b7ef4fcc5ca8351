"""DICOM headers at scan time: is it an image, which stack does it belong to, whom must its name not mention."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from invad_med.data.own_results import OwnResult
from invad_med.data.slices import ReadError
from invad_med.readers.decoding import MOST_PACKED, reading, without_warnings
from invad_med.readers.dicom import fitness
from invad_med.readers.dicom.frames import frame_stacks, orientation_of
from invad_med.readers.dicom.own import TAGS, is_own
from invad_med.readers.dicom.stacks import Place, Stack, Value, divide, normal_of
from invad_med.readers.dicom.values import code, name_of, number, numbers, text, texts

_NOT_IMAGES = {SegmentationStorage, ParametricMapStorage, RTDoseStorage}  # have pixel data, but no picture in it
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "BodyPartExamined", "SeriesInstanceUID", "InstanceNumber",
    "ImageOrientationPatient", "ImagePositionPatient", "Rows", "Columns", "NumberOfFrames",
    "PatientName", "PatientID", "OtherPatientIDs", "StudyInstanceUID", "FrameOfReferenceUID",
    "Laterality",
    "PixelSpacing", "SliceThickness", "ImageType", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentDate", "ContentTime", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier",
    "TriggerTime", "DiffusionBValue", "DiffusionGradientOrientation", "InversionTime", "FlipAngle", "RepetitionTime",
    "KVP", "ConvolutionKernel", "SequenceName", "ComplexImageComponent", "FrameReferenceTime", "StackID",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VolumetricProperties", "ViewPosition",
    "PatientOrientation", "PresentationIntentType", "PresentationLUTShape", "PhotometricInterpretation",
    "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DimensionIndexSequence",
]  # fmt: skip
_TRAITS = {
    "echo": "EchoNumbers", "echo_time": "EchoTime", "time": "TemporalPositionIdentifier", "b": "DiffusionBValue",
    "inversion_time": "InversionTime", "trigger": "TriggerTime", "frame_time": "FrameReferenceTime",
    "flip": "FlipAngle", "repetition": "RepetitionTime", "kvp": "KVP", "thickness": "SliceThickness",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What scanning needs of one DICOM image file.

    Args:
        path: the file.
        modality: (0008,0060), or None.
        body_part: (0018,0015) in upper case, or None.
        series: Series Instance UID (0020,000E), or empty.
        study: Study Instance UID (0020,000D), or empty.
        instance: SOP Instance UID (0008,0018), or empty.
        syntax: Transfer Syntax UID (0002,0010), or empty.
        subject: digest of patient, study and kind of image, which are one within a series that keeps to the standard.
        reference: Frame of Reference UID (0020,0052), in which positions have a meaning, or empty.
        frames: Number of Frames (0028,0008), at least 1.
        shape: Rows and Columns.
        place: where a single-frame image lies and what tells it from others there, or None without geometry.
        stacks: acquisitions among the frames of a multi-frame file; empty of a single-frame one.
        notes: sentences for the table of each of ``stacks``, else of the file: `invad_med.readers.dicom.fitness`.
        unfit: likewise why it must not be scored, or None.
        ascends: likewise whether its slices go from feet to head.
        identity: parts of the patient's name and IDs, in lower case; no output may be named by them.
    """

    path: Path
    modality: str | None
    body_part: str | None
    series: str
    study: str
    instance: str
    syntax: str
    subject: str
    reference: str
    frames: int
    shape: tuple[int, int]
    place: Place | None
    stacks: tuple[Stack, ...]
    notes: tuple[tuple[str, ...], ...]
    unfit: tuple[str | None, ...]
    ascends: tuple[bool, ...]
    identity: frozenset[str]

    @property
    def orientation(self) -> tuple[float, ...] | None:
        """Image Orientation (Patient), or None where the geometry is missing."""
        return self.place.orientation if self.place else None

    @property
    def position(self) -> float:
        """Image Position (Patient) along the slice normal in mm, 0 where the geometry is missing."""
        if self.place is None or self.place.orientation is None:
            return 0.0
        return float(np.dot(normal_of(self.place.orientation), self.place.position))


@dataclass(frozen=True)
class HeaderStack:
    """The files of one acquisition in order of position, or one file with some or all of its frames.

    Args:
        headers: the files.
        label: what tells it from others of its series or file; empty where there are none.
        frames: stored frames of the one file, 0-based, in order; None for all of them, in the reader's order.
        localiser: planes of its series point in three directions.
        number: which of the file's ``stacks`` it is.
    """

    headers: tuple[Header, ...]
    label: str = ""
    frames: tuple[int, ...] | None = None
    localiser: bool = False
    number: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What is noted of any of the files."""
        return tuple(dict.fromkeys(note for header in self.headers for note in header.notes[self.number]))

    @property
    def unfit(self) -> str | None:
        """Why the stack must not be scored, or None."""
        reasons = [header.unfit[self.number] for header in self.headers]
        return next((reason for reason in reasons if reason), fitness.PLANES if self.localiser else None)

    @property
    def ascends(self) -> bool:
        """Whether the slices go from feet to head, as far as the files say where they lie."""
        return all(header.ascends[self.number] for header in self.headers)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        if self.frames is not None:
            return len(self.frames)
        return self.headers[0].frames if len(self.headers) == 1 else len(self.headers)


def read_header(path: Path, file: BinaryIO | None = None) -> Header | None:
    """Read one file's header, pixel data left alone; None for a DICOMDIR.

    Args:
        path: the file.
        file: the same file where it is open already, at its beginning; it stays open.

    Raises:
        OwnResult: written by this program.
        ReadError: not DICOM, no image in it (reports, structure sets, waveforms, segmentations), or damaged.
    """
    with reading("DICOM header"):
        if path.stat().st_size == 0:
            raise ReadError("empty file")
        ds = pydicom.dcmread(file or path, force=True, stop_before_pixels=True, specific_tags=[*_TAGS, *TAGS])
        sop_class = ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID")
        if sop_class == MediaStorageDirectoryStorage:
            return None
        if is_own(ds):
            raise OwnResult("result of an earlier run")
        if not sop_class and "Rows" not in ds:
            raise ReadError("not a DICOM file, or its header is damaged")
        if sop_class in _NOT_IMAGES or "Rows" not in ds or "Columns" not in ds:
            raise ReadError(f"DICOM object without an image ({name_of(sop_class, 'class')})")
        frames = number_of_frames(ds)
        if frames > 1:
            _require_room(ds, frames, path.stat().st_size)
        acquisitions = tuple(frame_stacks(ds, frames)) if frames > 1 else ()
        planes = [o for s in acquisitions for f in s.members if (o := orientation_of(ds, f)) is not None]
        localiser = fitness.PLANES if fitness.is_localiser(planes) else None
        parts = [s.members for s in acquisitions] or [(0,)]
        plain = numbers(ds, "ImageOrientationPatient", 6)
        stated = [plain or orientation_of(ds, part[0]) for part in parts]
        return Header(
            path=path,
            modality=code(ds, "Modality"),
            body_part=code(ds, "BodyPartExamined"),
            series=str(ds.get("SeriesInstanceUID") or ""),
            study=str(ds.get("StudyInstanceUID") or ""),
            instance=str(ds.get("SOPInstanceUID") or ""),
            syntax=str(ds.file_meta.get("TransferSyntaxUID") or ""),
            subject=_subject(ds),
            reference=str(ds.get("FrameOfReferenceUID") or ""),
            frames=frames,
            shape=(int(ds.Rows), int(ds.Columns)),
            place=_place(ds, path) if frames == 1 else None,
            stacks=acquisitions,
            notes=tuple(fitness.notes(ds, o, part) for o, part in zip(stated, parts, strict=True)),
            unfit=tuple(localiser or fitness.unfit(ds, part) for part in parts),
            ascends=tuple(fitness.ascends(o) for o in stated),
            identity=_identity(ds),
        )


def _require_room(ds: Dataset, frames: int, size: int) -> None:
    """Raise ReadError if a file of ``size`` bytes cannot hold so many frames: each would be a row of the table."""
    syntax = UID(str(ds.file_meta.get("TransferSyntaxUID") or ""))
    compressed = syntax.is_valid and syntax.is_transfer_syntax and syntax.is_compressed
    least = 8 if compressed else max(8, int(ds.Rows) * int(ds.Columns) // 8)  # bytes of a frame: an item, or bits
    if frames * least > size * (MOST_PACKED if syntax == DeflatedExplicitVRLittleEndian else 1):
        raise ReadError(f"header says {frames} frames, for which the file is too short: it is cut off or damaged")


def number_of_frames(ds: Dataset) -> int:
    """Return Number of Frames (0028,0008), 1 where missing or empty; raise ReadError if it is no count."""
    frames = _integer(ds, "NumberOfFrames", strict=True)
    if frames is None:
        return 1
    if frames < 1:
        raise ReadError(f"Number of Frames (0028,0008) is {frames}")
    return frames


def stacks(headers: Iterable[Header]) -> list[HeaderStack]:
    """Group files into acquisitions of parallel slices, each sorted by position: see `invad_med.readers.dicom.stacks`.

    A stack shares folder, Series Instance UID, matrix size, patient, study, modality, body part, side and frame of
    reference as well. The folder counts because it may carry the label of a data set; patient and study because a
    Series Instance UID is at times given twice, by phantoms of one protocol or by a removal of identity. Multi-frame
    files and files without geometry stand alone.
    """
    headers = list(headers)
    references = _references(headers)
    planes: dict[tuple[Path, str], list[tuple[float, ...]]] = defaultdict(list)
    for header in headers:
        if header.orientation is not None and header.series:
            planes[header.path.parent, header.series].append(header.orientation)
    series = {key: fitness.is_localiser(orientations) for key, orientations in planes.items()}
    groups: dict[tuple, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: h.path):
        alone = header.frames > 1 or header.place is None or not header.series
        key = header.path if alone else header.path.parent
        reference = references[header.path.parent, header.series, header.subject] and header.reference
        groups[key, header.series, header.shape, header.subject, reference].append(header)

    result: list[HeaderStack] = []
    for group in groups.values():
        if group[0].frames > 1:
            several = len(group[0].stacks) > 1
            for number, s in enumerate(group[0].stacks):
                result.append(HeaderStack((group[0],), s.label, s.members if several else None, number=number))
            continue
        places = [h.place for h in group if h.place is not None]
        if len(places) < len(group) or not group[0].series:
            result += [HeaderStack((h,)) for h in group]
            continue
        localiser = series[group[0].path.parent, group[0].series]
        result += [HeaderStack(tuple(group[i] for i in s.members), s.label, None, localiser) for s in divide(places)]
    return result


def _references(headers: Iterable[Header]) -> dict[tuple[Path, str, str], bool]:
    """Return of every series whether its frames of reference divide it: not where most slices have one of their own.

    A removal of identity that gives each file new UIDs leaves it so.
    """
    found: dict[tuple[Path, str, str], list[str]] = defaultdict(list)
    for header in headers:
        found[header.path.parent, header.series, header.subject].append(header.reference)
    return {key: 2 * len(set(references)) <= len(references) for key, references in found.items()}


def _subject(ds: Dataset) -> str:
    """Return a digest of what one series is of: it can be compared and names nobody."""
    patient = str(ds.get("PatientID") or ds.get("PatientName") or "").strip().casefold()
    others = (ds.get(keyword) for keyword in ("StudyInstanceUID", "Modality", "BodyPartExamined", "Laterality"))
    words = [patient, *(str(value or "").strip().casefold() for value in others)]
    return hashlib.sha256("\0".join(words).encode("utf-8", "replace")).hexdigest()


def _place(ds: Dataset, path: Path) -> Place | None:
    orientation, position = numbers(ds, "ImageOrientationPatient", 6), numbers(ds, "ImagePositionPatient", 3)
    if orientation is None or position is None:
        return None
    spacing = numbers(ds, "PixelSpacing", 2)
    traits: dict[str, Value] = {trait: number(ds, keyword) for trait, keyword in _TRAITS.items()}
    traits |= {
        "kernel": text(ds, "ConvolutionKernel"),
        "component": text(ds, "ComplexImageComponent"),
        "image_type": texts(ds, "ImageType"),
        "direction": numbers(ds, "DiffusionGradientOrientation", 3),
        "sequence": text(ds, "SequenceName"),
        "stack": text(ds, "StackID"),
    }
    orders: dict[str, float | str | None] = {
        "trigger": number(ds, "TriggerTime"),
        "acquisition": number(ds, "AcquisitionNumber"),
        "acquired": text(ds, "AcquisitionDateTime") or _moment(ds, "Acquisition"),
        "content": _moment(ds, "Content"),
        "number": number(ds, "InstanceNumber"),
    }
    return Place(
        orientation=orientation,
        position=(position[0], position[1], position[2]),
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        thickness=number(ds, "SliceThickness"),
        traits=traits,
        orders=orders,
        tie=(str(path),),
    )


def _moment(ds: Dataset, what: str) -> str | None:
    """Return date and time as text that sorts as they do: fractions of a second padded, times of old objects too."""
    time = text(ds, f"{what}Time")
    if time is None:
        return None
    whole, _, fraction = time.replace(":", "").partition(".")
    return f"{text(ds, f'{what}Date') or ''}{whole:0<6}.{fraction:0<6}"


def _integer(ds: Dataset, keyword: str, strict: bool = False) -> int | None:
    try:
        value = ds.get(keyword)
        return None if value in (None, "") else int(value)
    except (TypeError, ValueError, OverflowError):
        if strict:
            raise ReadError(f"{keyword} is not a whole number") from None
        return None


def _identity(ds: Dataset) -> frozenset[str]:
    words = {word for word in re.split(r"[\s^=,._-]+", str(ds.get("PatientName") or "")) if len(word) >= 3}
    others = ds.get("OtherPatientIDs") or []
    for value in (ds.get("PatientID"), *([others] if isinstance(others, str) else others)):
        if value and len(str(value).strip()) >= 3:
            words.add(str(value).strip())
    return frozenset(word.casefold() for word in words)


def header_uid(path: Path, keyword: str) -> str:
    """Return a UID of a file's header, empty if it has none or cannot be read."""
    try:
        with without_warnings(), reading("DICOM header"):
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=[keyword])
            return str(ds.get(keyword) or "").strip()
    except ReadError:
        return ""
