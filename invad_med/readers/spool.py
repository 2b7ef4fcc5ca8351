"""Arrays of a source that is too large to be held: they lie in a file without a name and are read back one by one.

Such a file is made in the folder for temporary files (``TMPDIR``) or in one that is named, takes no place in memory
where that folder is on a disk, and is gone when nobody refers to it any more, also if the process is killed.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, overload

import numpy as np

from invad_med.data.slices import ReadError, Slice

HELD = 2**25  # bytes of a source that stay in memory
Entry = tuple[Callable[[np.ndarray], Slice], int] | ReadError  # what makes a slice of its pixels, and where these lie
_Place = tuple[int, np.dtype, tuple[int, ...]]  # offset in the file, type and shape


class Spool(Sequence[np.ndarray]):
    """Arrays in memory as long as they take no more than so many bytes together, from then on all of them in a file.

    Several threads may read at once.

    Args:
        held: these bytes; `HELD` if None.
        folder: where the file lies, made with it; that for temporary files if None.
    """

    def __init__(self, held: float | None = None, folder: Path | None = None) -> None:
        self._held, self._size, self._folder = HELD if held is None else held, 0, folder
        self._entries: list[np.ndarray | _Place] = []
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def in_memory(self) -> bool:
        """Whether all arrays are held."""
        return self._file is None

    def append(self, array: np.ndarray) -> int:
        """Add an array and return its place; it must not be changed afterwards.

        Raises:
            OSError: the folder for temporary files cannot take it.
        """
        self._entries.append(array)
        self._size += array.nbytes
        if self._file is None and self._size > self._held:
            with self._room():
                if self._folder is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed with the spool
            self._entries = [self._store(entry) if isinstance(entry, np.ndarray) else entry for entry in self._entries]
        elif self._file is not None:
            self._entries[-1] = self._store(array)
        return len(self._entries) - 1

    def replace(self, place: int, array: np.ndarray) -> None:
        """Put an array of the same type and shape in the place of another.

        Raises:
            OSError: see `append`.
        """
        entry = self._entries[place]
        self._entries[place] = array if isinstance(entry, np.ndarray) else self._store(array, entry[0])

    def at(self, places: Iterable[int]) -> Spool:
        """Return the arrays of some places, as they lie here."""
        part = Spool(self._held, self._folder)
        part._entries, part._file, part._lock = [self._entries[p] for p in places], self._file, self._lock
        return part

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Spool: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Spool:
        """Return an array: the one that is held, or a new one."""
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        entry = self._entries[index]
        if isinstance(entry, np.ndarray):
            return entry
        offset, dtype, shape = entry
        array = np.empty(shape, dtype)
        assert self._file is not None
        with self._lock:
            self._file.seek(offset)
            self._file.readinto(_bytes_of(array))  # type: ignore[attr-defined]
        return array

    def __len__(self) -> int:
        return len(self._entries)

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays."""
        return [entry.shape if isinstance(entry, np.ndarray) else entry[2] for entry in self._entries]

    def close(self) -> None:
        """Let go of all arrays."""
        self._entries = []
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._folder is not None:
                raise
            where = "in the folder for temporary files; name another in TMPDIR"
            raise OSError(error.errno, f"{error.strerror or 'cannot be written'} {where}") from error

    def _store(self, array: np.ndarray, offset: int | None = None) -> _Place:
        file = self._file
        assert file is not None
        whole = np.ascontiguousarray(array)
        with self._lock, self._room():
            place = file.seek(0, 2) if offset is None else file.seek(offset)
            file.write(_bytes_of(whole))
        return place, whole.dtype, array.shape


class Pieces(Sequence[Slice | ReadError]):
    """The slices of a source whose pixels lie in a spool: each access reads one anew, and nothing of it is held.

    Args:
        entries: in the order of the slices.
        pixels: the spool.
    """

    def __init__(self, entries: Sequence[Entry], pixels: Spool) -> None:
        self._entries, self._pixels = list(entries), pixels

    @overload
    def __getitem__(self, index: int) -> Slice | ReadError: ...

    @overload
    def __getitem__(self, index: slice) -> Pieces: ...

    def __getitem__(self, index: int | slice) -> Slice | ReadError | Pieces:
        """Return a slice, whose pixels are read-only, or why it could not be read."""
        if isinstance(index, slice):
            return Pieces(self._entries[index], self._pixels)
        entry = self._entries[index]
        if isinstance(entry, ReadError):
            return entry
        make, place = entry
        piece = make(self._pixels[place])
        piece.pixels.flags.writeable = False
        return piece

    def __len__(self) -> int:
        return len(self._entries)


def pieces_of(entries: Sequence[Entry], pixels: Spool) -> Sequence[Slice | ReadError]:
    """Return the slices of a source: themselves if their pixels are held, else as `Pieces`."""
    pieces = Pieces(entries, pixels)
    return list(pieces) if pixels.in_memory else pieces


def extended(pieces: Sequence[Slice | ReadError], errors: Sequence[ReadError]) -> Sequence[Slice | ReadError]:
    """Return the slices of a source with others behind them that could not be read."""
    if isinstance(pieces, Pieces):
        return Pieces([*pieces._entries, *errors], pieces._pixels)
    return [*pieces, *errors]


def turned(
    slabs: Sequence[np.ndarray], axis: int, turn: Callable[[np.ndarray], np.ndarray], backwards: bool = False
) -> Iterator[np.ndarray]:
    """Cut a volume that is given in slabs into slabs across another axis, a block of `HELD` bytes at a time.

    Args:
        slabs: n of them, (h, w) each, of one type.
        axis: of (h, w, n), across which is cut.
        turn: makes new slabs (m, H, W) of a part of the volume, (h, w, n) with m of its places on ``axis``.
        backwards: ``turn`` gives the slab of the last place first.

    Yields:
        the new slabs, each a part of a block: copy what is to be kept.
    """
    first = slabs[0]
    shape = [*first.shape, len(slabs)]
    count = shape[axis]
    at_once = max(1, HELD * count // (first.nbytes * len(slabs)))
    starts = range(0, count, at_once)
    for start in reversed(starts) if backwards else starts:
        end = min(start + at_once, count)
        shape[axis] = end - start
        part = np.empty(shape, first.dtype)
        for k in range(start, end) if axis == 2 else range(len(slabs)):
            slab = slabs[k]
            part[..., k - start if axis == 2 else k] = (slab[start:end], slab[:, start:end], slab)[axis]
        yield from turn(part)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
