"""Calls are measured in turns, the slow ones less often; a median and not the first call counts."""

import math

import pytest

from invad_med.bench import clock


@pytest.fixture
def time_passes(monkeypatch):
    """Return a maker of calls that take so many seconds of both clocks; `calls` names them in order."""
    now, calls = [0.0], []
    monkeypatch.setattr(clock.time, "process_time", lambda: now[0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: 2 * now[0])

    def make(name, *durations):
        left = list(durations)

        def call():
            calls.append(name)
            now[0] += left.pop(0) if len(left) > 1 else left[0]

        return call

    make.calls = calls
    return make


def test_the_median_of_the_repeats_counts_and_the_first_call_does_not(time_passes):
    assert clock.seconds(time_passes("a", 100, 3, 1, 2), repeats=3, cuda=False) == 2.0


def test_every_call_is_measured_in_every_round_and_the_first_does_not_count(time_passes):
    calls = {"a": time_passes("a", 50, 1), "b": time_passes("b", 60, 3)}
    costs = clock.take_turns(calls, rounds=4)
    assert costs == {"a": [(1, 2)] * 4, "b": [(3, 6)] * 4}
    rounds = [time_passes.calls[2 + 2 * i : 4 + 2 * i] for i in range(4)]
    assert all(set(each) == {"a", "b"} for each in rounds) and len({tuple(each) for each in rounds}) == 2


@pytest.mark.parametrize(("budget", "count"), [(math.inf, 12), (6, 6), (0.1, 3)])
def test_a_slow_call_keeps_to_its_budget_but_is_measured_three_times(time_passes, budget, count):
    costs = clock.take_turns({"slow": time_passes("slow", 0.5)}, rounds=12, budget=budget)
    assert len(costs["slow"]) == count  # a second of the wall each


def test_a_call_takes_part_in_few_rounds_too(time_passes):
    ended = []
    costs = clock.take_turns({"slow": time_passes("slow", 9)}, 1, budget=0.1, after_round=lambda: ended.append(1))
    assert len(costs["slow"]) == len(ended) == 1
