"""Which slices make one acquisition: one algorithm for the files of a series and for the frames of one file.

A slice is a `Place` (where it lies) with traits (what was done to get it) and orders (when it was got).

| step | what is compared |
|---|---|
| one geometry | orientation to 0.01, pixel spacing to a thousandth, each with the group's first member: no edges |
| one contrast | echo time, b-value, kernel ... (`NOMINAL`): an acquisition has one, so they always divide |
| repeated positions | the trait that tells apart most of the slices at one position, then the next best |
| shifted tables | traits whose classes lie among one another, each evenly spaced while all together are not |
| blocks | no trait told them apart: acquisitions that follow one another in time or number |
| layers | only the order at a position is left: the k-th slice of each position goes to stack k (exact copies) |

What changes from slice to slice within one acquisition, as Acquisition Number and times do on many scanners, does not
divide it: a trait must make about as many classes as there are slices at one position.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from invad_med.readers.dicom.classes import Value, classes, depth, even_gap, levels, repeats
from invad_med.readers.dicom.sequences import blocks, layers, runs

_Item = TypeVar("_Item")

NOMINAL = ("echo", "echo_time", "time", "b", "inversion_time", "kernel", "component", "side")
OTHERS = ("image_type", "direction", "stack", "trigger", "frame_time", "flip", "repetition", "kvp", "sequence",
          "thickness")  # fmt: skip
ORDERS = ("trigger", "acquisition", "acquired", "content", "number")
_BEATING = {"trigger", "frame_time", "repetition", "flip"}  # can vary within an acquisition
_ORIENTATION, _SPACING, _VALUE = 1e-2, 1e-3, 1e-3
_MEASURED = {"echo_time", "b", "inversion_time", "repetition", "flip", "kvp", "thickness"}  # compared to `_VALUE`
_WORDS = {"echo": "echo", "echo_time": "te", "time": "time", "b": "b", "inversion_time": "ti", "kernel": "kernel",
          "component": "part", "image_type": "type", "direction": "direction", "trigger": "trigger",
          "frame_time": "time", "flip": "flip", "repetition": "tr", "kvp": "kv", "sequence": "sequence",
          "thickness": "thickness", "stack": "stack", "side": "side"}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """What decides where a slice belongs.

    Args:
        orientation: Image Orientation (Patient), (6,), or None.
        position: Image Position (Patient), (3,) in mm; or (0, 0, k) of a numbered slice without a place.
        spacing: between rows and columns in mm, or None.
        thickness: of the slice in mm, or None.
        traits: of `NOMINAL` and `OTHERS`, and any that the file declares itself; None or absent where not stated.
        orders: of `ORDERS`: numbers, or text that sorts as time does.
        tie: decides where nothing else does.
    """

    orientation: tuple[float, ...] | None
    position: tuple[float, float, float]
    spacing: tuple[float, float] | None
    thickness: float | None
    traits: Mapping[str, Value]
    orders: Mapping[str, float | str | None]
    tie: tuple[object, ...]


@dataclass(frozen=True)
class Stack:
    """Slices of one acquisition.

    Args:
        members: positions in the sequence that was divided, by position along the normal.
        label: what tells it from the others of its group, such as ``echo2``; empty where there is no other.
    """

    members: tuple[int, ...]
    label: str = ""


def divide(places: Sequence[Place]) -> list[Stack]:
    """Return the acquisitions among slices of one series (or frames of one file), each sorted along its normal."""
    stacks: list[Stack] = []
    groups = _alike(range(len(places)), lambda i, first: _same_geometry(places[i], places[first]))
    groups.sort(key=lambda g: (-len(g), places[g[0]].orientation or (), places[g[0]].spacing or ()))
    for number, group in enumerate(groups):
        geometry = f"{plane_of_body(places[group[0]].orientation) or 'geometry'}{number + 1}" if number else ""
        along = _along(places, group)
        # A position in the group is an index into `group`; everything below works on those.
        parts = _acquisitions([places[i] for i in group], along)
        for part, label in parts:
            ordered = sorted(part, key=lambda k: (along[k], _number(places[group[k]]), places[group[k]].tie))
            stacks.append(Stack(tuple(group[k] for k in ordered), _joined(geometry, label)))
    return stacks


def normal_of(orientation: Iterable[float]) -> np.ndarray:
    """Return the normal of a plane: row direction x column direction."""
    o = np.asarray(list(orientation), dtype=np.float64)
    return np.cross(o[:3], o[3:])


def plane_of_body(orientation: Iterable[float] | None) -> str | None:
    """Return which plane of the body is nearest: axial, coronal or sagittal; None without an orientation."""
    if orientation is None:
        return None
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal_of(orientation))))]


def _alike(items: Iterable[_Item], same: Callable[[_Item, _Item], bool]) -> list[list[_Item]]:
    """Group items by comparing each with the first member of every group."""
    groups: list[list[_Item]] = []
    for item in items:
        for group in groups:
            if same(item, group[0]):
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _same_geometry(a: Place, b: Place) -> bool:
    return _near(a.orientation, b.orientation, _ORIENTATION, 0.0) and _near(a.spacing, b.spacing, 1e-9, _SPACING)


def _near(a: Sequence[float] | None, b: Sequence[float] | None, absolute: float, relative: float) -> bool:
    """Return whether two vectors are near each other, or both missing; plain Python is faster than NumPy on so few."""
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= absolute + relative * abs(y) for x, y in zip(a, b, strict=True))


def _along(places: Sequence[Place], group: Sequence[int]) -> list[float]:
    """Return the positions of a group in mm along the normal of its first member."""
    orientation = places[group[0]].orientation
    normal = np.array([0.0, 0.0, 1.0]) if orientation is None else normal_of(orientation)
    return [float(np.dot(normal, places[i].position)) for i in group]


@dataclass(frozen=True)
class _Series:
    """Slices of one geometry; everything below speaks of them by their index."""

    places: Sequence[Place]
    along: Sequence[float]  # position in mm
    level: Sequence[int]  # number among the positions that are told apart

    def classes(self, name: str, part: list[int]) -> list[list[int]]:
        """Return the slices of a part by their value of a trait."""
        tolerance = _VALUE if name in _MEASURED else 0.0
        return [[part[k] for k in c] for c in classes([self.places[i].traits.get(name) for i in part], tolerance)]

    def by_order(self, name: str, part: list[int]) -> list[list[int]]:
        """Return the slices of a part by their value of an order, ascending."""
        return [[part[k] for k in c] for c in classes([self.places[i].orders.get(name) for i in part])]

    def rank(self, i: int) -> tuple[Any, ...]:
        """Return what sorts slices at one position."""
        return _number(self.places[i]), self.places[i].tie


def _acquisitions(places: Sequence[Place], along: Sequence[float]) -> list[tuple[list[int], str]]:
    least = min((min(p.spacing) for p in places if p.spacing), default=1.0)
    tolerance = min(0.01, 0.05 * least)  # far below any slice distance, above rounding in the text
    names = dict.fromkeys((*NOMINAL, *OTHERS, *(name for place in places for name in place.traits)))
    series = _Series(places, along, levels(along, tolerance))
    return _split(list(range(len(places))), series, tuple(names), "")


def _split(part: list[int], series: _Series, names: tuple[str, ...], label: str) -> list[tuple[list[int], str]]:
    """Divide a part by the best trait and go on with what that leaves; then by order."""
    best: tuple[float, str, list[list[int]]] | None = None
    for name in names:
        parts = series.classes(name, part)
        gain = _gain(name, part, parts, series)
        if gain > 0 and (best is None or (gain, -len(parts)) > (best[0], -len(best[2]))):
            best = gain, name, parts
    if best is None:
        return [(p, _joined(label, word)) for p, word in _by_order(part, series)]
    _, name, parts = best
    rest = tuple(n for n in names if n != name)
    words = _words(name, [series.places[p[0]].traits.get(name) for p in parts])
    return [
        piece for p, word in zip(parts, words, strict=True) for piece in _split(p, series, rest, _joined(label, word))
    ]


def _gain(name: str, part: list[int], parts: list[list[int]], series: _Series) -> float:
    """Return how many slices at repeated positions a trait tells apart; 0 where it does not divide acquisitions."""
    if len(parts) < 2:
        return 0
    deep = depth(part, series.level)
    few = len(parts) <= 1.5 * deep
    resolved = repeats(part, series.level) - sum(repeats(p, series.level) for p in parts)
    if deep > 1 and resolved and few:
        return float(resolved)
    stated = all(series.places[p[0]].traits.get(name) is not None for p in parts)
    if name in NOMINAL and stated and (few or 2 * len(parts) <= len(part)):
        return 0.5
    if name != "thickness" and 2 * len(parts) <= len(part) and _among(parts, series, name in _BEATING):
        return 0.25
    return 0


def _by_order(part: list[int], series: _Series) -> list[tuple[list[int], str]]:
    """Divide by what tells when a slice was made: classes, blocks that follow one another, else layers."""
    deep = depth(part, series.level)
    known = [name for name in ORDERS if all(series.places[i].orders.get(name) is not None for i in part)]
    divided = [units for units in (series.by_order(name, part) for name in known) if len(units) > 1]
    if deep == 1:
        for units in divided:
            parts, by_class = units, 2 * len(units) <= len(part)
            if not by_class:
                parts = runs([i for unit in units for i in unit], series.along)
                parts = parts if all(len(p) > 2 for p in parts) else [part]
            if len(parts) > 1 and _among(parts, series, strict=True, by_class=by_class):
                return _numbered(parts)
        return [(part, "")]
    for units in divided:
        if len(units) == deep and not any(repeats(u, series.level) for u in units):
            return _numbered(units)
    for units in divided:
        parts = blocks(units, series.along, series.level)
        if len(parts) == deep:
            return _numbered(parts)
    return _numbered(layers(part, divided, series.level, series.rank))


def _among(parts: list[list[int]], series: _Series, strict: bool, by_class: bool = True) -> bool:
    """Return whether classes lie among one another, each evenly spaced by itself (gaps allowed).

    Odd and even slices of one acquisition do as well. So ``strict`` calls it one acquisition where the slices of all
    classes together are as regular as those are, unless the slices of each class touch. Runs in time, which are no
    classes that the file names (``by_class``), must be neither as regular nor far apart for their thickness.
    """
    if any(len(p) < 2 for p in parts):
        return False
    along = series.along
    spans = sorted((min(along[i] for i in p), max(along[i] for i in p)) for p in parts)
    if not all(b[0] < a[1] for a, b in itertools.pairwise(spans)):
        return False
    steps = [even_gap([along[i] for i in p]) for p in parts]
    if any(s is None for s in steps):
        return False
    if not strict:
        return True
    least = min(s for s in steps if s is not None)
    thickness = series.places[parts[0][0]].thickness
    if not by_class and thickness and least > 1.6 * thickness:
        return False
    union = even_gap([along[i] for p in parts for i in p])
    if union is None or abs(union * len(parts) / least - 1) > 0.02:
        return all(len(p) > 2 for p in parts) or max(s or 0 for s in steps) <= 1.02 * least
    return by_class and bool(thickness) and least <= 1.05 * float(thickness or 0)


def _number(place: Place) -> float:
    number = place.orders.get("number")
    return float(number) if isinstance(number, float | int) else 0.0


def _numbered(parts: list[list[int]]) -> list[tuple[list[int], str]]:
    return [(p, str(k + 1) if k else "") for k, p in enumerate(parts)]


def _joined(label: str, word: str) -> str:
    return "-".join(w for w in (label, word) if w)


def _words(name: str, values: Sequence[Value]) -> list[str]:
    """Return what names the classes of a trait in file names: letters, digits and points."""
    texts = []
    for value in values:
        if value is None:
            texts.append("none")
        elif isinstance(value, tuple):
            shared = set(values[0]) if isinstance(values[0], tuple) else set()
            for other in values:
                shared &= set(other) if isinstance(other, tuple) else set()
            own = [str(v) for v in value if v not in shared]
            texts.append("".join(c for c in ".".join(own) if c.isascii() and (c.isalnum() or c == ".")).lower())
        elif isinstance(value, str):
            texts.append("".join(c for c in value if c.isascii() and c.isalnum()).lower())
        else:
            texts.append(f"{value:.6g}".replace("-", "m").replace("+", ""))
    long = any(len(t) > 16 for t in texts) or len(set(texts)) < len(texts) or "" in texts
    return [f"{_WORDS.get(name, 'dimension')}{k + 1 if long else text}" for k, text in enumerate(texts)]
