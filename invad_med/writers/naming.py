"""Names of a run's output files, and text from file names made fit to print."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from invad_med.data.slices import Source


def slice_path(folder: Path, source: Source, index: int, ending: str) -> Path:
    """Return ``<folder>/<source.name>[_sNNN]<ending>``; NNN is the 0-based index, there if the source has several.

    Digits are padded to one width per source, at least three, so that files sort in order.

    Raises:
        IndexError: the source has no such slice.
    """
    if not 0 <= index < source.n_slices:
        raise IndexError(f"slice {index} of a source with {source.n_slices}")
    width = max(3, len(str(source.n_slices - 1)))
    return fitted(folder, source.name, f"{f'_s{index:0{width}d}' if source.n_slices > 1 else ''}{ending}")


def results_of(output_dir: Path, source: Source) -> list[Path]:
    """Return the files that lie in an output folder under a source's name: heatmaps, maps, DICOM objects, its part."""
    paths = [fitted(output_dir / "maps", source.name, ending) for ending in (".nii.gz", ".tif")]
    paths.append(part_path(output_dir, source))
    for index in range(source.n_slices):
        paths.append(slice_path(output_dir / "heatmaps", source, index, ".png"))
        paths.append(slice_path(output_dir / "maps", source, index, ".nii.gz"))
    objects = sorted(fitted(output_dir / "dicom", source.name).glob("*.dcm"))
    return [path for path in dict.fromkeys([*paths, *objects]) if path.is_file()]


def part_path(output_dir: Path, source: Source) -> Path:
    """Return where the pictures of a source lie that the page of a run shows, see `invad_med.writers.report.parts`."""
    return fitted(output_dir / "report" / "parts", source.name, ".json")


def fitted(folder: Path, name: str, ending: str = "") -> Path:
    """Return ``<folder>/<name><ending>``, its last part shortened if it is longer than the file system allows.

    What is cut off is replaced by a digest of the whole, so that two long names stay two.

    Args:
        folder: need not be there yet.
        name: relative, with forward slashes.
        ending: is kept as it is.
    """
    path = folder / f"{name}{ending}"
    room = _longest(folder) - len(os.fsencode(ending))
    stem = path.name.removesuffix(ending)
    if len(os.fsencode(stem)) <= room:
        return path
    digest = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
    while len(os.fsencode(stem)) + len(digest) > room:
        stem = stem[:-1]
    return path.with_name(f"{stem}{digest}{ending}")


def _longest(folder: Path) -> int:
    """Return how many bytes a name in a folder may have, which need not be there yet."""
    existing = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    try:
        return os.pathconf(existing, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on this system
        return 255


def slice_label(source: Source, index: int) -> str:
    """Return ``name#index`` in printable characters, or the name alone if the source is one slice."""
    return printable(f"{source.name}#{index}" if source.n_slices > 1 else source.name)


def printable(text: str) -> str:
    """Return text on one line that encodes as UTF-8: other characters, which file names may hold, become ``?``."""
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return clean.encode("utf-8", "replace").decode("utf-8")
