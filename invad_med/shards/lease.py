"""Who scores a shard now: a file that its holder has locked and writes to every few seconds.

| what another process finds | the shard |
|---|---|
| the lock is taken | is being scored |
| it is free, written by this machine | is free |
| it is free, written by another machine in the last `STALE` seconds | is being scored: not all locks reach there |
| it is free, older | is free |

A file that is not empty and free was left by a process that ended over the shard. Two that score one shard all the
same write the same rows, and the file of one replaces that of the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from invad_med.files import held

BEAT, STALE = 5.0, 120.0  # seconds
_LENGTH = 256  # of what is written, so that a full disk cannot cut it short later


@dataclass(frozen=True)
class Holder:
    """What a process says of itself and the shard that it scores.

    Args:
        host: its machine.
        source: the source in hand, as `invad_med.shards.index.Entry` numbers it; -1 before the first.
        slices: how many it has done.
    """

    host: str
    source: int = -1
    slices: int = 0


class Lease:
    """A shard that this process may score; see `take`.

    Attributes:
        left: what the process wrote last that had it before and ended over it, or None.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._now = path, Holder(socket.gethostname())
        self.left: Holder | None = None
        self._mutex, self._stopped = threading.Lock(), threading.Event()
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)

    @classmethod
    def take(cls, path: Path) -> Lease | None:
        """Return the lease of a shard, or None if another process has it; nothing is written before ``__enter__``.

        Raises:
            OSError: the file cannot be opened.
        """
        lease = cls(path)
        if held(lease._file):
            left = lease.left = _holder(lease._file.read(_LENGTH))  # by this file: closing another gives the lock up
            if left is None or left.host == lease._now.host or time.time() - path.stat().st_mtime >= STALE:
                return lease
        lease._file.close()
        return None

    def __enter__(self) -> Lease:
        self._write()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the shard free; after an error too, which is not one that ended the process."""
        self._stopped.set()
        with self._mutex, contextlib.suppress(OSError):
            self._file.truncate(0)
            if kind is None:
                self._path.unlink(missing_ok=True)
        self._file.close()

    def put_back(self) -> None:
        """Give free what was taken and not begun, as it was."""
        self._file.close()

    def note(self, source: int | None = None, slices: int | None = None) -> None:
        """Say which source is in hand, at once, or how many slices are done, at the next beat."""
        with self._mutex:
            now = self._now
            self._now = Holder(now.host, now.source if source is None else source, slices or now.slices)
        if source is not None:
            self._write()

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        with self._mutex:
            if not self._stopped.is_set():
                self._file.seek(0)
                self._file.write(json.dumps(asdict(self._now)).encode().ljust(_LENGTH))


def holder_of(path: Path) -> Holder | None:
    """Return who wrote a lease last; None if it is not there, empty, or being written."""
    try:
        return _holder(path.read_bytes())
    except OSError:
        return None


def _holder(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None
