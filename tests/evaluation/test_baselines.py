"""Baselines against loops and scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.neighbors
import torch

from invad_med.evaluation.floor import TRIVIAL_STATISTICS, trivial_statistics
from invad_med.evaluation.methods.gaussian import PositionGaussian
from invad_med.evaluation.methods.neighbours import NearestNeighbours
from invad_med.evaluation.methods.reconstruction import Reconstruction
from invad_med.scoring.memory import averaged


def positions(features):
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


@pytest.mark.parametrize("setting", NearestNeighbours.settings)
def test_nearest_neighbours_are_those_of_the_setting(setting):
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(12, 5, 16, 16, generator=generator).half()
    batch = SimpleNamespace(features=torch.randn(2, 5, 16, 16, generator=generator), device=torch.device("cpu"))
    method = NearestNeighbours(None, None)
    method.learn(SimpleNamespace(features=normals))
    seen, bank = batch.features, positions(normals.float())
    if setting != "single positions":
        seen, bank = averaged(seen), positions(averaged(normals.float()))
    nearest = sklearn.neighbors.NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(positions(seen))[0]
    maps = method.maps(batch, NearestNeighbours.settings[setting])
    if "coreset" in setting:  # 2,000 of the 3,072 positions, none farther from these than they are from each other
        kept = method.banks[NearestNeighbours.settings[setting]]
        assert len(kept) == 2_000 and (maps.flatten().numpy() >= nearest[:, 0] - 1e-3).all()
        apart = torch.cdist(kept, kept).fill_diagonal_(torch.inf).min()
        assert torch.cdist(bank, kept).amin(1).max() <= apart + 1e-2
    else:
        np.testing.assert_allclose(maps.flatten().numpy(), nearest[:, 0], rtol=1e-3, atol=2e-3)


def test_statistics_say_what_their_names_say():
    rng = np.random.default_rng(0)
    normals = rng.uniform(0.3, 0.6, (40, 32, 32))
    images = np.stack([np.full((32, 32), 0.9), np.zeros((32, 32)), normals[0], rng.uniform(0.3, 0.6, (32, 32))])
    table = dict(zip(TRIVIAL_STATISTICS, trivial_statistics(images, normals).T, strict=True))
    assert abs(table["mean"][0] - 0.9) < 1e-9 and table["dark"][1] == 1.0 and table["bright"][0] == 1.0
    assert table["gradient"][0] == 0.0 and abs(table["border"][0] - 0.9) < 1e-9
    assert table["train mean"][0] > table["train mean"][2]
    assert table["30 components"][2] < table["30 components"][3]  # it was one of those the components are of


@pytest.mark.parametrize("setting", Reconstruction.settings.values())
def test_a_reconstruction_takes_any_schedule_and_the_networks_conditions(setting):
    asked, alphas = [], torch.linspace(0.95, 0.05, 10, dtype=torch.float64)

    def predictor(raw):
        return lambda x, t: asked.append((int(t[0]), raw)) or torch.zeros_like(x)

    host = SimpleNamespace(alphas_cumprod=alphas, predictor=predictor)
    batch = SimpleNamespace(features=torch.randn(2, 1, 4, 4), raw="raw")
    method = Reconstruction(SimpleNamespace(host=host, timesteps=[(0, 3), (3, 6), (6, 9)]), None)
    maps = method.maps(batch, setting)
    assert [raw for _, raw in asked] == ["raw"] * len(asked) and asked[0][0] == setting // 100
    assert len(asked) == min(3, setting // 100)
    level = float(alphas[setting // 100])  # noise is never taken off: x / sqrt(a) + noise is what is left
    noise = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)) * ((1 - level) / level) ** 0.5
    torch.testing.assert_close(maps, noise.norm(dim=0).expand_as(maps))


def test_the_gaussian_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    normals, features = torch.randn(30, 3, 2, 2, generator=generator), torch.randn(4, 3, 2, 2, generator=generator)
    maps = PositionGaussian(normals).maps(features)
    for n, i, j in np.ndindex(4, 2, 2):
        train = normals[:, :, i, j].double().numpy()
        inverse = np.linalg.inv(np.cov(train.T) + 0.01 * np.eye(3))
        d = features[n, :, i, j].double().numpy() - train.mean(0)
        assert abs(float(maps[n, i, j]) - np.sqrt(d @ inverse @ d)) < 1e-4
