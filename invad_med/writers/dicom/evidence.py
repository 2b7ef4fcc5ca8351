"""The stored images a result was made from: their headers, in slice order, fit to be referred to and copied from.

Free text, private elements, icons, signatures, curves and the retired group lengths of the source are not handed on.
Patient and study elements that every object must have (type 2) are there, empty where the source lacks them or holds
what the standard forbids.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from invad_med.data.slices import Slice
from invad_med.readers.decoding import reading
from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.planes import Plane
from invad_med.readers.dicom.stored import StoredImage, stored_image

_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_DROPPED = (
    "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence",
    "EncryptedAttributesSequence", "ReferencedPatientPhotoSequence", "RequestAttributesSequence",
)  # fmt: skip
_FREE_TEXT = {"LT", "ST", "UT"}


class Refused(Exception):
    """An object that cannot be made of a source, with a reason fit for the log: no path, no patient identity."""


@dataclass(frozen=True)
class Evidence:
    """The source images of the slices that are written about.

    Args:
        stored: their files as they were read; one per slice, or the one multi-frame file. None of an input that never
            was DICOM.
        images: their headers, without pixel data, in the order of ``stored``, fit to be referred to and copied from.
        frames: of a multi-frame file, the frame (0-based) of ``images[0]`` that is every slice; else None.
        part: where only some frames of the file are written about, the stored frames (0-based, ascending) that
            ``images[0]`` holds; else None.
        planes: place of every slice in the patient, or None if one has none or there is no frame of reference.
    """

    stored: tuple[StoredImage, ...]
    images: tuple[Dataset, ...]
    frames: tuple[int, ...] | None
    planes: tuple[Plane, ...] | None
    part: tuple[int, ...] | None = None

    @property
    def first(self) -> Dataset:
        """The header that stands for patient, study and series."""
        return self.images[0]

    def image_of(self, position: int) -> tuple[Dataset, int | None]:
        """Return the header of a slice, and its frame number (1-based) where the file has frames."""
        if self.frames is None:
            return self.images[position], None
        return self.images[0], self.frames[position] + 1

    def frame_within(self, stored: int) -> int:
        """Return the frame of ``images[0]`` that is a stored frame of the file, both 0-based."""
        return stored if self.part is None else self.part.index(stored)

    def refer_to_file(self, ds: Dataset) -> None:
        """Turn an object's frame numbers of ``images[0]`` into the file's; add them where the whole image is meant."""
        if self.part is None:
            return
        for keyword, item in _within(ds):
            if str(item.get("ReferencedSOPInstanceUID") or "") != str(self.first.SOPInstanceUID):
                continue
            local = item.get("ReferencedFrameNumber")
            if local is not None:
                numbers = [local] if isinstance(local, int) else list(local)
                item.ReferencedFrameNumber = [self.part[int(n) - 1] + 1 for n in numbers]
            elif keyword in ("ReferencedImageSequence", "SourceImageSequence"):
                item.ReferencedFrameNumber = [frame + 1 for frame in self.part]

    def in_stored_order(self, slices: np.ndarray) -> np.ndarray:
        """Return (N, ...) slices in the order of the stored frames."""
        if self.frames is None:
            return slices
        result = np.empty_like(slices)
        result[list(self.frames)] = slices
        return result


def evidence_of(pieces: Sequence[Slice], change: Callable[[Dataset], Dataset] | None = None) -> Evidence:
    """Make the evidence of the slices that were scored, from what was read of their files; those stay as they are.

    Args:
        pieces: the scored slices of one source, by ascending index.
        change: applied to every header, such as the removal of identity.

    Raises:
        Refused: never DICOM, no UIDs to refer to, or one for several images.
        ReadError: a header holds what cannot be decoded.
    """
    source = pieces[0].source
    if source.kind != "dicom":
        raise Refused("the input is no DICOM, so there is no study, series or frame of reference to refer to")
    slices = [stored_image(piece) for piece in pieces]
    files = slices[:1] if len(source.paths) == 1 else slices
    images: list[Dataset] = []
    for file in files:
        with reading("DICOM header"):
            ds = copy.deepcopy(file.header)
            ds.decode()
            images.append(change(clean(ds)) if change else clean(ds))
    first = images[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not all(UID(str(ds.get(keyword) or "")).is_valid for ds in images):
            raise Refused(f"{keyword} of the source is missing or no UID, so that no object can refer to it")
    if len({str(ds.SOPInstanceUID) for ds in images}) < len(images):
        raise Refused("several images of the source share one SOP Instance UID, so that no object can refer to any")
    frames: tuple[int, ...] | None = None
    part: tuple[int, ...] | None = None
    if len(source.paths) == 1 and _framed(first):
        count = number_of_frames(first)
        frames = tuple(s.frame for s in slices)
        if len(frames) != count:
            part = tuple(sorted(frames))
            frames = tuple(part.index(frame) for frame in frames)
            _keep(first, part)

    planes = tuple(s.plane for s in slices if s.plane is not None)
    spaces = {UID(str(i.get("FrameOfReferenceUID") or "")) for i in images}
    known = len(planes) == len(slices) and len(spaces) == 1 and next(iter(spaces)).is_valid
    for image in images:
        if frames is not None:
            _share(image)
        if not known and "FrameOfReferenceUID" in image:
            del image.FrameOfReferenceUID  # without a place of every slice it says nothing, and highdicom trusts it
    return Evidence(tuple(files), tuple(images), frames, planes if known else None, part)


def no_evidence() -> Evidence:
    """Return what stands for an input that never was DICOM: no images, and no patient or study but an empty one."""
    return Evidence((), (clean(Dataset()),), None, None)


def clean(ds: Dataset) -> Dataset:
    """Return the dataset, changed in place, as the module describes."""
    ds.remove_private_tags()
    for element in list(ds):
        tag = element.tag
        if element.VR in _FREE_TEXT or element.keyword in _DROPPED or 0x5000 <= tag.group < 0x5100 or tag.element == 0:
            del ds[tag]
    for keyword in _TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    if ds.PatientSex not in ("M", "F", "O"):
        ds.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(str(ds.get(keyword) or ""))
        except ValueError:
            setattr(ds, keyword, "")
    return ds


def _keep(ds: Dataset, frames: tuple[int, ...]) -> None:
    """Leave only some frames in a multi-frame header, so that it describes what an object is made of.

    Raises:
        Refused: the file does not describe its frames one by one.
    """
    groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != number_of_frames(ds):
        raise Refused(
            f"{len(frames)} of {number_of_frames(ds)} frames of a multi-frame source that does not describe its frames "
            "one by one were scored; all are needed"
        )
    ds.PerFrameFunctionalGroupsSequence = [groups[frame] for frame in frames]
    ds.NumberOfFrames = len(frames)


def _within(ds: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield the items of all sequences of a dataset, with the keyword of their sequence."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield element.keyword, item
                yield from _within(item)


def _framed(ds: Dataset) -> bool:
    return number_of_frames(ds) > 1 or "SharedFunctionalGroupsSequence" in ds


def _share(ds: Dataset) -> None:
    """Move orientation and spacing to the shared functional groups where all frames agree: highdicom wants them there.

    PS3.3 C.7.6.16.1.1 allows either place for what does not change.
    """
    shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = ds.get("PerFrameFunctionalGroupsSequence") or []
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if shared is not None and name not in shared and frames and all(f.get(name) for f in frames):
            if all(f[name].value[0] == frames[0][name].value[0] for f in frames):
                shared[name] = frames[0][name]
                for frame in frames:
                    del frame[name]
