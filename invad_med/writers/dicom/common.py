"""What all DICOM objects of a result share: UIDs, equipment, marks of research and origin, and how a file is placed.

| element | value |
|---|---|
| Study Instance UID, patient, study, Frame of Reference UID | the source's |
| Series and SOP Instance UID | new, or digests: of all that a result was made of, and of the object itself |
| (0008,0070), (0008,1090), (0018,1020), (0018,1000) | invad-med, model, versions, digest of its training data |
| Content Qualification (0018,9004) | RESEARCH |
| Derivation Description (0008,2111) | what was done, with the threshold |
| Source Image Sequence (0008,2112) | the source images, of an overlay the one it is a copy of; purpose 121322 DCM |
| Lossy Image Compression (0028,2110) and its ratio and method | the source's |
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

import invad_med
from invad_med.data.prediction import Prediction, Scores
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Slice, Source
from invad_med.data.study import Study
from invad_med.files import whole_file
from invad_med.readers.dicom.own import MANUFACTURER, RESEARCH
from invad_med.writers.dicom.account import Account, ScoredSlice
from invad_med.writers.dicom.digest import content_digest, tell
from invad_med.writers.dicom.evidence import Evidence, Refused

_NAMES = ("name", "sources", "first_slice")  # of a study: what it is called on this machine, not what was found
_LONGEST = 2**32 - 2  # bytes of an element
_SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")


@dataclass(frozen=True)
class Series:
    """The series that one kind of object makes of a source; every module of an object states its own.

    Args:
        kind: the object's, part of its UIDs.
        offset: added to a hundred times the source's Series Number, unique among the kinds.
        description: Series Description (0008,103E), before the mark of research.
        sided: its IOD has Laterality (0020,0060).
    """

    kind: str
    offset: int
    description: str
    sided: bool = False


@dataclass(frozen=True)
class Result:
    """All that is said of one source.

    Args:
        source: the file or series.
        predictions: of its scored slices, with their maps, by ascending index.
        pieces: those slices.
        provenance: of the model, as its checkpoint states.
        study: what its slices come to.
    """

    source: Source
    predictions: tuple[Prediction, ...]
    pieces: tuple[Slice, ...]
    provenance: Provenance
    study: Study


class Author:
    """Gives one source's objects their UIDs and common elements.

    Args:
        account: what they say.
        evidence: what they refer to.
        deterministic: UIDs are digests of source, model, result and object, else new in every run.
        secret: mixed into these digests; of anonymous objects, so that nobody can test a guess of the source.
    """

    def __init__(self, account: Account, evidence: Evidence, deterministic: bool = False, secret: str = "") -> None:
        self.account, self.evidence, self.deterministic = account, evidence, deterministic
        self._digest = hmac.new(secret.encode(), digestmod=hashlib.sha256)
        self._key: str | None = None if deterministic else secrets.token_hex(32)
        self.created = datetime.now()

    def tell(self, header: Dataset | None, slice_: ScoredSlice, piece: Slice, values: np.ndarray) -> None:
        """Take a slice into the digest of all that objects are made of.

        Args:
            header: of its file as it is handed on; None of one that was taken already.
            slice_: what is said of it.
            piece: the slice.
            values: its map.
        """
        if not self.deterministic:
            return
        if header is not None:
            tell(header, self._digest.update)
        numbers = {f.name: getattr(slice_, f.name) for f in fields(Scores)}
        shapes = piece.pixels.shape, piece.pixels.dtype.str, values.shape
        self._digest.update(repr((slice_.index, slice_.modality, numbers, piece.unit, *shapes)).encode())
        self._digest.update(np.ascontiguousarray(piece.pixels).data)
        self._digest.update(np.ascontiguousarray(values).data)

    def seal(self, study: Study) -> None:
        """Take note that all slices were told; from here on UIDs are known."""
        self.account.study = study
        if self.deterministic:
            said = {f.name: getattr(study, f.name) for f in fields(Study) if f.name not in _NAMES}
            model = json.dumps(self.account.provenance.to_state(), sort_keys=True, default=str)
            self._digest.update(repr((said, model, self.account.model, self.versions)).encode())
            self._key = self._digest.hexdigest()

    def uid(self, *words: str) -> UID:
        """Return the UID of what the words name, the same for the same words: 64 characters."""
        assert self._key is not None  # sealed
        return generate_uid(entropy_srcs=[self._key, *words])

    @property
    def versions(self) -> list[str]:
        """Software Versions (0018,1020): of this program, of what computes, of what the model was trained with."""
        trained = self.account.provenance.versions
        engines = (f"computed by {engine}" for engine in self.account.engines)
        return [
            f"invad_med {invad_med.__version__}",
            *engines,
            *(f"trained with {k} {v}" for k, v in sorted(trained.items())),
        ]

    @property
    def serial(self) -> str:
        """Device Serial Number (0018,1000): the digest of the model's training data."""
        return (self.account.provenance.data_digest or "none")[:64]

    def keywords(self, series: Series, number: int = 1) -> dict[str, Any]:
        """Return what every constructor of highdicom takes."""
        return {
            "series_instance_uid": self.uid(series.kind, "series"),
            "series_number": self.series_number(series),
            "sop_instance_uid": self.uid(series.kind, "instance", str(number)),
            "instance_number": number,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.account.model,
            "software_versions": tuple(self.versions),
            "device_serial_number": self.serial,
            "series_description": series_description(series),
            "specific_character_set": "ISO_IR 192",
        }

    def series_number(self, series: Series) -> int:
        """Return Series Number (0020,0011)."""
        return 100 * (_integer(self.evidence.first.get("SeriesNumber")) % 10**6) + series.offset

    def describe(self, ds: Dataset, more: str = "") -> None:
        """Add to an object what was done to the source, in one paragraph, its research mark, and when it was made."""
        text = f"{RESEARCH}. Anomaly map by {self.account.model}, invad_med {invad_med.__version__}"
        limit = self.account.slices[0].map_threshold
        text += (f"; threshold of the map {limit:.6g}" if limit is not None else "") + "."
        ds.ContentQualification = "RESEARCH"
        ds.DerivationDescription = f"{text} {more}".strip()[:1024]
        ds.SeriesDate, ds.SeriesTime = ds.get("InstanceCreationDate"), ds.get("InstanceCreationTime")

    def finish(self, ds: Dataset, series: Series, more: str = "") -> Dataset:
        """Add to an object what highdicom leaves out, and return it."""
        first = self.evidence.first
        self.describe(ds, more)
        if series.sided and "Laterality" not in ds:
            sides = {str(i.get("Laterality") or i.get("ImageLaterality") or "").strip() for i in self.evidence.images}
            side = next(iter(sides)) if len(sides) == 1 else ""
            if side in ("L", "R") or not ds.get("BodyPartExamined"):
                ds.Laterality = side if side in ("L", "R") else ""  # type 2C: there, but empty where nobody knows
        for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
                        "LongitudinalTemporalInformationModified"):  # fmt: skip
            if first.get(keyword):
                ds[keyword] = first[keyword]
        if self.evidence.stored and "Rows" in ds:
            ds.SourceImageSequence = self.sources()
            if self.evidence.planes is None and "PatientOrientation" not in ds:
                ds.PatientOrientation = first.get("PatientOrientation") or []  # type 2C without a place in the patient
            for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if first.get(keyword) not in (None, ""):
                    ds[keyword] = first[keyword]
        self.evidence.refer_to_file(ds)
        if self.deterministic:
            self._replace_random(ds, series.kind)
        return ds

    def settle(self, ds: Dataset, pixels: Pixels | None = None) -> Dataset:
        """Give an object that is complete its own UID, and return it; where UIDs are new in every run it has one.

        A digest of what the object says: two that differ in anything, but when they were made, never have the same.
        """
        if self.deterministic:
            encoded = () if pixels is None else pixels.encoded()
            ds.SOPInstanceUID = generate_uid(entropy_srcs=["object", content_digest(ds, encoded)])
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        return ds

    def sources(self) -> Sequence:
        """Return Source Image Sequence (0008,2112), an item for every source file."""
        return Sequence([self.reference(image) for image in self.evidence.images])

    @staticmethod
    def reference(image: Dataset) -> Dataset:
        """Return the reference to one source image, with its purpose."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        item.PurposeOfReferenceCodeSequence = [_SOURCE_IMAGE]
        return item

    def _replace_random(self, ds: Dataset, kind: str) -> None:
        """Replace the random UIDs that highdicom gives to dimensions and observations."""
        seen: dict[str, UID] = {}
        for element in ds.iterall():
            if element.keyword in ("DimensionOrganizationUID", "TrackingUID"):
                old = str(element.value)
                element.value = seen.setdefault(old, self.uid(kind, element.keyword, str(len(seen))))


Check = Callable[[Dataset], None]


@dataclass(frozen=True)
class Pixels:
    """The last element of an object, encoded in parts so that no more than one of them is held.

    Args:
        keyword: Pixel Data (7FE0,0010) or Float Pixel Data (7FE0,0008).
        vr: its value representation: OB, OW or OF.
        length: of all parts together in bytes.
        parts: gives them in their order, anew at every call.
    """

    keyword: str
    vr: str
    length: int
    parts: Callable[[], Iterable[bytes]]

    def encoded(self) -> Iterator[bytes]:
        """Yield the element in Explicit VR Little Endian (PS3.5 7.1.2).

        Raises:
            Refused: it would be longer than an element can be.
        """
        length = self.length + self.length % 2
        if length > _LONGEST:
            raise Refused(f"its pixels would take {length} bytes, and an element holds {_LONGEST} at most")
        tag = tag_for_keyword(self.keyword) or 0
        yield struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, self.vr.encode(), 0, length)
        yield from self.parts()
        yield b"\0" * (self.length % 2)


def save(ds: Dataset, author: Author, path: Path, check: Check | None = None, pixels: Pixels | None = None) -> Path:
    """Write an object that is complete, read it back, check it, and only then put it in place, whole or not at all.

    Args:
        ds: the object with file meta information; its UID is settled here.
        author: of it.
        path: its folder is made if need be.
        check: raises if what was read back of the object, but its pixels, does not say what it must.
        pixels: its last element, where ``ds`` does not hold it.

    Raises:
        Refused: the object read back is another.
        OSError: it cannot be written.
    """
    author.settle(ds, pixels)
    with whole_file(path) as partial:
        write(ds, partial, check, pixels)
    return path


def write(ds: Dataset, path: Path, check: Check | None = None, pixels: Pixels | None = None) -> bytes:
    """Write an object, read it back and check it, as `save`; return what stands in the file before ``pixels``."""
    encoded = BytesIO()
    ds.save_as(encoded, enforce_file_format=True)
    head = encoded.getvalue()
    with path.open("wb") as file:
        for part in _whole(head, pixels):
            file.write(part)
    with path.open("rb") as file:
        if any(file.read(len(part)) != part for part in _whole(head, pixels)) or file.read(1):
            raise Refused("the object read back differs from the one that was meant")
        file.seek(0)
        again = pydicom.dcmread(file, stop_before_pixels=True)
        if file.tell() != len(head) or again.SOPInstanceUID != ds.SOPInstanceUID or len(again) != len(ds):
            raise Refused("the encoded object is not the one that was meant")
    if check is not None:
        check(again)
    return head


def _whole(head: bytes, pixels: Pixels | None) -> Iterator[bytes]:
    """Yield all parts of a file."""
    yield head
    if pixels is not None:
        yield from pixels.encoded()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from warning: they quote values, which can be the patient's name."""
    children = [n for n in list(logging.root.manager.loggerDict) if n.startswith("highdicom.")]
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom", *children)]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state


def series_description(series: Series) -> str:
    """Return Series Description (0008,103E)."""
    return f"{series.description} - {RESEARCH}"[:64]


def _integer(value: object) -> int:
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0
