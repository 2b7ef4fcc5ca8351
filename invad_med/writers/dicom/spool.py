"""Arrays that wait on disk until a source is complete, so that no more than one of them is in memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np


class Spool:
    """Arrays in a file without a name, which is gone once it is closed or the process ends.

    Args:
        folder: on whose disk they wait, as they may take more than there is for temporary files; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._kept: list[tuple[int, tuple[int, ...], np.dtype]] = []
        self._end = 0

    def append(self, values: np.ndarray) -> None:
        """Keep an array.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # until it is closed
        self._file.seek(self._end)
        self._file.write(np.ascontiguousarray(values).data)
        self._file.flush()
        self._kept.append((self._end, values.shape, values.dtype))
        self._end += values.nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, position: int) -> np.ndarray:
        at, shape, dtype = self._kept[position]
        assert self._file is not None
        self._file.seek(at)
        content = self._file.read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[position] for position in range(len(self)))

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays."""
        return [shape for _, shape, _ in self._kept]

    def close(self) -> None:
        """Let go of all arrays."""
        if self._file is not None:
            self._file.close()
