"""Scores against loops."""

import math

import pytest
import torch

from invad_med import scoring


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))


def test_map_and_scores_against_loops(z):
    maps = scoring.anomaly_map(z)
    for b in range(3):
        norms = [[math.sqrt(sum(float(v) ** 2 for v in z[b, :, i, j])) for j in range(6)] for i in range(4)]
        flat = [v for row in norms for v in row]
        torch.testing.assert_close(maps[b], torch.tensor(norms))
        assert float(scoring.max_min(z)[b]) == pytest.approx(max(flat) - min(flat), rel=1e-5)
        assert float(scoring.paper_score(z)[b]) == pytest.approx(max(flat) - min(flat) + sum(flat), rel=1e-5)
        log_density = sum(-0.5 * (float(v) ** 2 + math.log(2 * math.pi)) for v in z[b].flatten())
        assert float(scoring.nll(z)[b]) == pytest.approx(-log_density, rel=1e-5)
        assert float(scoring.top_mean(maps, 0.25)[b]) == pytest.approx(sum(sorted(flat)[-6:]) / 6, rel=1e-5)


def test_resizing_is_plain_bilinear(z):
    big = scoring.anomaly_map(z, size=(32, 48))
    small = scoring.anomaly_map(z)
    assert big.shape == (3, 32, 48)
    assert bool((big.amax((1, 2)) <= small.amax((1, 2)) + 1e-6).all())
    torch.testing.assert_close(scoring.anomaly_map(z, size=(4, 6)), small)
    constant = scoring.anomaly_map(torch.ones(1, 4, 2, 2), size=(8, 8))
    torch.testing.assert_close(constant, torch.full((1, 8, 8), 2.0))
