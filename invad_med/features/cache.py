"""A folder of half-precision arrays, one file an entry, bounded in size; several runs may share it."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import numpy as np

from invad_med.files import remove_partials, write_atomically

logger = logging.getLogger(__name__)


class ArrayCache:
    """Arrays by key. Files appear whole or not at all, and one that is damaged counts as absent.

    Args:
        folder: made if need be.
        shape: of every array.
        limit_bytes: what `trim` leaves at most; None: no limit.
    """

    def __init__(self, folder: str | Path, shape: tuple[int, ...], limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"a cache of {limit_bytes} bytes holds nothing: give a positive limit, or null for none")
        self.folder, self.shape, self.limit_bytes = Path(folder), shape, limit_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def load(self, key: str) -> np.ndarray | None:
        """Return an entry (float16) and mark it as used now, or None if there is no sound one."""
        file = self._file(key)
        try:
            array = np.load(file, allow_pickle=False)
            os.utime(file)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError):
            logger.warning("cached features %s are damaged and computed again", key[:12])
            return None
        return array if array.shape == self.shape and array.dtype == np.float16 else None

    def store(self, key: str, array: np.ndarray) -> None:
        """Keep an entry, replacing what is there."""
        buffer = io.BytesIO()
        np.save(buffer, array.astype(np.float16), allow_pickle=False)
        write_atomically(self._file(key), buffer.getvalue())

    def trim(self) -> tuple[int, int]:
        """Remove the entries that were not used for longest until the limit is kept; return (bytes left, removed).

        An entry that a run now in progress still wants is computed again by it.
        """
        remove_partials(self.folder, older_than=3600)  # of runs that were killed; what is an hour old is no run's now
        entries = []
        for file in self.folder.glob("*.npy"):
            try:
                status = file.stat()
            except FileNotFoundError:  # another run's trim was quicker
                continue
            entries.append((status.st_mtime_ns, status.st_size, file))
        total, removed = sum(size for _, size, _ in entries), 0
        if self.limit_bytes is not None:
            for _, size, file in sorted(entries):
                if total <= self.limit_bytes:
                    break
                file.unlink(missing_ok=True)
                total, removed = total - size, removed + 1
        return total, removed
