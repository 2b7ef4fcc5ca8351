"""The stored images a result was made from: their headers, in slice order, fit to be referred to and copied from.

Free text, private elements, icons, signatures, curves and the retired group lengths of the source are not handed on.
Patient and study elements that every object must have (type 2) are there, empty where the source lacks them or holds
what the standard forbids.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from invad_med.data.slices import Slice, Source
from invad_med.readers.decoding import reading
from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.planes import Plane
from invad_med.readers.dicom.stored import stored_image

_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_DROPPED = (
    "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence",
    "EncryptedAttributesSequence", "ReferencedPatientPhotoSequence", "RequestAttributesSequence",
)  # fmt: skip
_APART = (  # what references, places and presentation need of every image
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Laterality",
    "ImageLaterality", "SamplesPerPixel", "Rows", "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "VOILUTFunction", "VOILUTSequence",
)  # fmt: skip
_FREE_TEXT = {"LT", "ST", "UT"}
_Item = TypeVar("_Item")


class Refused(Exception):
    """An object that cannot be made of a source, with a reason fit for the log: no path, no patient identity."""


class Evidence:
    """The source images of the slices that are written about; they are added one by one, and then it is completed.

    Args:
        source: the file or series.
        change: applied to every header, such as the removal of identity.

    Attributes:
        images: headers without pixel data, fit to be referred to and copied from: one per slice, or that of the one
            multi-frame file. The first is whole, the others hold what tells images of a series apart.
        stored: whether these are files; not so of an input that never was DICOM.
        frames: of a multi-frame file, the frame (0-based) of ``images[0]`` that is every slice; else None.
        part: where only some frames of the file are written about, the stored frames (0-based, ascending) that
            ``images[0]`` holds; else None. It is known once the evidence is complete.
        planes: place of every slice in the patient, or None if one has none or there is no frame of reference. It is
            known once the evidence is complete.
    """

    def __init__(self, source: Source, change: Callable[[Dataset], Dataset] | None = None) -> None:
        self.stored = source.kind == "dicom"
        self.images: list[Dataset] = [] if self.stored else [clean(Dataset())]
        self.frames: list[int] | None = None
        self.part: tuple[int, ...] | None = None
        self.planes: tuple[Plane, ...] | None = None
        self._change, self._one_file = change, len(source.paths) == 1
        self._places: list[Plane | None] = []
        self._uids: set[str] = set()

    def add(self, piece: Slice) -> Dataset | None:
        """Take what is referred to of a slice, and return the header of its file, for the caller to make an object of.

        None where there is no file, or its header was returned before.

        Raises:
            Refused: no UIDs to refer to, or one for several images.
            ReadError: a header holds what cannot be decoded.
        """
        if not self.stored:
            return None
        file = stored_image(piece)
        self._places.append(file.plane)
        if self._one_file and self.images:
            if self.frames is not None:
                self.frames.append(file.frame)
            return None
        with reading("DICOM header"):
            ds = copy.deepcopy(file.header)
            ds.decode()
            ds = self._change(clean(ds)) if self._change else clean(ds)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            if not UID(str(ds.get(keyword) or "")).is_valid:
                raise Refused(f"{keyword} of the source is missing or no UID, so that no object can refer to it")
        if str(ds.SOPInstanceUID) in self._uids:
            raise Refused("several images of the source share one SOP Instance UID, so that no object can refer to any")
        self._uids.add(str(ds.SOPInstanceUID))
        if self._one_file and _framed(ds):
            self.frames = [file.frame]
        self.images.append(_what_tells_apart(ds) if self.images else copy.deepcopy(ds))
        return ds

    def complete(self) -> None:
        """Take note that all slices were added.

        Raises:
            Refused: some frames of a file were added that does not describe its frames one by one.
        """
        first = self.first
        if self.frames is not None and len(self.frames) != number_of_frames(first):
            self.part = tuple(sorted(self.frames))
            self.frames = [self.frame_within(frame) for frame in self.frames]
            _keep(first, self.part)
        planes = tuple(plane for plane in self._places if plane is not None)
        spaces = {str(image.get("FrameOfReferenceUID") or "") for image in self.images}
        if planes and len(planes) == len(self._places) and len(spaces) == 1 and UID(spaces.pop()).is_valid:
            self.planes = planes
        for image in self.images:
            if self.frames is not None:
                _share(image)
            if self.planes is None and "FrameOfReferenceUID" in image:
                del image.FrameOfReferenceUID  # without a place of every slice it says nothing; highdicom trusts it

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
        return stored if self.part is None else bisect_left(self.part, stored)

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

    def in_stored_order(self, slices: Sequence[_Item]) -> list[_Item]:
        """Return what belongs to slices in the order of the stored frames."""
        if self.frames is None:
            return list(slices)
        return [slices[i] for i in sorted(range(len(slices)), key=self.frames.__getitem__)]


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


def _what_tells_apart(ds: Dataset) -> Dataset:
    """Return the elements of a header that are kept of all images but the first."""
    result = Dataset()
    for keyword in _APART:
        if keyword in ds:
            result.add(copy.copy(ds[keyword]))
    return result


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
