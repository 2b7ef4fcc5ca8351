"""What a node asks of an instance that arrives: which study it belongs to, of whom, and whether it is a result."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from invad_med.data.slices import ReadError
from invad_med.readers.decoding import reading, without_warnings
from invad_med.readers.dicom.apart import apart
from invad_med.readers.dicom.own import TAGS, is_own

NOT_READ = 0xC000  # cannot understand
MISMATCH = 0xA900  # the data set is not what the command says
OTHER_PATIENT = 0xC100  # cannot understand, in the part that a program may divide as it likes (PS3.7 C.5.15)
_MOST = 2**22  # pixels that are decoded while a sender waits
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
_BELONGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", *_PATIENT, "PatientName", *TAGS]


class NotTaken(Exception):
    """An instance that is not taken.

    Args:
        status: that answers it.
        reason: in words that name no patient.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Instance:
    """One instance.

    Args:
        uid: SOP Instance UID.
        study: Study Instance UID.
        patient: what tells patients apart: ID, its issuer and date of birth; the name where there is no ID.
        own: whether it is a result of this program.
    """

    uid: str
    study: str
    patient: tuple[str, ...]
    own: bool


def read_instance(content: bytes, sop_class: str, uid: str) -> Instance:
    """Return what a file in memory says of itself.

    Args:
        content: with preamble and file meta information.
        sop_class, uid: what the command that brought it says.

    Raises:
        NotTaken: it is no DICOM, belongs to no study, or is another instance than the command says.
    """
    try:
        with without_warnings(), reading("data set"):
            ds = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=_BELONGS)
            instance, kind = _instance(ds), str(ds.get("SOPClassUID") or "").strip()
    except ReadError as error:
        raise NotTaken(NOT_READ, str(error)) from None
    if not uid or instance.uid != uid or kind != sop_class:
        raise NotTaken(MISMATCH, "SOP Class or SOP Instance UID of the data set are not those of the command")
    if not instance.study:
        raise NotTaken(MISMATCH, "the data set has no Study Instance UID (0020,000D)")
    return instance


def instance_of(path: Path) -> Instance | None:
    """Return what a file says of itself, None if it is no DICOM or cannot be read.

    Read as `invad_med.readers.dicom.headers.read_header` does: without file meta information too.
    """
    try:
        with without_warnings(), reading("data set"):
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_BELONGS)
            return _instance(ds) if ds.get("SOPClassUID") or "StudyInstanceUID" in ds else None
    except ReadError:
        return None


def _instance(ds: Dataset) -> Instance:
    patient = tuple(_text(ds, keyword) for keyword in _PATIENT)
    name = "" if patient[0] else _text(ds, "PatientName")
    uid, study = (str(ds.get(keyword) or "").strip() for keyword in ("SOPInstanceUID", "StudyInstanceUID"))
    return Instance(uid, study, (*patient, name), is_own(ds))


def _text(ds: Dataset, keyword: str) -> str:
    """Return a value as text; its bytes where they are not text of the character set, so that two stay two."""
    element = ds.get_item(keyword) if keyword in ds else None
    raw = element.value if element is not None and isinstance(element.value, bytes) else b""
    text = str(ds.get(keyword) or "").strip()
    return raw.hex() if "\N{REPLACEMENT CHARACTER}" in text and raw else text


def same_image(held: Path, content: bytes) -> bool:
    """Return whether a file and one in memory have the same header and the same pixels, as far as can be told safely.

    Pixels in two transfer syntaxes are decoded in a process of their own, which codecs may end. Those that are not
    decoded, or too many to be while a sender waits, count as different.
    """
    try:
        with without_warnings(), reading("data set"):
            both = [pydicom.dcmread(one) for one in (held, BytesIO(content))]
            if len({ds.file_meta.TransferSyntaxUID for ds in both}) > 1:
                if max(map(_size, both)) > _MOST or not apart(lambda: _same_pixels(*both)):
                    return False
                for ds in both:
                    ds.pop("PixelData", None)
            for ds in both:
                for element in list(ds):
                    if element.tag.element == 0:
                        del ds[element.tag]  # length of a group, retired
            return bool(both[0] == both[1])
    except ReadError:
        return False


def _size(ds: Dataset) -> int:
    return int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0) * int(ds.get("NumberOfFrames") or 1)


def _same_pixels(held: Dataset, come: Dataset) -> bool:
    if "PixelData" not in held or "PixelData" not in come:
        return ("PixelData" in held) == ("PixelData" in come)
    return bool(np.array_equal(held.pixel_array, come.pixel_array))
