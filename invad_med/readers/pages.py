"""Whether the pages of a file are the slices of one image, by what its writer says besides.

| said in | what is refused |
|---|---|
| ImageDepth (32997) | several planes in one page |
| ImageDescription of ImageJ, of tifffile (``{"shape": ...}``), OME-XML | more pictures than pages, which lie behind |
| | the first without a page of their own; pages of channels, times and depths at once |
| PNG, acTL | an animation |
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from PIL import Image

from invad_med.data.slices import ReadError

_DESCRIPTION, _SAMPLES, _PLANES, _DEPTH = 270, 277, 284, 32997


def count_slices(image: Image.Image) -> int:
    """Return the number of pages of a TIFF, 1 of anything else, from what is known before decoding.

    Raises:
        ReadError: the pages are not all that the file shows, or no slices of one image.
    """
    pages = int(getattr(image, "n_frames", 1))
    if image.format == "PNG" and pages > 1:
        raise ReadError(f"PNG of {pages} pictures (an animation); save each in a file of its own")
    if image.format != "TIFF":
        return 1
    tags: Any = getattr(image, "tag_v2", {})
    depth = tags.get(_DEPTH, 1)
    if isinstance(depth, int) and depth > 1:
        raise ReadError(f"TIFF with {depth} planes in one page (ImageDepth); save a page for each")
    said, mixed = _said(str(tags.get(_DESCRIPTION) or ""), image, tags)
    if said > pages:
        raise ReadError(f"TIFF that says it holds {said} pictures and has {pages} page(s); save a page for each")
    if pages > 1 and mixed:
        raise ReadError("TIFF whose pages are of several channels, times or depths at once; save a file for each stack")
    return pages


def _said(description: str, image: Image.Image, tags: Any) -> tuple[int, bool]:
    """Return how many pictures a description tells of, and whether of two of channels, times and depths at once."""
    if description.startswith("ImageJ="):
        words = dict(re.findall(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", description, re.MULTILINE))
        return int(words.get("images", 1)), _mixed(int(words.get(k, 1)) for k in ("channels", "slices", "frames"))
    if description.startswith("{"):
        try:
            shape = [int(n) for n in json.loads(description)["shape"]]
        except (ValueError, TypeError, KeyError):
            return 1, False
        size = [image.height, image.width]
        if shape[-2:] == size:
            return math.prod(shape[:-2]) // (int(tags.get(_SAMPLES, 1)) if tags.get(_PLANES) == 2 else 1), False
        colour = shape[-3:-1] == size and shape[-1] in (3, 4)
        return (math.prod(shape[:-3]) if colour else 1), False
    if "<OME" in description[:2000]:
        sizes = {key: int(n) for key, n in re.findall(r'\bSize([ZCT])="(\d{1,9})"', description)}
        samples = [int(n) for n in re.findall(r'\bSamplesPerPixel="(\d{1,9})"', description)]
        axes = [max(sizes.get("C", 1) // max([*samples, 1]), 1), sizes.get("Z", 1), sizes.get("T", 1)]
        return math.prod(axes), _mixed(axes)
    return 1, False


def _mixed(axes: Iterable[int]) -> bool:
    """Return whether more than one axis besides rows and columns is longer than 1."""
    return sum(length > 1 for length in axes) > 1
