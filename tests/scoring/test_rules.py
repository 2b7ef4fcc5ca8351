"""Each rule's statistics and map, computed again with numpy."""

import numpy as np
import pytest
import torch

from invad_med.diffusion import Walked
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.rules import DEFAULT_RULE, MENU, RULES, find_rule, lengths_of_means


def rms(vectors):
    """Root mean square over the channels of (C, ...)."""
    return np.sqrt((vectors**2).mean(0))


def longest(image, side):
    c, h, w = image.shape
    return rms(image.reshape(c, side, h // side, side, w // side).mean((2, 4))).max()


def means(image):
    """Weighted means of 3 x 3 neighbours, 0 beyond the border."""
    h, w = image.shape[1:]
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    return np.array([[(padded[:, i : i + 3, j : j + 3] * weights).sum((1, 2)) for j in range(w)] for i in range(h)])


STATISTICS = {
    "whitened_mean_and_cell": lambda image: [rms(image).mean(), longest(image, 4)],
    "cell_of_8": lambda image: [longest(image, 8)],
    "cell_of_16": lambda image: [longest(image, 16)],
    "length": lambda image: [rms(image).mean()],
}
MAPS = {
    "whitened_mean_and_cell": rms,
    "cell_of_8": lambda image: rms(means(image).transpose(2, 0, 1)),
    "cell_of_16": rms,
    "memory_and_features": rms,  # of the end point; the encoding's part: test_memory.py
    "memory": rms,
    "length": rms,
}


@pytest.fixture
def whitened():
    z = torch.randn(4, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    z[1, :, 3, 15] += 4
    z[2, :, 4:9, 0:6] += 1
    return z


def noise(parts, count):
    return torch.randn(parts, count, 5, 16, 16, generator=torch.Generator().manual_seed(parts))


def test_there_is_a_reference_for_every_rule():
    assert STATISTICS.keys() | {"memory", "memory_and_features"} == MAPS.keys()  # of memory: test_memory.py
    assert MAPS.keys() == RULES.keys() == {*MENU, "memory", "length"}
    assert MENU[0] == DEFAULT_RULE == "whitened_mean_and_cell"  # what checkpoints name


@pytest.mark.parametrize("name", RULES)
def test_statistics_and_map_are_what_the_rule_says(name, whitened):
    rule, images = find_rule(name), whitened.double().numpy()
    if name in STATISTICS:
        statistics = np.log([STATISTICS[name](image) for image in images])
        np.testing.assert_allclose(rule.statistics(whitened).numpy(), statistics, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rule.map(whitened).numpy(), [MAPS[name](i) for i in images], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_calibration_scores_and_maps_by_its_rule(name, whitened):
    train, seen = Walked(*noise(2, 30)), Walked(noise(1, 4)[0], whitened)
    held_out = Walked(train.encoding[:9], train.end_point[:9])
    fitted = Calibration(5, name).fit(train, held_out, [(200, None)])
    if not find_rule(name).encodings:
        torch.testing.assert_close(fitted.map(seen), find_rule(name).map(fitted.whiten(whitened)))
    other = Calibration(5)
    other.use_rule(name)
    other.fit(train, held_out, [(200, None)])
    assert torch.equal(other.score(whitened), fitted.score(whitened))
    reloaded = Calibration(5)
    reloaded.load_state_dict(fitted.state_dict())
    assert reloaded.rule == name and torch.equal(reloaded.map(seen), fitted.map(seen))


def test_noise_does_not_rank_first_at_the_border():
    noise = torch.randn(500, 8, 7, 7, generator=torch.Generator().manual_seed(2))
    mean = lengths_of_means(noise).mean(0)
    assert mean[0, 0] < mean[0, 3] < mean[3, 3]  # a corner, an edge, the middle
    border = torch.ones(7, 7, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert mean[border].max() < mean[~border].min()


def test_nothing_is_no_minus_infinity():
    for rule in RULES.values():
        nothing = torch.zeros(1, 16, 16) if rule.remembers else torch.zeros(1, 5, 16, 16)
        assert torch.isfinite(rule.statistics(nothing)).all()
