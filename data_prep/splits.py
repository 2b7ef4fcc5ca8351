"""Who goes where: orders and splits that depend on names and a seed, never on the order of a listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def anonymous(identity: str, salt: str = "") -> str:
    """Return 12 hexadecimal digits that stand for a patient.

    Args:
        identity: DICOM Patient ID (0010,0020) or the like.
        salt: a secret of the user's. Without one the digits can be recomputed by whoever can guess the ID.
    """
    return hashlib.sha256(f"invad_med:{salt}:{identity}".encode()).hexdigest()[:12]


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return the distinct names in an order that depends on them and the seed only."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def assign(names: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Put every name into one split.

    Args:
        names: patients, slides, or whatever must stay together.
        shares: split -> share of the names; each gets at least one name while they last.
        seed: another one gives another division.

    Returns:
        Name -> split.
    """
    order = shuffled(names, seed)
    sizes = portion(len(order), shares)
    kinds = [split for split, size in sizes.items() for _ in range(size)]
    return dict(zip(order, kinds, strict=True))


def portion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divide a number by shares to whole numbers that add up, each at least 1 while it lasts (largest remainder)."""
    whole = sum(shares.values())
    exact = {key: total * share / whole for key, share in shares.items()}
    sizes = {key: int(value) for key, value in exact.items()}
    for key in sorted(exact, key=lambda k: (sizes[k] - exact[k], k))[: total - sum(sizes.values())]:
        sizes[key] += 1
    for key in [k for k, n in sizes.items() if n == 0 and shares[k] > 0]:
        largest = max(sizes, key=lambda k: sizes[k])
        if sizes[largest] > 1:
            sizes[largest] -= 1
            sizes[key] += 1
    return sizes


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most ``count`` items, evenly spread over the sequence, ends included."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def apart(indices: Sequence[int], distance: float, at_least: float) -> list[int]:
    """Return slice indices of which each is at least so many mm from the last.

    Args:
        indices: ascending.
        distance: of neighbouring slices in mm.
        at_least: mm between two that are kept.
    """
    kept: list[int] = []
    for index in indices:
        if not kept or (index - kept[-1]) * distance >= at_least - 1e-6:
            kept.append(index)
    return kept
