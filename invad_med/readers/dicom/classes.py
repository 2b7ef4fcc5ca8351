"""Positions and values that are alike within a tolerance: numbers beside each other, no classes with fixed edges."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

Value = float | str | tuple[float, ...] | tuple[str, ...] | None
_GAPS = 25  # missing slices in a row that still count as a gap of one acquisition


def levels(along: Sequence[float], tolerance: float) -> list[int]:
    """Number positions, those within ``tolerance`` of the first of a level being one."""
    level = [0] * len(along)
    number, first = -1, -np.inf
    for k in sorted(range(len(along)), key=lambda k: along[k]):
        if along[k] - first > tolerance:
            number, first = number + 1, along[k]
        level[k] = number
    return level


def classes(values: Sequence[Value], tolerance: float = 0.0) -> list[list[int]]:
    """Group indices of equal values, those that are missing first, then in ascending order.

    Args:
        values: numbers, text or tuples.
        tolerance: numbers within this part of the first of a class belong to it.
    """
    numbers = sorted((float(v), k) for k, v in enumerate(values) if isinstance(v, float | int))
    result: list[list[int]] = []
    first = 0.0
    for value, k in numbers:
        if not result or value - first > tolerance * (abs(first) + 1e-3):
            result.append([])
            first = value
        result[-1].append(k)
    others: dict[Value, list[int]] = defaultdict(list)
    for k, other in enumerate(values):
        if not isinstance(other, float | int):
            others[other].append(k)
    missing = others.pop(None, [])
    return ([missing] if missing else []) + result + [others[v] for v in sorted(others, key=str)]


def depth(part: Sequence[int], level: Sequence[int]) -> int:
    """Return how many slices lie at one position at most."""
    return max(Counter(level[i] for i in part).values())


def repeats(part: Sequence[int], level: Sequence[int]) -> int:
    """Return how many slices are more than the positions they lie at."""
    return len(part) - len({level[i] for i in part})


def even_gap(positions: Sequence[float]) -> float | None:
    """Return the smallest distance of neighbours if all others are multiples of it (slices may lack), else None."""
    gaps = np.diff(np.sort(positions))
    least = float(gaps.min())
    if least <= 0:
        return None
    times = gaps / least
    even = np.abs(times - np.round(times)) <= 0.02 * np.maximum(1, times)
    return least if even.all() and times.max() < _GAPS else None
