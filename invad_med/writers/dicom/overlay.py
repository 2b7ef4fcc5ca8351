"""A derived copy of every source image with the region above threshold as an overlay plane (PS3.3 C.9.2).

Pixel values stay as they are (decompressed where the source was compressed); the plane goes into the next free group
6000, 6002 .. 601E. One bit a pixel: the region, not the heatmap. Its type is R, region of interest, so that viewers
that tell the types apart leave the region as it is and dim the rest, instead of covering the finding.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian

from invad_med.readers.dicom.headers import number_of_frames
from invad_med.readers.dicom.own import MANUFACTURER, OVERLAY_LABEL, OVERLAY_TYPE, RESEARCH
from invad_med.readers.dicom.stored import StoredImage, in_little_endian
from invad_med.writers.dicom.common import Author, Series, same, save
from invad_med.writers.dicom.evidence import Refused

SERIES = Series("overlay", 1, "Anomaly overlay")


def write_overlay(author: Author, folder: Path) -> list[Path]:
    """Write one object per source file, ``<folder>/overlay[_sNNN].dcm``, NNN the slice's index.

    Args:
        author: of the result.
        folder: made if need be.

    Raises:
        Refused: colour, an enhanced object (its IOD has no overlays), no free group, floating-point pixels.
        OSError: a file cannot be written.
    """
    evidence = author.evidence
    if str(evidence.first.get("PhotometricInterpretation")).strip() not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused("the source is in colour, on which no overlay plane is drawn; ask for secondary_capture")
    if "SharedFunctionalGroupsSequence" in evidence.first or "Enhanced" in evidence.first.SOPClassUID.name:
        raise Refused("the source is an enhanced object, which may hold no overlay plane; ask for segmentation")
    if evidence.part is not None:
        raise Refused("only some frames of the multi-frame source were scored, and an overlay covers all of them")
    regions = author.result.regions
    written = []
    for number, stored in enumerate(evidence.stored):
        planes = evidence.in_stored_order(regions) if evidence.frames is not None else regions[number : number + 1]
        ds = _derived(author, stored, evidence.images[number], number)
        pixels = bytes(ds.PixelData)
        group = _free_group(ds)
        _add_plane(ds, group, planes)
        of_several = len(author.result.source.paths) > 1
        name = f"overlay_s{author.result.predictions[number].index:03d}.dcm" if of_several else "overlay.dcm"

        def check(read: Dataset, group: int = group, planes: np.ndarray = planes, pixels: bytes = pixels) -> None:
            same(read.overlay_array(group).reshape(planes.shape).astype(bool), planes)
            if read.PixelData != pixels:
                raise Refused("pixel data of the copy differ from the source's")

        written.append(save(ds, author, folder / name, check))
    return written


def _derived(author: Author, stored: StoredImage, header: Dataset, number: int) -> Dataset:
    """Return the source with new identity as an object, uncompressed in Explicit VR Little Endian."""
    if stored.pixels is None:
        raise Refused("the source's pixels are floating-point numbers, to which no overlay plane applies")
    ds = Dataset()
    ds.update(copy.deepcopy(dict(header.items())))  # a dataset shares its elements with one it is updated from
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration",
                    "PhotometricInterpretation", "SamplesPerPixel"):  # fmt: skip
        if keyword in stored.header:
            ds[keyword] = copy.deepcopy(stored.header[keyword])
    if not stored.header.file_meta.TransferSyntaxUID.is_little_endian:
        _swap(ds)
    pixels = stored.pixels if isinstance(stored.pixels, bytes) else stored.pixels.tobytes()
    if ds.get("PatientIdentityRemoved") == "YES":
        pixels = without_spare_bits(pixels, ds)
    ds.add_new("PixelData", "OW" if ds.BitsAllocated > 8 else "OB", pixels + b"\0" * (len(pixels) % 2))

    keywords = author.keywords(SERIES, number + 1)
    source_type = [str(v) for v in (ds.get("ImageType") or [])]
    ds.ImageType = ["DERIVED", "SECONDARY", *(source_type[2:] or [""]), OVERLAY_TYPE]
    ds.SOPInstanceUID = keywords["sop_instance_uid"]
    ds.SeriesInstanceUID, ds.SeriesNumber = keywords["series_instance_uid"], keywords["series_number"]
    ds.SeriesDescription = keywords["series_description"]
    created = author.created
    ds.InstanceCreationDate, ds.InstanceCreationTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S.%f")
    contribution = Dataset()
    contribution.Manufacturer, contribution.ManufacturerModelName = MANUFACTURER, author.result.model
    contribution.SoftwareVersions, contribution.DeviceSerialNumber = author.versions, author.serial
    contribution.ContributionDescription = RESEARCH
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    contribution.PurposeOfReferenceCodeSequence = [purpose]
    ds.ContributingEquipmentSequence = [*(ds.get("ContributingEquipmentSequence") or []), contribution]

    author.finish(ds, SERIES, "Copy of the source with an overlay plane where the map exceeds the threshold.")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


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


def _add_plane(ds: Dataset, group: int, planes: np.ndarray) -> None:
    for element, vr, value in (
        (0x0010, "US", planes.shape[1]),
        (0x0011, "US", planes.shape[2]),
        (0x0022, "LO", "Anomaly above threshold"),
        (0x0040, "CS", "R"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", OVERLAY_LABEL),
        (0x3000, "OW", pack_bits(planes.astype(np.uint8))),
    ):
        ds.add_new((group, element), vr, value)
    if number_of_frames(ds) > 1:
        ds.add_new((group, 0x0015), "IS", len(planes))
        ds.add_new((group, 0x0051), "US", 1)


def _swap(ds: Dataset) -> None:
    """Bring words of a big-endian source into little-endian order, in all but its pixels, which are in it already."""
    for element in ds.iterall():
        if element.VR == "OW" and isinstance(element.value, bytes):
            element.value = in_little_endian(element.value, 2)
