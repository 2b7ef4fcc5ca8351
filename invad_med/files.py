"""Files that appear whole or not at all, and digests of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move it there at the end; a failure leaves nothing new behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, making its folder if need be; a failure leaves nothing new behind."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def data_digest(paths: Sequence[Path]) -> str:
    """Return a digest of files' contents that does not depend on their names or order: 16 hex digits."""
    contents = sorted(hashlib.sha256(p.read_bytes()).digest() for p in paths)
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]
