"""Whether what a server holds is what was sent, or another object of the same UID.

An archive that already holds a UID may discard what comes later and answer as if it had stored it. It may as well have
stored the object and changed it on the way in: corrected patient, study and request, noted who stored it, compressed
the pixels. So not all is compared, but what an object of a result says: its pixels, overlays, geometry, references,
content, derivation. All that was sent of these must be held, with the same values; what the server adds is not looked
at, nor is when the object was made: a result that is made again under the same UID is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

_WHEN_OR_WHO = {"DA", "TM", "DT", "PN", "AE"}
_CORRECTED = {0x0002, 0x0010, 0x0012, 0x0032, 0x0038, 0x0400}  # groups: patient, trial, request, visit, changes
_OF_GROUP_8 = {  # the rest of it is of study, institution and archive
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "ManufacturerModelName", "DerivationDescription",
    "SourceImageSequence", "ReferencedSeriesSequence", "ReferencedImageSequence",
}  # fmt: skip
_CORRECTED_ELSEWHERE = {
    "BodyPartExamined", "ProtocolName", "ContributingEquipmentSequence", "StudyID", "SeriesNumber", "ImageComments",
}  # fmt: skip
_OF_ENCODING = {
    "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
}  # fmt: skip
_LOSSLESS = {
    RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL,
}  # fmt: skip


def holds(held: Dataset, sent: Dataset) -> bool:
    """Return whether an object that a server holds says all that the one sent says.

    Args:
        held, sent: whole objects with file meta information. Pixels that the server compressed are compared as decoded;
            where it did so with loss, or they cannot be decoded, all but the pixels is compared.
    """
    encoded = held.file_meta.TransferSyntaxUID != sent.file_meta.TransferSyntaxUID
    for element in sent:
        if _ours(element) and not (encoded and element.keyword in _OF_ENCODING):
            if element.keyword == "PixelData":
                if not _same_pixels(held, sent):
                    return False
            elif not _same(held.get(element.tag), element):
                return False
    return True


def _ours(element: DataElement) -> bool:
    """Return whether an element at the top of an object is part of what it says."""
    group, number = element.tag.group, element.tag.element
    if element.tag.is_private or number == 0 or group in _CORRECTED or element.keyword in _CORRECTED_ELSEWHERE:
        return False
    if group == 0x0008:
        return element.keyword in _OF_GROUP_8
    return group != 0x0040 or number >= 0xA000  # of 0040, what a report says; the rest is of procedure and request


def _same(held: DataElement | None, sent: DataElement) -> bool:
    if sent.VR in _WHEN_OR_WHO:
        return True
    if sent.VR != "SQ":
        meant = _plain(sent.value)
        return meant == "" or (held is not None and _plain(held.value) == meant)
    theirs = [] if held is None else list(held.value)
    return len(theirs) == len(sent.value) and all(
        _same(item.get(element.tag), element)
        for item, mine in zip(theirs, sent.value, strict=True)
        for element in mine
        if not element.tag.is_private and element.tag.element != 0
    )


def _plain(value: Any) -> Any:
    """Return a value without what encodings change: padding, the way a number is written, a list of one."""
    if value is None or isinstance(value, bytes):
        return value or ""
    if isinstance(value, str):
        return value.strip(" \0\r\n")
    if isinstance(value, int | float):  # integer and decimal strings too
        return float(value)
    if hasattr(value, "__iter__"):
        values = [_plain(v) for v in value]
        return values if len(values) > 1 else values[0] if values else ""
    return str(value)


def _same_pixels(held: Dataset, sent: Dataset) -> bool:
    syntaxes = {ds.file_meta.TransferSyntaxUID for ds in (held, sent)}
    if len(syntaxes) == 1 or all(s.is_little_endian and not s.is_compressed for s in syntaxes):
        return bytes(held.get("PixelData") or b"") == bytes(sent.PixelData)
    if any(s.is_encapsulated and s not in _LOSSLESS for s in syntaxes):
        return True
    try:
        return np.array_equal(held.pixel_array, sent.pixel_array)
    except Exception:  # there is no decoder for it
        return True
