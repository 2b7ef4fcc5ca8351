"""Most timesteps are drawn where the inversion evaluates, some everywhere."""

import numpy as np
import pytest
import torch
from scipy import stats

from invad_med.training.steps import NoisyBatch, keyed_generator

COUNT = 20_000


def drawn(**options):
    """Timesteps of many images at many steps, and their noise."""
    batch = {"image": torch.zeros(COUNT, 1, 2, 2), "step": torch.arange(COUNT) // 50, "index": torch.arange(COUNT) % 50}
    _, noise, _, extra = NoisyBatch(3, **options)(batch)
    return extra["timesteps"].numpy(), noise


@pytest.mark.parametrize("share", [0.75, 0.2])
def test_a_share_falls_into_the_focus_and_the_rest_anywhere(share):
    timesteps, _ = drawn(focus=(50, 450), focus_share=share)
    inside = (timesteps >= 50) & (timesteps < 450)
    expected = share + (1 - share) * 0.4
    assert abs(inside.mean() - expected) < 4.5 * (expected * (1 - expected) / COUNT) ** 0.5
    for part, edges in ((timesteps[inside], [50, 450]), (timesteps[timesteps >= 450], [450, 1000])):
        counts, _ = np.histogram(part, bins=np.linspace(*edges, 11))
        assert stats.chisquare(counts).pvalue > 1e-4  # even within it, and beyond
    assert timesteps.min() < 5 and timesteps.max() > 995
    assert {50, 449} <= set(timesteps.tolist())  # both ends are of it


def test_the_share_may_be_all_or_nothing():
    timesteps, _ = drawn(focus=(50, 450), focus_share=1.0)
    assert timesteps.min() == 50 and timesteps.max() == 449
    timesteps, _ = drawn(focus=(50, 450), focus_share=0.0)
    assert stats.kstest(timesteps, stats.randint(0, 1000).cdf).pvalue > 1e-4


def test_without_a_focus_the_draws_are_those_of_before():
    timesteps, noise = drawn()
    for row in (0, 49, 50, COUNT - 1):
        generator = keyed_generator(3, row // 50, row % 50)
        assert timesteps[row] == int(torch.randint(1000, (1,), generator=generator))
        assert torch.equal(noise[row], torch.randn(1, 2, 2, generator=generator))


@pytest.mark.parametrize("focus", [(50, 251), (-1, 5), (9, 9)])
def test_a_focus_beyond_the_schedule_is_refused(focus):
    with pytest.raises(ValueError, match=r"lies beyond the schedule's 250 timesteps: give --focus a part .* \[0,250\]"):
        NoisyBatch(0, 250, focus=focus)
    NoisyBatch(0, 250, focus=(0, 250))
