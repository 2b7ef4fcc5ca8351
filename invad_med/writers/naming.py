"""Names of a run's output files, and text from file names made fit to print."""

from __future__ import annotations

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
    return folder / f"{source.name}{f'_s{index:0{width}d}' if source.n_slices > 1 else ''}{ending}"


def slice_label(source: Source, index: int) -> str:
    """Return ``name#index`` in printable characters, or the name alone if the source is one slice."""
    return printable(f"{source.name}#{index}" if source.n_slices > 1 else source.name)


def printable(text: str) -> str:
    """Return text on one line that encodes as UTF-8: other characters, which file names may hold, become ``?``."""
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return clean.encode("utf-8", "replace").decode("utf-8")
