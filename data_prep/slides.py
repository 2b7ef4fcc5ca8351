"""Whole slides in bounded memory: tiles by OpenSlide, tissue by colour, annotated regions by their outlines."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.path
import numpy as np
from PIL import Image

from data_prep.layout import PrepError

TILE = 256  # pixels of the finest level, both ways
_BLOCK = 1024  # pixels read at once while looking for tissue
_CELLS = 8  # a tile is judged on a raster of 8 x 8 cells
_MIN_SATURATION = 0.07  # of haematoxylin and eosin; glass is grey
_MIN_TISSUE = 0.5  # of a tile
_MIN_LESION = 0.5  # of an Ungood tile


class Slide:
    """A slide that is read piece by piece; use in a ``with``.

    Args:
        path: any format that OpenSlide reads: Camelyon16's TIFF, generic tiled TIFF, with or without pyramid.

    Raises:
        PrepError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except ImportError:
            raise PrepError("Slides are read by openslide: pip install 'invad-med[histopathology]'") from None
        try:
            self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise PrepError(f"{path} cannot be opened as a slide: {error}") from None
        self._error = openslide.OpenSlideError
        self._path = path
        self.size: tuple[int, int] = self._slide.dimensions  # (width, height)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self._slide.close()

    def tile(self, x: int, y: int) -> np.ndarray:
        """Read the tile around a centre in pixels of the finest level: (256, 256, 3) uint8, white beyond the slide."""
        return self._region(x - TILE // 2, y - TILE // 2, 0, TILE)

    def blocks(self) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Read the whole slide at about 1/8, or as coarse as it has it, block by block.

        Yields:
            x, y of the block's corner in pixels of the finest level; pixels of the finest level per cell side, a cell
            being a pixel of the block; the block, (h, w, 3) uint8.
        """
        level = self._slide.get_best_level_for_downsample(TILE / _CELLS)
        scale = self._slide.level_downsamples[level]
        side = round(_BLOCK * scale / TILE) * TILE or TILE  # whole tiles
        pixels = round(side / scale)
        step = TILE // _CELLS
        width, height = self.size
        for y in range(0, height, side):
            for x in range(0, width, side):
                block = Image.fromarray(self._region(x, y, level, pixels))
                cells = block.resize((side // step, side // step), Image.Resampling.BOX)
                yield x, y, step, np.asarray(cells)

    def _region(self, x: int, y: int, level: int, side: int) -> np.ndarray:
        try:
            region = self._slide.read_region((x, y), level, (side, side))
        except self._error as error:
            raise PrepError(f"{self._path} is damaged at {x}, {y}: {error}") from None
        white = Image.new("RGBA", region.size, "white")
        return np.asarray(Image.alpha_composite(white, region).convert("RGB"))


def grid_tiles(job: tuple[str, Path, Path | None]) -> dict[str, list[tuple[int, int]]]:
    """Find the tiles of a slide on a grid without gaps.

    Args:
        job: name (not used), slide, annotation in Camelyon16's XML or None.

    Returns:
        Centres (x, y) of tiles with at least half tissue: ``good``, with nothing annotated, and ``Ungood``, at least
        half annotated; what lies between is neither.
    """
    _, path, annotation = job
    outlines = read_outlines(annotation) if annotation else []
    centres: dict[str, list[tuple[int, int]]] = {"good": [], "Ungood": []}
    with Slide(path) as slide:
        for x, y, step, cells in slide.blocks():
            tissue = _per_tile(saturation(cells) >= _MIN_SATURATION)
            lesion = _per_tile(_inside(outlines, x, y, step, cells.shape[:2]))
            for row, column in np.argwhere(tissue >= _MIN_TISSUE):
                centre = x + int(column) * TILE + TILE // 2, y + int(row) * TILE + TILE // 2
                if centre[0] + TILE // 2 > slide.size[0] or centre[1] + TILE // 2 > slide.size[1]:
                    continue  # partly beyond the slide
                share = lesion[row, column]
                if share == 0 or share >= _MIN_LESION:
                    centres["Ungood" if share else "good"].append(centre)
    return centres


def saturation(pixels: np.ndarray) -> np.ndarray:
    """Saturation (HSV) of (H, W, 3) uint8 in 0..1."""
    values = pixels.astype(np.float32)
    high = values.max(axis=-1)
    return (high - values.min(axis=-1)) / np.maximum(high, 1)


def read_outlines(path: Path) -> list[tuple[bool, np.ndarray]]:
    """Read Camelyon16's annotation: (is it a hole, (N, 2) x and y in pixels of the finest level) per outline.

    Group ``_2`` ("Exclusion") marks normal tissue within a metastasis.

    Raises:
        PrepError: it is not such an XML file.
    """
    try:
        root: Any = ET.parse(path).getroot()
        outlines = []
        for annotation in root.iter("Annotation"):
            points = [(float(c.get("X")), float(c.get("Y"))) for c in annotation.iter("Coordinate")]
            if len(points) >= 3:
                outlines.append((annotation.get("PartOfGroup") in ("_2", "Exclusion"), np.array(points)))
    except (ET.ParseError, OSError, TypeError, ValueError) as error:
        raise PrepError(f"{path} is no annotation of a slide: {error}") from None
    return sorted(outlines, key=lambda o: o[0])  # holes last


def _inside(outlines: list[tuple[bool, np.ndarray]], x: int, y: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which cells of a block have their centre inside an outline."""
    rows, columns = np.indices(shape[:2])
    centres = np.stack([x + (columns + 0.5) * step, y + (rows + 0.5) * step], axis=-1)
    inside = np.zeros(shape[:2], dtype=bool)
    for hole, points in outlines:
        near = ((centres >= points.min(axis=0)) & (centres <= points.max(axis=0))).all(axis=-1)
        near[near] = matplotlib.path.Path(points).contains_points(centres[near])
        inside[near] = not hole
    return inside


def _per_tile(cells: np.ndarray) -> np.ndarray:
    """Share of set cells per tile."""
    h, w = cells.shape
    return cells.reshape(h // _CELLS, _CELLS, w // _CELLS, _CELLS).mean(axis=(1, 3))
