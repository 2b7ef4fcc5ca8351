"""What a folder's place in one of BMAD's trees says about the images in it, and which of its files are images."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from invad_med.data.slices import RASTER_SUFFIXES

Split = Literal["train", "valid", "test"]
SPLITS: dict[str, Split] = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
DIALECTS = frozenset({"readme", "config", "anomalib"})
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject_group", "series_run", "tile_cluster")

_CLASSES = ("good", "ungood")
_WITHIN = {"tile_cluster": "tissue"}  # group columns that are numbered anew in each value of another
_UNREAD = {
    ".bmp",
    ".gif",
    ".webp",
    ".dcm",
    ".nii",
    ".gz",
    ".npy",
    ".mha",
    ".nrrd",
}  # images, but none of `RASTER_SUFFIXES`
_ROOT_DEPTH = 4  # folders between a root and a data set: Brain_AD/BraTS2021_slice and room for more
_DEPTH = 6  # folders below a split; a link back up must not lead round and round

_T = TypeVar("_T")
GroupKey = tuple[str | None, str | None, str]  # split, class in lower case, name without ending


@dataclass(frozen=True)
class Folder:
    """What a folder's place says: split, 0 good or 1 Ungood, images or masks, the dialects that have such a folder."""

    split: Split
    label: Literal[0, 1]
    mask: bool
    dialects: frozenset[str]


def interpret(parts: tuple[str, ...]) -> Folder | None:
    """Read folder names below a data set, the first one a split's, or return None if no layout has such a folder."""
    names = [part.casefold() for part in parts]
    split = SPLITS[names[0]]
    dialects, mask, rest = DIALECTS, False, names[1:]
    if rest and rest[0].removesuffix("_label") in SPLITS:  # Val/val, Val/val_label
        if SPLITS[rest[0].removesuffix("_label")] != split:
            return None
        mask, dialects, rest = rest[0].endswith("_label"), frozenset({"config"}), rest[1:]
    if len(rest) == 2 and rest[1] in _CLASSES:  # {img,label}/{good,Ungood}
        rest, dialects = rest[::-1], frozenset({"config"})
    if not rest or rest[0] not in _CLASSES or len(rest) > 2 or (mask and len(rest) > 1):
        return None
    if len(rest) == 1:
        if split != "train":
            dialects &= {"readme", "config"}
    elif rest[1] == "img":
        if split == "train" and dialects == DIALECTS:
            dialects = frozenset({"readme"})
    elif rest[1] in ("label", "anomaly_mask"):
        mask = True
        dialects &= {"readme"} if rest[1] == "anomaly_mask" else {"config", "anomalib"}
    else:
        return None
    return Folder(split, 1 if rest[0] == "ungood" else 0, mask, dialects)


def is_stray(path: Path) -> bool:
    """Whether a file or folder is a by-product of a desktop or archive: hidden, ``Thumbs.db``, ``__MACOSX``."""
    return path.name.startswith(".") or path.name.casefold() in {"thumbs.db", "desktop.ini", "__macosx"}


def children(folder: Path) -> list[Path]:
    """Everything in a folder that is not stray, sorted."""
    return sorted(p for p in folder.iterdir() if not is_stray(p))


def subfolders(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """All folders below a folder, sorted."""
    below = [p for p in children(folder) if p.is_dir()] if depth else []
    return [q for child in below for q in (child, *subfolders(child, depth - 1))]


def find_roots(folder: Path, depth: int = _ROOT_DEPTH) -> Iterator[Path]:
    """Find the data sets in a folder, itself included: whatever holds a folder named as a split."""
    below = [p for p in children(folder) if p.is_dir()]
    if any(p.name.casefold() in SPLITS for p in below):
        yield folder
    elif depth:
        for child in below:
            yield from find_roots(child, depth - 1)


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): macOS and some archives write an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, by the endings that the package reads, in any case."""
    return [p for p in children(folder) if p.suffix.casefold() in RASTER_SUFFIXES and p.is_file()]


def unread_files(folder: Path) -> list[Path]:
    """The files in a folder that are images of a kind this layout does not have."""
    return [p for p in children(folder) if p.suffix.casefold() in _UNREAD and p.is_file()]


@dataclass(frozen=True)
class Manifest:
    """What a ``manifest.csv`` says of images, each by as many of split, class and name as it has.

    Args:
        groups: patient, or other unit that must not be in two splits.
        positions: along the body, 0 to 1; absent where unknown.
        unplaced: number of rows with a position that is none.
    """

    groups: dict[GroupKey, str] = field(default_factory=dict)
    positions: dict[GroupKey, float] = field(default_factory=dict)
    unplaced: int = 0


class ManifestError(ValueError):
    """A ``manifest.csv`` that does not say of one image whom it is of."""


def read_manifest(root: Path) -> Manifest | None:
    """Return what a data set's ``manifest.csv`` says; None without one, or without names or groups of images.

    A position is that of column ``position``, else (slice + 0.5) / n_slices of columns ``slice``, counted from 0, and
    ``n_slices``. Columns are separated by commas, semicolons or tabs. Names of columns, splits and classes are read in
    any case, and ``val`` is ``valid``, as in folders.

    Raises:
        ManifestError: it gives two groups to one name.
        OSError, UnicodeDecodeError, csv.Error: it cannot be read.
    """
    path = root / "manifest.csv"
    if not path.is_file():
        return None
    groups: dict[GroupKey, str] = {}
    positions: dict[GroupKey, float | None] = {}
    unplaced = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=max(",;\t", key=header.count))
        columns = [name.strip().casefold() for name in next(rows, [])]
        column = next((c for c in GROUP_COLUMNS if c in columns), None)
        if column is None or "name" not in columns:
            return None
        for number, cells in enumerate(rows, start=2):
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
            if not row.get(column) or not row.get("name"):
                continue
            name = Path(row["name"])
            stem = name.stem if name.suffix.casefold() in RASTER_SUFFIXES else name.name
            within = row.get(_WITHIN.get(column, ""))
            group = f"{within}/{row[column]}" if within else row[column]
            key = (_split(row.get("split")), _class(row.get("class")), composed(stem))
            if groups.setdefault(key, group) != group:
                raise ManifestError(
                    f"row {number} gives another group to images of a name above; give it columns split and class "
                    "(good, Ungood), or each image a name of its own"
                )
            said, position = _position(row)
            unplaced += said and position is None
            if positions.setdefault(key, position) != position:
                positions[key] = None
    return Manifest(groups, {key: place for key, place in positions.items() if place is not None}, unplaced)


def _position(row: dict[str, str]) -> tuple[bool, float | None]:
    """Whether a row says where its image lies, and where if that can be, 0 to 1."""
    said = [row.get("position", "")] if row.get("position") else [row.get("slice", ""), row.get("n_slices", "")]
    if not all(said):
        return False, None
    try:
        numbers = [float(word) for word in said]
        position = numbers[0] if len(numbers) == 1 else (numbers[0] + 0.5) / numbers[1]
    except (ValueError, ZeroDivisionError):
        return True, None
    return True, position if 0.0 <= position <= 1.0 else None


def _split(said: str | None) -> str | None:
    return SPLITS.get(said.casefold(), said) if said else None


def _class(said: str | None) -> str | None:
    return said.casefold() if said else None


def said_of(values: dict[GroupKey, _T], split: str, label: int, stem: str) -> _T | None:
    """Return what a manifest says of an image, by as many of split, class and composed name as it has."""
    kind = _CLASSES[label]
    for key in ((split, kind, stem), (split, None, stem), (None, kind, stem), (None, None, stem)):
        if key in values:
            return values[key]
    return None
