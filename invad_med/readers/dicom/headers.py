"""DICOM headers at scan time: is it an image, which stack does it belong to, whom must its name not mention."""

from __future__ import annotations

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
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from invad_med.data.slices import ReadError
from invad_med.readers.decoding import reading

RESEARCH = "RESEARCH USE ONLY, not for diagnosis"  # begins Derivation Description of every object of a result
_NOT_IMAGES = {SegmentationStorage, ParametricMapStorage, RTDoseStorage}  # have pixel data, but no picture in it
_TAGS = [
    "SOPClassUID", "Modality", "BodyPartExamined", "SeriesInstanceUID", "InstanceNumber",
    "ImageOrientationPatient", "ImagePositionPatient", "Rows", "Columns", "NumberOfFrames",
    "PatientName", "PatientID", "OtherPatientIDs", "DerivationDescription",
]  # fmt: skip


class OwnResult(ReadError):
    """A DICOM object that this program wrote: no image to be scored again."""


@dataclass(frozen=True)
class Header:
    """What scanning needs of one DICOM image file.

    Args:
        path: the file.
        modality: (0008,0060), or None.
        body_part: (0018,0015) in upper case, or None.
        series: Series Instance UID (0020,000E), or empty.
        number: Instance Number (0020,0013), 0 where missing.
        frames: Number of Frames (0028,0008), at least 1.
        shape: Rows and Columns.
        orientation: Image Orientation (Patient) to three digits, or None where the geometry is missing.
        position: Image Position (Patient) along the slice normal in mm.
        identity: parts of the patient's name and IDs, in lower case; no output may be named by them.
    """

    path: Path
    modality: str | None
    body_part: str | None
    series: str
    number: int
    frames: int
    shape: tuple[int, int]
    orientation: tuple[float, ...] | None
    position: float
    identity: frozenset[str]


def has_magic(file: BinaryIO) -> bool:
    """Return whether an open file has the DICOM preamble; it is at its beginning again afterwards."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


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
        ds = pydicom.dcmread(file or path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
        sop_class = ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID")
        if sop_class == MediaStorageDirectoryStorage:
            return None
        if str(ds.get("DerivationDescription") or "").startswith(f"{RESEARCH}. Anomaly map by InvAD"):
            raise OwnResult("result of an earlier run")
        if not sop_class and "Rows" not in ds:
            raise ReadError("not a DICOM file, or its header is damaged")
        if sop_class in _NOT_IMAGES or "Rows" not in ds or "Columns" not in ds:
            raise ReadError(f"DICOM object without an image ({_class_name(sop_class)})")
        orientation, position = _geometry(ds)
        return Header(
            path=path,
            modality=str(ds.get("Modality") or "").strip().upper() or None,
            body_part=str(ds.get("BodyPartExamined") or "").strip().upper() or None,
            series=str(ds.get("SeriesInstanceUID") or ""),
            number=_integer(ds, "InstanceNumber") or 0,
            frames=number_of_frames(ds),
            shape=(int(ds.Rows), int(ds.Columns)),
            orientation=orientation,
            position=position,
            identity=_identity(ds),
        )


def _class_name(sop_class: object) -> str:
    """Return the name of a SOP class; damaged ones are not quoted, they can run on into what follows them."""
    uid = UID(str(sop_class or ""))
    return uid.name if uid.is_valid and uid.name != uid else "unknown class"


def number_of_frames(ds: Dataset) -> int:
    """Return Number of Frames (0028,0008), 1 where missing or empty; raise ReadError if it is no count."""
    frames = _integer(ds, "NumberOfFrames", strict=True)
    if frames is None:
        return 1
    if frames < 1:
        raise ReadError(f"Number of Frames (0028,0008) is {frames}")
    return frames


def along_normal(orientation: Iterable[float], position: Iterable[float]) -> float:
    """Return a plane's position in mm along its normal, row direction x column direction."""
    o = np.asarray(list(orientation), dtype=np.float64)
    return float(np.dot(np.cross(o[:3], o[3:]), np.asarray(list(position), dtype=np.float64)))


def stacks(headers: Iterable[Header]) -> list[list[Header]]:
    """Group files into stacks of parallel slices, each sorted by position.

    A stack shares folder, Series Instance UID, orientation and matrix size. Files at the same position (echoes,
    phases, repeated acquisitions, copies) go to stacks of their own, the lowest Instance Number first. Multi-frame
    files and files without geometry stand alone. The folder counts because it may carry the label of a data set.
    """
    groups: dict[tuple, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: h.path):
        alone = header.frames > 1 or header.orientation is None or not header.series
        key = header.path if alone else header.path.parent
        groups[key, header.series, header.orientation, header.shape].append(header)

    result: list[list[Header]] = []
    for group in groups.values():
        layers: list[list[Header]] = []
        filled: dict[float, int] = defaultdict(int)
        for header in sorted(group, key=lambda h: (h.position, h.number, h.path)):
            layer = filled[header.position]
            filled[header.position] += 1
            if layer == len(layers):
                layers.append([])
            layers[layer].append(header)
        result += layers
    return result


def _geometry(ds: Dataset) -> tuple[tuple[float, ...] | None, float]:
    try:
        orientation = [float(v) for v in ds.ImageOrientationPatient]
        position = [float(v) for v in ds.ImagePositionPatient]
    except (AttributeError, TypeError, ValueError):
        return None, 0.0
    if len(orientation) != 6 or len(position) != 3 or not np.isfinite(orientation + position).all():
        return None, 0.0
    # + 0.0 makes -0.0 and 0.0 one group; 0.01 mm is far below any slice distance and above rounding in the text.
    return tuple(round(v, 3) + 0.0 for v in orientation), round(along_normal(orientation, position), 2)


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
