"""Baselines against loops."""

import numpy as np
import torch

from invad_med.evaluation.floor import TRIVIAL_STATISTICS, trivial_statistics
from invad_med.evaluation.methods.gaussian import PositionGaussian
from invad_med.evaluation.methods.neighbours import draw_bank, nearest_neighbour_maps


def test_nearest_neighbours_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    features, normals = torch.randn(2, 3, 2, 2, generator=generator), torch.randn(4, 3, 2, 2, generator=generator)
    maps = nearest_neighbour_maps(features, draw_bank(normals))
    for n, i, j in np.ndindex(2, 2, 2):
        distances = [(features[n, :, i, j] - normals[m, :, a, b]).norm() for m, a, b in np.ndindex(4, 2, 2)]
        torch.testing.assert_close(maps[n, i, j], min(distances), rtol=1e-4, atol=1e-5)
    assert nearest_neighbour_maps(normals, draw_bank(normals)).max() < 1e-3
    assert (nearest_neighbour_maps(features, draw_bank(normals, 5)) >= maps - 1e-5).all()


def test_statistics_say_what_their_names_say():
    rng = np.random.default_rng(0)
    normals = rng.uniform(0.3, 0.6, (40, 32, 32))
    images = np.stack([np.full((32, 32), 0.9), np.zeros((32, 32)), normals[0], rng.uniform(0.3, 0.6, (32, 32))])
    table = dict(zip(TRIVIAL_STATISTICS, trivial_statistics(images, normals).T, strict=True))
    assert abs(table["mean"][0] - 0.9) < 1e-9 and table["dark"][1] == 1.0 and table["bright"][0] == 1.0
    assert table["gradient"][0] == 0.0 and abs(table["border"][0] - 0.9) < 1e-9
    assert table["train mean"][0] > table["train mean"][2]
    assert table["30 components"][2] < table["30 components"][3]  # it was one of those the components are of


def test_the_gaussian_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    normals, features = torch.randn(30, 3, 2, 2, generator=generator), torch.randn(4, 3, 2, 2, generator=generator)
    maps = PositionGaussian(normals).maps(features)
    for n, i, j in np.ndindex(4, 2, 2):
        train = normals[:, :, i, j].double().numpy()
        inverse = np.linalg.inv(np.cov(train.T) + 0.01 * np.eye(3))
        d = features[n, :, i, j].double().numpy() - train.mean(0)
        assert abs(float(maps[n, i, j]) - np.sqrt(d @ inverse @ d)) < 1e-4
