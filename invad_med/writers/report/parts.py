"""What the page shows of one source: a small picture and a coarse map of every slice, in a file of its own.

The file is written when its source is done, so that a run holds one source at a time and one that goes on draws nothing
twice. It does not grow with the number n of slices beyond 15 MB:

| of a slice | at most |
|---|---|
| picture, JPEG, longest side | 384 pixels, and 256 √(300 / n) |
| picture, by a lower quality if need be | 32,000 bytes, and 32,000 · 300 / n |
| map, one byte a cell, longest side | 64 cells, and 64 √(300 / n) |
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invad_med.data.own_results import MARK
from invad_med.data.prediction import Prediction
from invad_med.data.slices import Slice, Source
from invad_med.files import write_atomically
from invad_med.writers.naming import part_path

_SLICES = 300  # whose pictures and maps, in base64, take 15 MB together
_LARGEST, _SIDE, _CELLS, _BYTES = 384, 256, 64, 32_000
_QUALITIES = (88, 75, 60, 45, 30, 15)
_FORMATS = {"raster": "picture", "nifti": "NIfTI", "dicom": "DICOM"}


@dataclass(frozen=True)
class Frame:
    """One slice as the page shows it.

    Args:
        index: its position in the source, 0-based.
        picture: JPEG in base64; pixels are square in mm where the spacing is known.
        rows, columns: of the map; 0 without one.
        cells: rows x columns bytes in base64, the largest value of each cell on the scale of the heatmaps: 255 is twice
            the threshold of the map and more.
        peak: where the map is highest, (x, y) in fractions of width and height from the upper left corner; None
            without a map.
    """

    index: int
    picture: str
    rows: int = 0
    columns: int = 0
    cells: str = ""
    peak: tuple[float, float] | None = None


@dataclass(frozen=True)
class Part:
    """What the page shows of one source.

    Args:
        frames: of the slices that could be read.
        about: what the source is: title -> text, without identity.
        model: what the model that scored it states, see `invad_med.data.provenance.Provenance.stated`.
    """

    frames: tuple[Frame, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, str | int | float] = field(default_factory=dict)


def write_part(part: Part, output_dir: Path, source: Source) -> Path:
    """Write the part of a source, whole or not at all, and return its path.

    Raises:
        OSError: it cannot be written.
    """
    path = part_path(output_dir, source)
    write_atomically(path, json.dumps({"mark": MARK, **dataclasses.asdict(part)}, separators=(",", ":")).encode())
    return path


def read_part(path: Path) -> Part:
    """Return the part that a file holds.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no part.
    """
    stated: Any = json.loads(path.read_bytes())
    try:
        return Part(
            tuple(_checked(frame) for frame in stated["frames"]),
            {str(title): str(text) for title, text in stated["about"].items()},
            {
                str(key): value if isinstance(value, int | float) else str(value)
                for key, value in stated["model"].items()
            },
        )
    except (KeyError, TypeError, AttributeError):
        raise ValueError("no part of a page") from None


def _checked(stated: Mapping[str, Any]) -> Frame:
    peak = stated["peak"] and (float(stated["peak"][0]), float(stated["peak"][1]))
    rows, columns = int(stated["rows"]), int(stated["columns"])
    picture, cells = str(stated["picture"]), str(stated["cells"])
    if len(base64.b64decode(cells, validate=True)) != rows * columns or not base64.b64decode(picture, validate=True):
        raise ValueError(f"no map of {rows} x {columns} cells, or no picture")
    return Frame(int(stated["index"]), picture, rows, columns, cells, peak)


def frame_of(prediction: Prediction, piece: Slice, unit_image: np.ndarray, values: np.ndarray | None = None) -> Frame:
    """Return what the page shows of a slice.

    Args:
        prediction: of it.
        piece: the slice.
        unit_image: (H, W) or (H, W, 3) in [0, 1], as from `invad_med.data.transforms.to_unit`.
        values: (H, W), its map if it has one.
    """
    share = min(1.0, _SLICES / piece.source.n_slices)
    side = min(_LARGEST, max(16, int(_SIDE * math.sqrt(_SLICES / piece.source.n_slices))))
    picture = _encoded(_picture(unit_image, piece.spacing or (1.0, 1.0), side), int(_BYTES * share))
    limit = prediction.map_threshold
    if values is None or limit is None or not 0.0 < limit < math.inf:
        return Frame(prediction.index, picture)
    values = np.where(np.isfinite(values), values, 0.0)
    cells = _cells(values / limit, max(4, int(_CELLS * math.sqrt(share))))
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    peak = (round((column + 0.5) / values.shape[1], 4), round((row + 0.5) / values.shape[0], 4))
    rows, columns = cells.shape
    return Frame(prediction.index, picture, rows, columns, base64.b64encode(cells.tobytes()).decode(), peak)


def _picture(unit: np.ndarray, spacing: tuple[float, float], side: int) -> Image.Image:
    """Return intensities in [0, 1] as a picture of at most ``side`` pixels, in the slice's shape in mm."""
    picture = Image.fromarray((unit * np.float32(255.0) + np.float32(0.5)).astype(np.uint8))
    height, width = picture.height * spacing[0], picture.width * spacing[1]
    factor = min(side, max(picture.size)) / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encoded(picture: Image.Image, most: int) -> str:
    """Return a JPEG in base64, of the best quality that takes ``most`` bytes, else of the lowest."""
    for quality in _QUALITIES:
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=quality, optimize=True)
        if content.tell() <= most:
            break
    return base64.b64encode(content.getvalue()).decode()


def _cells(ratio: np.ndarray, side: int) -> np.ndarray:
    """Return the largest value of each of at most ``side`` x ``side`` cells: uint8, where 255 is 2 and more."""
    for axis, length in enumerate(ratio.shape):
        count = min(length, side)
        ratio = np.maximum.reduceat(ratio, np.arange(count) * length // count, axis=axis)
    return np.clip(np.round(ratio * 127.5), 0, 255).astype(np.uint8)


def about_of(piece: Slice) -> dict[str, str]:
    """Return what the source of a slice is: title -> text, without identity."""
    source = piece.source
    height, width = piece.pixels.shape[:2]
    told = " ".join(word for word in (source.modality, source.body_part) if word)
    spacing = f", {piece.spacing[0]:.3g} × {piece.spacing[1]:.3g} mm" if piece.spacing else ""
    return {
        "format": _FORMATS[source.kind] + (f", {told}" if told else ""),
        "files": str(len(source.paths)),
        "pixels": f"{height} × {width} (rows × columns){spacing}",
    }
