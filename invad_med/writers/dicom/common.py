"""What all DICOM objects of a result share: UIDs, equipment, marks of research and origin, and how a file is placed.

| element | value |
|---|---|
| Study Instance UID, patient, study, Frame of Reference UID | the source's |
| Series and SOP Instance UID | new, or digests: of all that a result was made of, and of the object itself |
| (0008,0070), (0008,1090), (0018,1020), (0018,1000) | invad-med, model, versions, digest of its training data |
| Content Qualification (0018,9004) | RESEARCH |
| Derivation Description (0008,2111) | what was done, with the threshold |
| Source Image Sequence (0008,2112) | the source images, purpose 121322 DCM |
| Lossy Image Compression (0028,2110) and its ratio and method | the source's |
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

import invad_med
from invad_med.data.prediction import Prediction, Scores
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Slice, Source
from invad_med.data.study import Study
from invad_med.files import write_atomically
from invad_med.readers.dicom.own import MANUFACTURER, RESEARCH
from invad_med.writers.dicom.digest import content_digest, tell
from invad_med.writers.dicom.evidence import Evidence, Refused

_NAMES = ("name", "sources", "first_slice")  # of a study: what it is called on this machine, not what was found
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

    @cached_property
    def maps(self) -> np.ndarray:
        """(N, H, W) float32, a map for each prediction; what is not finite is 0."""
        maps = np.stack([p.map for p in self.predictions if p.map is not None]).astype(np.float32)
        return np.nan_to_num(maps, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    @property
    def limit(self) -> float:
        """Map value above which a pixel counts as abnormal.

        Raises:
            Refused: the model gives none.
        """
        limit = self.predictions[0].map_threshold
        if limit is None or not 0 < limit < np.inf:
            raise Refused(f"the model gives no map threshold ({limit}), which the object is drawn by")
        return float(limit)

    @property
    def regions(self) -> np.ndarray:
        """(N, H, W) bool, where the maps exceed `limit`."""
        return self.maps > self.limit

    @property
    def model(self) -> str:
        """Name of the model, for equipment and text."""
        return f"InvAD {self.provenance.title or self.predictions[0].modality or ''}".strip()[:64]


class Author:
    """Gives one result's objects their UIDs and common elements.

    Args:
        result: what they say.
        evidence: what they refer to.
        deterministic: UIDs are digests of source, model, result and object, else new in every run.
        secret: mixed into these digests; of anonymous objects, so that nobody can test a guess of the source.
    """

    def __init__(self, result: Result, evidence: Evidence, deterministic: bool = False, secret: str = "") -> None:
        self.result, self.evidence = result, evidence
        self._deterministic, self._secret = deterministic, secret
        self._uids: dict[tuple[str, ...], UID] = {}
        self.created = datetime.now()

    @cached_property
    def _digest(self) -> str:
        """Digest of all that objects are made of: images, headers as handed on, numbers, maps, model, program."""
        digest = hmac.new(self._secret.encode(), digestmod=hashlib.sha256)
        for image in self.evidence.images:
            tell(image, digest.update)
        for prediction, piece in zip(self.result.predictions, self.result.pieces, strict=True):
            numbers = {f.name: getattr(prediction, f.name) for f in fields(Scores)}
            pixels = piece.pixels
            said = (prediction.index, prediction.modality, numbers, piece.unit, pixels.shape, pixels.dtype.str)
            digest.update(repr(said).encode() + pixels.tobytes())
        digest.update(repr(self.result.maps.shape).encode() + self.result.maps.tobytes())
        study = {f.name: getattr(self.result.study, f.name) for f in fields(Study) if f.name not in _NAMES}
        digest.update(repr(study).encode())
        model = json.dumps(self.result.provenance.to_state(), sort_keys=True, default=str)
        digest.update(repr((model, self.result.model, self.versions)).encode())
        return digest.hexdigest()

    def uid(self, *words: str) -> UID:
        """Return the UID of what the words name, the same for the same words."""
        if words not in self._uids:
            entropy = [self._digest, *words] if self._deterministic else None
            self._uids[words] = generate_uid(entropy_srcs=entropy)
        return self._uids[words]

    @property
    def versions(self) -> list[str]:
        """Software Versions (0018,1020): of this program and of those the model was trained with."""
        trained = self.result.provenance.versions
        return [f"invad_med {invad_med.__version__}", *(f"trained with {k} {v}" for k, v in sorted(trained.items()))]

    @property
    def serial(self) -> str:
        """Device Serial Number (0018,1000): the digest of the model's training data."""
        return (self.result.provenance.data_digest or "none")[:64]

    def keywords(self, series: Series, number: int = 1) -> dict[str, Any]:
        """Return what every constructor of highdicom takes."""
        return {
            "series_instance_uid": self.uid(series.kind, "series"),
            "series_number": 100 * (_integer(self.evidence.first.get("SeriesNumber")) % 10**6) + series.offset,
            "sop_instance_uid": self.uid(series.kind, "instance", str(number)),
            "instance_number": number,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.result.model,
            "software_versions": tuple(self.versions),
            "device_serial_number": self.serial,
            "series_description": f"{series.description} - {RESEARCH}"[:64],
            "specific_character_set": "ISO_IR 192",
        }

    @property
    def description(self) -> str:
        """What was done to the source, in one paragraph."""
        text = f"{RESEARCH}. Anomaly map by {self.result.model}, invad_med {invad_med.__version__}"
        limit = self.result.predictions[0].map_threshold
        return text + (f"; threshold of the map {limit:.6g}" if limit is not None else "") + "."

    def finish(self, ds: Dataset, series: Series, more: str = "") -> Dataset:
        """Add to an object what highdicom leaves out, and return it."""
        first = self.evidence.first
        ds.ContentQualification = "RESEARCH"
        ds.DerivationDescription = f"{self.description} {more}".strip()[:1024]
        ds.SeriesDate, ds.SeriesTime = ds.get("InstanceCreationDate"), ds.get("InstanceCreationTime")
        if series.sided and "Laterality" not in ds:
            sides = {str(i.get("Laterality") or i.get("ImageLaterality") or "").strip() for i in self.evidence.images}
            side = next(iter(sides)) if len(sides) == 1 else ""
            if side in ("L", "R") or not ds.get("BodyPartExamined"):
                ds.Laterality = side if side in ("L", "R") else ""  # type 2C: there, but empty where nobody knows
        for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
                        "LongitudinalTemporalInformationModified"):  # fmt: skip
            if first.get(keyword):
                ds[keyword] = first[keyword]
        if self.evidence.stored and ("PixelData" in ds or "FloatPixelData" in ds):
            ds.SourceImageSequence = self.sources()
            if self.evidence.planes is None and "PatientOrientation" not in ds:
                ds.PatientOrientation = first.get("PatientOrientation") or []  # type 2C without a place in the patient
            for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if first.get(keyword) not in (None, ""):
                    ds[keyword] = first[keyword]
        self.evidence.refer_to_file(ds)
        if self._deterministic:
            self._replace_random(ds, series.kind)
        return ds

    def settle(self, ds: Dataset) -> Dataset:
        """Give an object that is complete its own UID, and return it; where UIDs are new in every run it has one.

        A digest of what the object says: two that differ in anything, but when they were made, never have the same.
        """
        if self._deterministic:
            ds.SOPInstanceUID = generate_uid(entropy_srcs=["object", content_digest(ds)])
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


def save(ds: Dataset, author: Author, path: Path, check: Callable[[Dataset], None]) -> Path:
    """Encode an object, read it back, check it, and only then put it in place, whole or not at all.

    Args:
        ds: the complete object, with file meta information; its UID is settled.
        author: of it.
        path: its folder is made if need be.
        check: raises if what was read back is not what was meant.

    Raises:
        Refused: the object read back is another.
        OSError: it cannot be written.
    """
    author.settle(ds)
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    content.seek(0)
    again = pydicom.dcmread(content)
    if again.SOPInstanceUID != ds.SOPInstanceUID or len(again) != len(ds):
        raise Refused("the encoded object is not the one that was meant")
    check(again)
    write_atomically(path, content.getvalue())
    return path


def same(read: np.ndarray, meant: np.ndarray) -> None:
    """Raise `Refused` if arrays differ."""
    if read.shape != meant.shape or not np.array_equal(read, meant):
        raise Refused("pixels read back differ from those that were meant")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from warning: they quote values, which can be the patient's name."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    before = [logger.disabled for logger in loggers]
    children = [logging.getLogger(n) for n in list(logging.root.manager.loggerDict) if n.startswith("highdicom.")]
    levels = [child.level for child in children]
    try:
        for logger in loggers:
            logger.disabled = True
        for child in children:
            child.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state
        for child, level in zip(children, levels, strict=True):
            child.setLevel(level)


def _integer(value: object) -> int:
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0
