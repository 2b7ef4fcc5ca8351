"""TIFF of float32 pages, written page by page (TIFF 6.0, DEFLATE as Adobe's supplement has it)."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import numpy as np

from invad_med.files import WholeFile
from invad_med.writers.deflate import deflated

_ASCII, _SHORT, _LONG = 2, 3, 4
_DEFLATE, _BLACK_IS_ZERO, _FLOAT = 8, 1, 3
_STRIP = 2**20  # bytes of rows that are compressed together, or one row
_LARGEST = 2**32  # bytes that offsets of 32 bits reach


class TiffFile:
    """A TIFF that pages are added to; it appears whole at the end or not at all.

    Args:
        path: of the file; its folder is made if need be.
        description: of the first page.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, description: str) -> None:
        self._file = WholeFile(path)
        self._description = description.encode("ascii") + b"\0"
        self._link = 4  # where the place of the next page goes
        self._file.write(b"II*\0" + bytes(4))
        self._size = 8

    def add(self, page: np.ndarray) -> None:
        """Write a page.

        Args:
            page: (H, W) of numbers, stored as float32.

        Raises:
            OSError: it cannot be written, or the file would be larger than 4 GiB.
        """
        height, width = page.shape
        rows = max(1, min(height, _STRIP // (4 * width)))
        values = np.ascontiguousarray(page, "<f4")
        strips = [deflated(values[top : top + rows].tobytes()) for top in range(0, height, rows)]
        offsets = [self._write(strip) for strip in strips]
        tags: list[tuple[int, int, bytes | list[int]]] = [
            (256, _LONG, [width]),
            (257, _LONG, [height]),
            (258, _SHORT, [32]),  # bits of a sample
            (259, _SHORT, [_DEFLATE]),
            (262, _SHORT, [_BLACK_IS_ZERO]),
            *([(270, _ASCII, self._description)] if self._description else []),
            (273, _LONG, offsets),
            (277, _SHORT, [1]),  # samples of a pixel
            (278, _LONG, [rows]),
            (279, _LONG, [len(strip) for strip in strips]),
            (339, _SHORT, [_FLOAT]),
        ]
        self._description = b""
        entries = []
        for tag, kind, value in tags:
            content = (
                value
                if isinstance(value, bytes)
                else struct.pack(f"<{len(value)}{'H' if kind == _SHORT else 'I'}", *value)
            )
            if len(content) > 4:
                content = struct.pack("<I", self._write(content))
            entries.append(struct.pack("<HHI", tag, kind, len(value)) + content.ljust(4, b"\0"))
        directory = struct.pack("<H", len(entries)) + b"".join(entries)
        place = self._write(directory + bytes(4))
        self._file.write_at(self._link, struct.pack("<I", place))
        self._link = place + len(directory)

    def close(self) -> Path:
        """Put the file in place and return its path.

        Raises:
            OSError: that fails; nothing is left then.
        """
        return self._file.close()

    def abandon(self) -> None:
        """Leave nothing."""
        self._file.abandon()

    def _write(self, content: bytes) -> int:
        """Write content at the end and return its place, an even one as words need."""
        place = self._size
        content += bytes(len(content) % 2)
        if place + len(content) > _LARGEST:
            raise OSError(errno.EFBIG, "a TIFF cannot be larger than 4 GiB")
        self._file.write(content)
        self._size += len(content)
        return place
