"""Slices divided by nothing but the order in which they were made: runs, blocks, layers.

``units`` are slices that were made together, in the order in which they were; ``along`` is the position of every slice
in mm, ``level`` its number among the positions that are told apart.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from invad_med.readers.dicom.classes import repeats

_UNEVEN = 0.02  # part of a step by which the next may differ


def runs(ordered: Sequence[int], along: Sequence[float]) -> list[list[int]]:
    """Cut a sequence where it turns back, as a table does that starts anew.

    The slice at the turn goes to the run whose steps it keeps.
    """
    result = [[ordered[0]]]
    for i in ordered[1:]:
        run = result[-1]
        if len(run) > 1 and (along[i] - along[run[-1]]) * (along[run[-1]] - along[run[-2]]) < 0:
            step, last, back = (
                abs(along[x] - along[y]) for x, y in ((run[1], run[0]), (run[-1], run[-2]), (i, run[-1]))
            )
            leaves = len(run) > 2 and abs(last - step) > _UNEVEN * step >= abs(back - step)
            result.append([run.pop(), i] if leaves else [i])
        else:
            run.append(i)
    return result


def blocks(units: Sequence[list[int]], along: Sequence[float], level: Sequence[int]) -> list[list[int]]:
    """Cut a sequence into the fewest stretches in which no position repeats, each cut at the largest leap it can be at.

    A unit that repeats a position by itself makes as many stretches as there are slices, which no caller takes.
    """
    if any(repeats(unit, level) for unit in units):
        return [[i] for unit in units for i in unit]
    late = _latest(units, level)
    early = [len(units) - cut for cut in reversed(_latest(units[::-1], level))]
    cuts = []
    for first, last in zip(early, late, strict=True):
        leaps = {c: abs(along[units[c][0]] - along[units[c - 1][-1]]) for c in range(first, last + 1)}
        cuts.append(max(leaps, key=lambda c: leaps[c]))
    for edges in (cuts, late):
        bounds = [0, *edges, len(units)]
        parts = [[i for unit in units[a:b] for i in unit] for a, b in itertools.pairwise(bounds)]
        if not any(repeats(p, level) for p in parts):
            break
    return parts


def _latest(units: Sequence[list[int]], level: Sequence[int]) -> list[int]:
    """Return the latest places at which a sequence must be cut so that no position repeats."""
    cuts: list[int] = []
    seen: set[int] = set()
    for k, unit in enumerate(units):
        here = {level[i] for i in unit}
        if seen & here:
            cuts.append(k)
            seen = set()
        seen |= here
    return cuts


def layers(
    part: Sequence[int], divided: Sequence[list[list[int]]], level: Sequence[int], rank: Callable[[int], Any]
) -> list[list[int]]:
    """Put the k-th slice of each position into layer k.

    Args:
        part: the slices.
        divided: the slices as units, by several orders; the first that differs wherever a position repeats counts.
        level: see above.
        rank: decides between slices at one position where no order does.
    """
    at: dict[int, list[int]] = defaultdict(list)
    for i in part:
        at[level[i]].append(i)
    order = dict.fromkeys(part, 0)
    for units in divided:
        when = {i: k for k, unit in enumerate(units) for i in unit}
        if all(len({when[i] for i in members}) == len(members) for members in at.values()):
            order = when
            break
    result: list[list[int]] = []
    for members in at.values():
        for k, i in enumerate(sorted(members, key=lambda i: (order[i], rank(i)))):
            if k == len(result):
                result.append([])
            result[k].append(i)
    return result
