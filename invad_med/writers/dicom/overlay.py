"""A derived copy of every source image with the region above threshold as an overlay plane (PS3.3 C.9.2).

Pixel values stay as they are (decompressed where the source was compressed); the plane goes into the next free group
6000, 6002 .. 601E. One bit a pixel: the region, not the heatmap. Its type is R, region of interest, so that viewers
that tell the types apart leave the region as it is and dim the rest, instead of covering the finding.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from invad_med.files import partial_of
from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.own import MANUFACTURER, OVERLAY_LABEL, OVERLAY_TYPE, RESEARCH
from invad_med.readers.dicom.stored import StoredImage, in_little_endian
from invad_med.writers.dicom.bits import packed
from invad_med.writers.dicom.common import Author, Pixels, Series, series_description, write
from invad_med.writers.dicom.digest import content_digest
from invad_med.writers.dicom.evidence import Refused

# UIDs that stand where those belong which only all slices decide
_SERIES_LATER, _OBJECT_LATER = (
    generate_uid(entropy_srcs=[what, "not known yet"]).encode() for what in ("series", "object")
)

SERIES = Series("overlay", 1, "Anomaly overlay")


class OverlayWriter:
    """Writes one object per source file, ``<folder>/overlay[_sNNN].dcm``, NNN the slice's index.

    An object is written as soon as its image is given, under a name that counts for nothing, and without the UIDs that
    only all slices decide; `finish` enters these and gives the objects their names.

    Args:
        author: of the result.
        folder: made if need be.
    """

    def __init__(self, author: Author, folder: Path) -> None:
        self._author, self._folder = author, folder
        self._waiting: list[_Waiting] = []

    def add(
        self, stored: StoredImage, header: Dataset, regions: Iterable[np.ndarray], name: str = "overlay.dcm"
    ) -> None:
        """Write the copy of one file.

        Args:
            stored: the file, or a frame of it.
            header: of it, which becomes the object's.
            regions: (H, W) bool, of each of its frames in stored order.
            name: of the object.

        Raises:
            Refused: colour, an enhanced object (its IOD has no overlays), no free group, floating-point pixels, only
                some frames of a file.
            OSError: it cannot be written.
        """
        if str(header.get("PhotometricInterpretation")).strip() not in ("MONOCHROME1", "MONOCHROME2"):
            raise Refused("the source is in colour, on which no overlay plane is drawn; ask for secondary_capture")
        if "SharedFunctionalGroupsSequence" in header or "Enhanced" in header.SOPClassUID.name:
            raise Refused("the source is an enhanced object, which may hold no overlay plane; ask for segmentation")
        if self._author.evidence.part is not None:
            raise Refused("only some frames of the multi-frame source were scored, and an overlay covers all of them")
        ds, pixels = _derived(self._author, stored, header)
        _add_plane(ds, _free_group(ds), self._author.account.shape, regions)
        element = Pixels("PixelData", "OW" if ds.BitsAllocated > 8 else "OB", len(pixels), lambda: [pixels])
        path = self._folder / name
        waiting = _Waiting(path, partial_of(path))
        self._waiting.append(waiting)
        head = write(ds, waiting.partial, pixels=element)
        waiting.places = head.index(_SERIES_LATER), head.index(_OBJECT_LATER), head.rindex(_OBJECT_LATER)
        if self._author.deterministic:
            waiting.digest = content_digest(ds, element.encoded(), {"SeriesInstanceUID"})

    def finish(self) -> list[Path]:
        """Enter the UIDs and put all objects in place.

        Raises:
            Refused: an object read back has other UIDs.
            OSError: one cannot be written.
        """
        series = self._author.uid(SERIES.kind, "series")
        for number, waiting in enumerate(self._waiting, start=1):
            words = [waiting.digest, series] if self._author.deterministic else [SERIES.kind, "instance", str(number)]
            _enter(waiting, series, self._author.uid(*words))
        for waiting in self._waiting:
            os.replace(waiting.partial, waiting.path)
        written = [waiting.path for waiting in self._waiting]
        self._waiting = []
        return written

    def close(self) -> None:
        """Remove what has no name yet."""
        for waiting in self._waiting:
            waiting.partial.unlink(missing_ok=True)
        self._waiting = []


@dataclass
class _Waiting:
    """An object without its UIDs: its path, where it is now, its digest, where UIDs belong (series, own, own)."""

    path: Path
    partial: Path
    digest: str = ""
    places: tuple[int, ...] = ()


def _enter(waiting: _Waiting, series: str, own: str) -> None:
    """Write the UIDs of series and object to their places in the file, and read them back."""
    with waiting.partial.open("r+b") as file:
        for place, uid in zip(waiting.places, (series, own, own), strict=True):
            file.seek(place)
            file.write(uid.encode())
    read = pydicom.dcmread(
        waiting.partial, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"]
    )
    if (read.SeriesInstanceUID, read.SOPInstanceUID, read.file_meta.MediaStorageSOPInstanceUID) != (series, own, own):
        raise Refused("UIDs read back differ from those that were meant")


def _derived(author: Author, stored: StoredImage, header: Dataset) -> tuple[Dataset, bytes]:
    """Return the source with new identity as an object, in Explicit VR Little Endian, and its pixels, uncompressed."""
    if stored.pixels is None:
        raise Refused("the source's pixels are floating-point numbers, to which no overlay plane applies")
    ds = Dataset()
    ds.update(dict(header.items()))
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration",
                    "PhotometricInterpretation", "SamplesPerPixel"):  # fmt: skip
        if keyword in stored.header:
            ds[keyword] = copy.deepcopy(stored.header[keyword])
    if not stored.header.file_meta.TransferSyntaxUID.is_little_endian:
        _swap(ds)
    pixels = stored.pixels if isinstance(stored.pixels, bytes) else stored.pixels.tobytes()
    if ds.get("PatientIdentityRemoved") == "YES":
        pixels = without_spare_bits(pixels, ds)

    source = author.reference(ds)
    source_type = [str(v) for v in (ds.get("ImageType") or [])]
    ds.ImageType = ["DERIVED", "SECONDARY", *(source_type[2:] or [""]), OVERLAY_TYPE]
    ds.SOPInstanceUID, ds.SeriesInstanceUID = _OBJECT_LATER.decode(), _SERIES_LATER.decode()
    ds.SeriesNumber, ds.SeriesDescription = author.series_number(SERIES), series_description(SERIES)
    created = author.created
    ds.InstanceCreationDate, ds.InstanceCreationTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S.%f")
    contribution = Dataset()
    contribution.Manufacturer, contribution.ManufacturerModelName = MANUFACTURER, author.account.model
    contribution.SoftwareVersions, contribution.DeviceSerialNumber = author.versions, author.serial
    contribution.ContributionDescription = RESEARCH
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    contribution.PurposeOfReferenceCodeSequence = [purpose]
    ds.ContributingEquipmentSequence = [*(ds.get("ContributingEquipmentSequence") or []), contribution]

    author.describe(ds, "Copy of the source with an overlay plane where the map exceeds the threshold.")
    ds.SourceImageSequence = [source]
    if not UID(str(ds.get("FrameOfReferenceUID") or "")).is_valid or stored.plane is None:
        ds.pop("FrameOfReferenceUID", None)  # without a place it says nothing
        if "PatientOrientation" not in ds:
            ds.PatientOrientation = []  # type 2C without a place in the patient
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds, pixels


def without_spare_bits(pixels: bytes, ds: Dataset) -> bytes:
    """Return little-endian pixels with the bits outside Bits Stored cleared, or equal to the sign.

    Before 2004 an image could hold overlays there, with names written into them.
    """
    allocated, stored, high = int(ds.BitsAllocated), int(ds.BitsStored), int(ds.HighBit)
    if stored >= allocated or allocated not in (8, 16, 32):
        return pixels
    signed = bool(ds.get("PixelRepresentation"))
    values = np.frombuffer(pixels, np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}"))
    above, below = allocated - 1 - high, high + 1 - stored
    return bytes((((values << above) >> above) >> below << below).astype(values.dtype).tobytes())


def _free_group(ds: Dataset) -> int:
    taken = {element.tag.group for element in ds if 0x6000 <= element.tag.group <= 0x601E}
    free = [group for group in range(0x6000, 0x6020, 2) if group not in taken]
    if not free:
        raise Refused("all sixteen overlay groups (6000-601E) of the source are taken")
    return free[0]


def _add_plane(ds: Dataset, group: int, shape: tuple[int, int], regions: Iterable[np.ndarray]) -> None:
    bits = b"".join(packed(regions))
    for element, vr, value in (
        (0x0010, "US", shape[0]),
        (0x0011, "US", shape[1]),
        (0x0022, "LO", "Anomaly above threshold"),
        (0x0040, "CS", "R"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", OVERLAY_LABEL),
        (0x3000, "OW", bits + b"\0" * (len(bits) % 2)),
    ):
        ds.add_new((group, element), vr, value)
    if number_of_frames(ds) > 1:
        ds.add_new((group, 0x0015), "IS", number_of_frames(ds))
        ds.add_new((group, 0x0051), "US", 1)


def _swap(ds: Dataset) -> None:
    """Bring words of a big-endian source into little-endian order, in all but its pixels, which are in it already."""
    for element in ds.iterall():
        if element.VR == "OW" and isinstance(element.value, bytes):
            element.value = in_little_endian(element.value, 2)
