"""Seconds of a call, of one process alone, and of calls that take turns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Seconds of one call: of all threads of this process together, and of the clock on the wall."""

    core: float
    wall: float


def timed(call: Callable[[], object]) -> Cost:
    """Return what one call costs this process, or the `Cost` that the call returns, as of another process."""
    core, wall = time.process_time(), time.perf_counter()
    result = call()
    if isinstance(result, Cost):
        return result
    return Cost(time.process_time() - core, time.perf_counter() - wall)


def seconds(function: Callable[[], object], repeats: int, cuda: bool) -> float:
    """Return seconds of one call, the median of ``repeats`` after one that does not count.

    On a CPU these are seconds of the process (all threads together), which other processes do not lengthen much; on a
    GPU they are seconds that pass.
    """

    def call() -> None:
        function()
        if cuda:
            torch.cuda.synchronize()

    costs = [timed(call) for _ in range(repeats + 1)][1:]
    return median(cost.wall if cuda else cost.core for cost in costs)


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    budget: float = math.inf,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[Cost]]:
    """Return what each call costs, measured round by round, so that all meet the machine in the same state.

    Every call is made once before, which does not count. One that would take more than ``budget`` seconds in all is
    measured in every k-th round only, at least three times where there are three rounds. The order within a round is
    drawn anew each time: what runs before leaves its mark on caches.

    Args:
        calls: by name.
        rounds: at least 1.
        budget: seconds of the wall for all rounds of one call.
        after_round: called after each round.
    """
    strides = {}
    for name, call in calls.items():
        once = timed(call).wall
        strides[name] = min(max(1, math.ceil(rounds * once / budget)), max(1, rounds // 3))
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    order, drawn = list(calls), random.Random(0)
    for i in range(rounds):
        drawn.shuffle(order)
        for name in order:
            if i % strides[name] == 0:
                costs[name].append(timed(calls[name]))
        after_round()
    return costs
