"""What heatmap and overview share: one colour scale, its bar, fonts, text that fits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT = (18, 18, 20), (230, 230, 230), (150, 150, 155)
ABOVE, BELOW, UNKNOWN = (226, 74, 66), (86, 168, 110), (130, 130, 135)
_OPACITY = 0.7  # of the overlay at the scale's upper end; the slice stays visible everywhere
_TONE = 110  # grey of a middling tissue, on which the colour bar is drawn


@cache
def overlay() -> tuple[np.ndarray, np.ndarray]:
    """Return colours (256, 3) as uint16 in 0..255 and weights (256,) as uint16 in 0..256, over the scale 0..1."""
    v = np.linspace(0.0, 1.0, 256)
    colours = matplotlib.colormaps["inferno"](0.35 + 0.6 * np.clip(2 * v - 1, 0, 1))[:, :3]  # purple to yellow
    return np.round(255 * colours).astype(np.uint16), np.round(256 * _OPACITY * _ramp(v)).astype(np.uint16)


def _ramp(v: np.ndarray) -> np.ndarray:
    """Return relative opacity: 0 up to the threshold (v = 0.5), then from a third to 1 at one and a half times it."""
    return np.where(v > 0.5, np.clip(1 / 3 + (v - 0.5) * (2 / 3) / 0.25, 0.0, 1.0), 0.0)


def fuse(grey: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Lay the colours of a map over an image.

    Args:
        grey: (H, W) or (H, W, 3) uint8.
        scale: (H, W) uint8, the map on the fixed scale: 0 is 0, 255 is twice the threshold and more.

    Returns:
        (H, W, 3) uint8.
    """
    table, below = _mixtures(), scale.astype(np.intp)
    if grey.ndim == 2:
        return table.take(grey.astype(np.intp) << 8 | below, axis=0)
    channels = [table[:, c].take(grey[..., c].astype(np.intp) << 8 | below) for c in range(3)]
    return np.stack(channels, axis=-1)


@cache
def _mixtures() -> np.ndarray:
    """Return (65536, 3) uint8: what 256 times a grey, plus a place on the scale, look like together."""
    colours, weights = overlay()
    greys = np.arange(256, dtype=np.uint16)[:, None, None]
    mixed = (greys * (256 - weights[:, None]) + colours * weights[:, None]) >> 8
    return mixed.astype(np.uint8).reshape(-1, 3)


@cache
def colour_bar(height: int, width: int) -> Image.Image:
    """Return the scale as it looks over grey tissue, 0 at the bottom, with a line at the threshold in its middle."""
    scale = np.broadcast_to(np.linspace(255, 0, height).round().astype(np.uint8)[:, None], (height, width))
    bar = fuse(np.full((height, width), _TONE, np.uint8), scale)
    middle = round((height - 1) / 2)
    bar[middle : middle + 1] = TEXT
    return Image.fromarray(bar)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the sans-serif font that Matplotlib ships, at a size in pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shorten(text: str, size: int, width: float) -> str:
    """Return text with its middle left out where it is wider than ``width`` pixels."""
    if font(size).getlength(text) <= width:
        return text
    low, high = 0, len(text)  # characters kept: low fits, high does not
    while high - low > 1:
        kept = (low + high) // 2
        low, high = (kept, high) if font(size).getlength(_elided(text, kept)) <= width else (low, kept)
    return _elided(text, low)


def _elided(text: str, kept: int) -> str:
    return f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"


def wrap(text: str, size: int, width: float, lines: int) -> list[str]:
    """Break text at spaces into at most ``lines`` lines of ``width`` pixels, the last one shortened if need be."""
    result: list[str] = []
    words = text.split()
    while words and len(result) < lines - 1:
        count = 1
        while count < len(words) and font(size).getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        result.append(shorten(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*result, shorten(" ".join(words), size, width)] if words else result


def write(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int] = TEXT,
    anchor: str = "la",
) -> None:
    """Draw one line of text; ``anchor`` as Pillow names them."""
    draw.text(xy, text, fill=fill, font=font(size), anchor=anchor)
