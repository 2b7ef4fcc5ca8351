"""The mark that pictures and maps of a run carry, so that no later run takes them for images of patients.

| file | where |
|---|---|
| PNG | text chunk ``Software`` |
| TIFF | tag ImageDescription of the first page |
| NIfTI | header field ``descrip`` |
| HTML, JSON | within the first `_HEAD` bytes: they are no images, but removed with the others |

DICOM objects are told by their equipment: see `invad_med.readers.dicom.own`.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, PngImagePlugin

from invad_med.data.slices import ReadError

MARK = "invad-med result, research use only"
_IMAGE_DESCRIPTION = 270
_HEAD = 512


class OwnResult(ReadError):
    """A file that this program wrote: no image to be scored again."""


def png_mark() -> PngImagePlugin.PngInfo:
    """Return what ``Image.save(..., pnginfo=...)`` writes into a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", MARK)
    return info


def is_marked(image: Image.Image) -> bool:
    """Return whether a picture, opened but not decoded, is a result."""
    if image.format == "PNG":
        return str(image.info.get("Software") or "") == MARK
    if image.format == "TIFF":
        return str(getattr(image, "tag_v2", {}).get(_IMAGE_DESCRIPTION) or "").rstrip("\0") == MARK
    return False


def is_marked_text(path: Path) -> bool:
    """Return whether a page, or a part of one, is a result; False of what cannot be read."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(_HEAD)
    except OSError:
        return False
