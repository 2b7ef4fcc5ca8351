"""Where a slice lies along its stack, for studies that are judged and for the manifests that trainings read."""

from __future__ import annotations

from collections.abc import Collection


def place_along(index: int, shown: Collection[int]) -> float | None:
    """Return where a slice lies from the first to the last slice that shows anything, 0 to 1; None outside.

    That is (index - first + 0.5) / (last - first + 1), so that empty slices that fill up a stack at its ends shift no
    place.

    Args:
        index: of the slice, 0-based.
        shown: of the slices that show anything, or of which that is not known.
    """
    first, last = min(shown, default=0), max(shown, default=-1)
    return (index - first + 0.5) / (last - first + 1) if first <= index <= last else None
