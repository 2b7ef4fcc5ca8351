"""Digests of all that a dataset says, by which objects that differ in anything are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydicom.dataset import Dataset

# When an object was made: all that may differ between two that are the same.
CREATION = frozenset((
    "InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime",
    "PresentationCreationDate", "PresentationCreationTime", "DateOfSecondaryCapture", "TimeOfSecondaryCapture",
    "ContributionDateTime",
))  # fmt: skip


def content_digest(ds: Dataset, pixels: Iterable[bytes] = (), without: Collection[str] = ()) -> str:
    """Return a digest of an object, its own UID and the time of its making aside: 64 hex digits.

    Args:
        ds: the object; its file meta information is not part of it.
        pixels: its last element as it is encoded, in parts, where ``ds`` does not hold it.
        without: keywords to leave out besides.
    """
    digest = hashlib.sha256()
    tell(ds, digest.update, CREATION | {"SOPInstanceUID"} | set(without))
    for part in pixels:
        digest.update(part)
    return digest.hexdigest()


def tell(ds: Dataset, update: Callable[[bytes], Any], without: Collection[str] = ()) -> None:
    """Give every element of a dataset to a digest, sequences included, so that no two datasets give the same bytes.

    Args:
        ds: with values that can be decoded.
        update: of a digest.
        without: keywords to leave out, at the top and, of when a piece of equipment contributed, in its items.
    """
    for element in ds:
        if element.keyword in without:
            continue
        update(f"{element.tag:08x}{element.VR}".encode())
        if element.VR != "SQ":
            _put(element.value, update)
            continue
        update(f"[{len(element.value)}]".encode())
        inner = without if element.keyword == "ContributingEquipmentSequence" else ()
        for item in element.value:
            tell(item, update, inner)
            update(b"end of item")


def _put(value: Any, update: Callable[[bytes], Any]) -> None:
    """Give a value to a digest, its length first."""
    if isinstance(value, bytes):
        content = value
    elif isinstance(value, str) or not hasattr(value, "__iter__"):
        content = ("" if value is None else str(value)).encode("utf-8", "surrogateescape")
    else:
        update(f"({len(value)})".encode())
        for part in value:
            _put(part, update)
        return
    update(f"{len(content)}:".encode())
    update(content)
