"""Files that appear whole or not at all, and digests of their contents."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".????????.partial"  # what is being written, for `Path.glob`


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move it there at the end; a failure leaves nothing new behind.

    The name written to is short, so that ``path`` may be as long as the file system allows, and drawn at random, so
    that two threads or machines that write the same file do not meet. What a killed process leaves,
    `remove_partials` finds.
    """
    partial = partial_of(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class WholeFile:
    """A file that is written piece by piece and appears at the end, as `whole_file` says.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        OSError: it cannot be begun.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(whole_file(path)).open("wb"))
            self._stack = stack.pop_all()

    def write(self, content: bytes) -> None:
        """Write content at the end; after an error the file is to be abandoned."""
        self._file.write(content)

    def write_at(self, place: int, content: bytes) -> None:
        """Write content over what stands at a place; after an error the file is to be abandoned."""
        self._file.seek(place)
        self._file.write(content)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> Path:
        """Put the file in place and return its path.

        Raises:
            OSError: that fails; nothing is left then.
        """
        self._stack.close()
        return self.path

    def abandon(self) -> None:
        """Leave nothing; does nothing to a file that is in place."""
        with contextlib.suppress(_Abandoned, OSError), self._stack:
            raise _Abandoned


class _Abandoned(Exception):
    """A file is not to appear."""


def partial_of(path: Path) -> Path:
    """Return a path beside ``path``, as `whole_file` does, for what gets its name later; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{secrets.token_hex(4)}.partial")


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, making its folder if need be; a failure leaves nothing new behind."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_durably(path: Path, content: bytes, parts: Path | None = None) -> None:
    """Write ``content`` to ``path`` so that it is there after a failure of power too, or not at all.

    Written beside it, flushed to the disk, renamed, and the folder flushed. POSIX systems alone.

    Args:
        path: its folder is there.
        content: of the file.
        parts: folder on the same file system for what is being written; that of ``path`` if None.

    Raises:
        OSError: it cannot be written; what lay there lies there, unless flushing the folder was what failed.
    """
    partial = partial_of(path if parts is None else parts / path.name)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on.

    Raises:
        OSError: that fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partials(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left half written in a folder.

    Args:
        folder: searched itself, not below.
        older_than: seconds; younger files may be those of a process that is still writing.
    """
    for partial in folder.glob(_PARTIAL):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if time.time() - partial.stat().st_mtime >= older_than:
                partial.unlink()


def append_whole(file: BinaryIO, content: bytes, over: int = 0) -> None:
    """Write content over the last ``over`` bytes of an unbuffered file: all of it or, if that fails, nothing.

    Raises:
        OSError: it cannot be written; the file is then as it was.
    """
    end = file.seek(-over, os.SEEK_END)
    last = file.read(over)
    file.seek(end)
    try:
        if (written := file.write(content)) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{written} of {len(content)} bytes")
    except OSError:
        file.seek(end)
        file.write(last)
        file.truncate()
        raise


def held(file: BinaryIO) -> bool:
    """Reserve an open file for this process, until it is closed; return False if another process has reserved it.

    Where the file system knows no such thing it counts as reserved.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def digest_of(file: BinaryIO) -> str:
    """Return a digest of the whole content of an open file, wherever it stands; it stands at the end afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def code_digest(places: Sequence[str]) -> str:
    """Return a digest of this package's modules at ``places``, files and whole folders: 64 hex digits."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for place in places:
        path = package / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def data_digest(paths: Sequence[Path]) -> str:
    """Return a digest of files' contents that does not depend on their names or order: 16 hex digits."""
    contents = sorted(hashlib.sha256(p.read_bytes()).digest() for p in paths)
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]
