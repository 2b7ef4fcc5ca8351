"""One slice with its anomaly map laid over it, on a colour scale that two pictures share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from invad_med.data.modalities import find_modality
from invad_med.data.own_results import png_mark
from invad_med.data.prediction import Prediction
from invad_med.files import write_atomically
from invad_med.writers import canvas
from invad_med.writers.naming import printable, slice_label, slice_path
from invad_med.writers.png import encode_png

_SMALL, _LARGE = 384, 768  # longest side of the drawn slice in pixels: small ones are enlarged, large ones reduced
_MARGIN, _BAR, _SIZE, _LINE = 12, 16, 13, 18
_PANEL = "panel"  # text chunk with the edges of the slice
_CONTOUR = np.array((70, 225, 255), np.uint8)


def draw_heatmap(
    prediction: Prediction, unit_image: np.ndarray, reduce: bool = True, values: np.ndarray | None = None
) -> Image.Image:
    """Draw the slice, the map over it, a contour at the threshold, a colour bar and a caption.

    The scale runs from 0 to twice ``map_threshold`` in every picture, so the same multiple of the threshold has the
    same colour everywhere. Below the threshold the slice is seen as it is. Slices of less than 384 pixels
    are enlarged by a whole factor, those of more than 768 reduced. Where the calibrated score is withheld, the scale
    is tied to the norm expected under the prior, and bar and caption say so.

    Args:
        prediction: with ``map`` (H, W) and ``map_threshold`` > 0; map values that are not finite are left clear.
        unit_image: (H, W) or (H, W, 3) in [0, 1], as from `invad_med.data.transforms.to_unit`.
        reduce: False draws large slices at their own resolution.
        values: the prediction's map where it is at hand: each access to that makes it anew.

    Returns:
        an RGB picture; ``info["panel"]`` is the (left, top, right, bottom) of the slice in it.

    Raises:
        ValueError: no map, no threshold, or a shape that is not the map's.
    """
    limit, values = prediction.map_threshold, prediction.map if values is None else values
    if values is None or limit is None or not 0.0 < limit < math.inf:
        raise ValueError(f"a heatmap needs a map and a map_threshold > 0, not {limit} (status: {prediction.status})")
    if unit_image.shape not in (values.shape, (*values.shape, 3)):
        raise ValueError(f"image of shape {unit_image.shape}, but the map has {values.shape}")
    panel = _panel(unit_image, values, limit, _LARGE if reduce else math.inf)

    ticks = ((0.0, f"{2 * limit:.3g}"), (0.5, "threshold" if _calibrated(prediction) else "prior norm"), (1.0, "0"))
    wide = max(panel.width, 300)
    side = _BAR + 8 + math.ceil(max(canvas.font(_SIZE - 2).getlength(word) for _, word in ticks))
    lines = _caption(prediction, wide + _MARGIN + side)
    bar_height = max(panel.height, 60)
    picture = Image.new(
        "RGB",
        (_MARGIN + wide + _MARGIN + side + _MARGIN, _MARGIN + bar_height + _MARGIN + _LINE * len(lines) + 8),
        canvas.BACKGROUND,
    )
    left = _MARGIN + (wide - panel.width) // 2
    top = _MARGIN + (bar_height - panel.height) // 2
    picture.paste(panel, (left, top))
    picture.info["panel"] = (left, top, left + panel.width, top + panel.height)

    draw = ImageDraw.Draw(picture)
    bar_left = _MARGIN + wide + _MARGIN
    picture.paste(canvas.colour_bar(bar_height, _BAR), (bar_left, _MARGIN))
    for at, word in ticks:
        y = _MARGIN + at * (bar_height - 1)
        canvas.write(draw, (bar_left + _BAR + 6, y), word, _SIZE - 2, anchor={0.0: "lt", 0.5: "lm", 1.0: "ls"}[at])
    if _calibrated(prediction):
        y = _MARGIN + (bar_height - 1) / 2 + _SIZE
        canvas.write(draw, (bar_left + _BAR + 6, y), f"{limit:.3g}", _SIZE - 2, canvas.FAINT, "lm")
    for number, (line, fill) in enumerate(lines):
        canvas.write(draw, (_MARGIN, _MARGIN + bar_height + _MARGIN + _LINE * number), line, _SIZE, fill)
    return picture


def save_heatmap(
    prediction: Prediction, unit_image: np.ndarray, output_dir: str | Path, values: np.ndarray | None = None
) -> Path:
    """Write the heatmap as ``<output_dir>/heatmaps/<source.name>[_sNNN].png`` and return its path.

    NNN is the 0-based slice, there only if the source has more than one. The file appears whole or not at all.

    Args:
        prediction, unit_image, values: as `draw_heatmap`.
        output_dir: made if need be.

    Raises:
        ValueError: as `draw_heatmap`.
        OSError: the file cannot be written.
    """
    picture = draw_heatmap(prediction, unit_image, values=values)
    path = slice_path(Path(output_dir) / "heatmaps", prediction.source, prediction.index, ".png")
    marks = png_mark()
    marks.add_text(_PANEL, " ".join(str(edge) for edge in picture.info["panel"]))
    write_atomically(path, encode_png(picture, marks))
    return path


def open_heatmap(path: str | Path) -> Image.Image:
    """Return what `draw_heatmap` drew, from the file that `save_heatmap` wrote.

    Raises:
        OSError, ValueError: it is not there, or no such file.
    """
    with Image.open(path) as picture:
        picture.load()
    picture.info["panel"] = tuple(int(edge) for edge in str(picture.info.get(_PANEL)).split())
    return picture


def _panel(unit_image: np.ndarray, values: np.ndarray, limit: float, largest: float) -> Image.Image:
    """Return slice, colours and contour at display size."""
    height, width = values.shape
    factor = -(-_SMALL // max(height, width)) if max(height, width) < _SMALL else min(1.0, largest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    block = min(max(1, int(1.0 / factor)), height, width)
    unit = _reduced(unit_image, block, np.add) * np.float32(1.0 / block**2)
    ratio = _reduced(values, block, np.fmax) * np.float32(1.0 / limit)  # the largest, so that no small peak is lost
    ratio[~np.isfinite(ratio)] = 0.0
    slice_ = Image.fromarray((np.clip(unit, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8))
    if size != slice_.size:
        slice_ = slice_.resize(size, Image.Resampling.BICUBIC)
        ratio = np.asarray(Image.fromarray(ratio).resize(size, Image.Resampling.BILINEAR))
    fused = canvas.fuse(np.asarray(slice_), np.clip(ratio * np.float32(127.5), 0.0, 255.0).astype(np.uint8))
    fused[_outline(ratio > 1.0)] = _CONTOUR
    return Image.fromarray(fused)


def _reduced(array: np.ndarray, block: int, join: np.ufunc) -> np.ndarray:
    """Return blocks of ``block`` x ``block`` pixels joined to one by ``join``, a rest at the far edges left out.

    Pillow's filters do the remaining fraction; alone they take several times as long on a radiograph.
    """
    array = array[: array.shape[0] // block * block, : array.shape[1] // block * block]
    result = array[::block, ::block].astype(np.float32)
    for row in range(block):
        for column in range(block):
            if row or column:
                join(result, array[row::block, column::block], out=result)
    return result


def _outline(inside: np.ndarray) -> np.ndarray:
    """Return the pixels on both sides of a region's border; the picture's edge is none."""
    line = np.zeros_like(inside)
    rows, columns = inside[:-1] ^ inside[1:], inside[:, :-1] ^ inside[:, 1:]
    line[:-1] |= rows
    line[1:] |= rows
    line[:, :-1] |= columns
    line[:, 1:] |= columns
    return line


def _calibrated(prediction: Prediction) -> bool:
    return prediction.score is not None


def _caption(prediction: Prediction, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the lines below the slice, with their colours."""
    modality = find_modality(prediction.modality) if prediction.modality else None
    title = modality.title if modality else printable(prediction.modality or "unknown data set")
    lines = [(canvas.shorten(slice_label(prediction.source, prediction.index), _SIZE, width), canvas.TEXT)]
    reason = prediction.reason
    if prediction.score is None:
        text = f"{title}  ·  calibrated score withheld: {reason or 'no calibration'}"
        reason = None
        if prediction.paper_score is not None:
            text += f"  ·  paper score {prediction.paper_score:.3g}"
    else:
        text = f"{title}  ·  score {prediction.score:.3g}"
        text += f" (threshold {prediction.threshold:.3g})" if prediction.threshold is not None else " (no threshold)"
        if prediction.p_value is not None:
            text += f"  ·  p = {prediction.p_value:.2g}"
        if prediction.threshold is not None:
            text += f"  ·  {'above' if prediction.score > prediction.threshold else 'below'} threshold"
    lines += [(line, canvas.TEXT) for line in canvas.wrap(text, _SIZE, width, 4)]
    if reason:
        lines += [(line, canvas.FAINT) for line in canvas.wrap(printable(reason), _SIZE, width, 3)]
    return [*lines, ("research use only", canvas.FAINT)]
