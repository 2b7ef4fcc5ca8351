"""Intervals cover what they should; differences are paired."""

import numpy as np
import pytest

from invad_med.metrics import Figure, interval, paired_difference, resample_weights
from invad_med.metrics.bootstrap import figure


def test_weights_draw_as_many_groups_as_there_are():
    weights = resample_weights(7, 50)
    assert weights.shape == (50, 7) and (weights.sum(1) == 7).all() and (weights == resample_weights(7, 50)).all()
    assert not (weights == resample_weights(7, 50, seed=1)).all()


def test_the_interval_of_a_mean_covers_it():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        x = rng.normal(size=60)
        low, high = interval(resample_weights(60, 400, seed=int(rng.integers(1 << 30))) @ x / 60)
        covered += low <= 0.0 <= high
    assert 0.89 <= covered / 200 <= 0.99  # 95 % by name


def test_what_has_no_interval():
    assert interval(np.full(100, np.nan)) is None
    assert interval(np.r_[np.full(60, np.nan), np.ones(40)]) is None
    assert interval(np.r_[np.full(10, np.nan), np.ones(90)]) == (1.0, 1.0)
    assert figure(None, np.ones(10), 5) is None
    assert figure(0.5, np.ones(10), 1) == Figure(0.5, None, None)


def test_pairing_removes_what_is_common():
    rng = np.random.default_rng(0)
    common = rng.normal(size=80) * 5
    a, b = common + 0.3 + rng.normal(size=80) * 0.1, common
    weights = resample_weights(80)
    ra, rb = weights @ a / 80, weights @ b / 80
    fa, fb = (Figure(float(x.mean()), *interval(r)) for x, r in ((a, ra), (b, rb)))
    difference = paired_difference(fa, fb, ra, rb)
    assert fa.low < fb.value < fa.high  # apart, nothing is seen
    assert difference.low > 0.2 and difference.high < 0.4
    with pytest.raises(ValueError, match="not of one draw"):
        paired_difference(fa, fb, ra, rb[:10])
