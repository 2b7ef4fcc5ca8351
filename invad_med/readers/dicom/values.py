"""Values of DICOM elements as plain numbers and text, None where they are missing or not what they should be."""

from __future__ import annotations

import math
import re

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

ABSURD = 1e7  # no place, direction or distance in mm reaches it


def number(item: Dataset | None, keyword: str) -> float | None:
    """Return the first value of an element as a finite number."""
    try:
        value = None if item is None else item.get(keyword)
        value = float(np.atleast_1d(np.asarray(value, dtype=np.float64))[0]) if value not in (None, "") else None
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return value if value is not None and math.isfinite(value) else None


def numbers(item: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return an element of ``count`` finite numbers, none of them absurdly large."""
    try:
        values = np.asarray(item.get(keyword), dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        return None
    fine = values.shape == (count,) and bool((np.abs(values) < ABSURD).all())  # false of what is no number, too
    return tuple(float(v) for v in values) if fine else None


def text(item: Dataset | None, keyword: str) -> str | None:
    """Return an element as text in upper case, without spaces around it."""
    try:
        value = None if item is None else item.get(keyword)
    except (TypeError, ValueError):
        return None
    return str(value).strip().upper() or None if value is not None else None


def code(item: Dataset | None, keyword: str) -> str | None:
    """Return an element as a code string (PS3.5, 6.2): 1 to 16 capitals, digits, spaces, underscores; None of all else.

    An element whose length is damaged holds what follows it in the file, which can be the patient's name.
    """
    value = text(item, keyword)
    return value if value is not None and re.fullmatch("[A-Z0-9 _]{1,16}", value) else None


def name_of(uid: object, what: str) -> str:
    """Return the name that the standard has for a UID, else ``unknown <what>``: damaged ones are not quoted either."""
    known = UID(str(uid or ""))
    return known.name if known.is_valid and known.name != known else f"unknown {what}"


def texts(item: Dataset, keyword: str) -> tuple[str, ...] | None:
    """Return the values of an element as text in upper case."""
    try:
        value = item.get(keyword)
    except (TypeError, ValueError):
        return None
    if value in (None, ""):
        return None
    return tuple(str(v).strip().upper() for v in ([value] if isinstance(value, str) else value))
