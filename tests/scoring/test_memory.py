"""A memory of normal vectors against scikit-learn and loops."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from invad_med.diffusion import Walked
from invad_med.networks.checkpoints import half_precision
from invad_med.scoring import Calibration
from invad_med.scoring.memory import averaged, coreset, distances, draw, exact_distances


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def walked(z):
    return Walked(z, z)


def positions(features):
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).numpy()


def means(features):
    """Means of 3 x 3 neighbours of (N, C, h, w), zeros beyond the border."""
    padded = np.pad(features.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = features.shape[2:]
    return sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9


def farthest_cell(maps):
    """Logarithm of the largest mean of a 4 x 4 grid of cells of each map (n, 16, 16)."""
    return np.log(maps.reshape(len(maps), 4, 4, 4, 4).mean((2, 4)).max((1, 2)))


def test_distances_are_those_to_the_nearest_of_all():
    features, normals = noise(3, 6, 5, 4), noise(7, 6, 5, 4, seed=1)
    nearest = NearestNeighbors(n_neighbors=1).fit(positions(normals)).kneighbors(positions(features))[0]
    found = distances(features, draw(normals, 1_000))
    np.testing.assert_allclose(found.numpy(), nearest.reshape(3, 5, 4), rtol=1e-4)
    assert (distances(features, draw(normals, 9)) >= found - 1e-5).all()


def test_exact_distances_are_exact_where_a_vector_is_in_the_bank():
    features, bank = noise(3, 6, 5, 4) + 5, noise(300, 6, seed=1) + 5
    bank[7], bank[9] = features[1, :, 2, 3], features[2, :, 0, 0] + 1e-3
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank.double().numpy())
    wanted = nearest.kneighbors(positions(features).astype(float))[0].reshape(3, 5, 4)
    found = exact_distances(features, bank)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert found[1, 2, 3] == 0 and found[2, 0, 0] < 0.01


def test_what_is_drawn_is_there_once():
    normals = noise(7, 6, 5, 4).half()
    drawn = draw(normals, 100)
    rows = {tuple(row) for row in positions(normals.float()).tolist()}
    assert drawn.shape == (100, 6) and len({tuple(row) for row in drawn.tolist()} & rows) == 100
    assert torch.equal(drawn, draw(normals, 100)) and not torch.equal(drawn, draw(normals, 100, seed=1))


def test_averages_count_what_lies_beyond_the_border_as_zero():
    features = noise(2, 3, 5, 4)
    np.testing.assert_allclose(averaged(features).numpy(), means(features), rtol=1e-4, atol=1e-6)


def test_a_coreset_takes_the_farthest_from_those_it_has():
    bank = noise(60, 3)
    chosen = [0]
    while len(chosen) < 12:
        chosen.append(max(range(60), key=lambda i: min(float((bank[i] - bank[j]).norm()) for j in chosen)))
    assert torch.equal(coreset(bank, 12), bank[chosen])
    assert {*map(tuple, coreset(bank, 99).tolist())} == {*map(tuple, bank.tolist())}  # all of it


def test_a_score_from_memory_against_scikit_learn():
    """Two opposite kinds of normal image: what lies between them is near their mean, and far from both."""
    sign = torch.tensor([1.0, -1.0]).repeat(20)[:, None, None, None]
    train, held_out = 3 * sign + noise(40, 6, 16, 16), 3 * sign[:10] + noise(10, 6, 16, 16, seed=1)
    between = noise(5, 6, 16, 16, seed=2)
    fitted = Calibration(6, "memory").fit(walked(train), walked(held_out), [(200, None)])
    remembered = fitted.remembered.numpy()
    assert remembered.shape == (2_000, 6)

    def whitened(z):
        return (z - train.mean((0, 2, 3), keepdim=True)) / train.transpose(0, 1).flatten(1).std(1)[:, None, None]

    def reference(z, bank):
        queries = positions(torch.from_numpy(means(whitened(z))))
        nearest = NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(queries)[0]
        return farthest_cell(nearest.reshape(-1, 16, 16))

    for z in (held_out, between):
        np.testing.assert_allclose(fitted.statistics(z)[:, 0].numpy(), reference(z, remembered), rtol=1e-3, atol=1e-3)
    assert fitted.score(between).min() > fitted.score(held_out).max()
    blind = Calibration(6, "cell_of_8").fit(walked(train), walked(held_out), [(200, None)])
    assert blind.score(between).max() < blind.score(held_out).min()

    halves = []  # each half of what is learnt from is measured by the memory of the other
    for half, other in ((train[:20], train[20:]), (train[20:], train[:20])):
        bank = draw(averaged(whitened(other)), 2_000).half().float().numpy()
        halves.append(reference(half, bank))
    assert abs(float(fitted.statistics_mean) - np.concatenate(halves).mean()) < 1e-3
    assert abs(float(fitted.statistics_std) - np.concatenate(halves).std()) < 1e-3


def test_a_memory_is_stored_in_half_precision_and_goes_with_its_rule():
    train = noise(12, 6, 16, 16)
    fitted = Calibration(6, "memory").fit(walked(train), walked(train[:9] + 0.1), [(200, None)])
    stored = half_precision(fitted.state_dict())
    assert stored["remembered"].dtype == torch.float16
    reloaded = Calibration(6)
    reloaded.load_state_dict(stored)
    assert torch.equal(reloaded.score(train), fitted.score(train)) and reloaded.rule == "memory"
    reloaded.use_rule("cell_of_8")
    assert reloaded.fit(walked(train), walked(train[:9]), [(200, None)]).remembered.shape == (0, 6)


def test_a_map_of_length_and_features_against_scikit_learn():
    """Normal encodings of two kinds; end points that tell nothing of what lies between these."""
    sign = torch.tensor([1.0, -1.0]).repeat(20)[:, None, None, None]
    train = Walked(3 * sign + noise(40, 6, 16, 16), 2 * noise(40, 6, 16, 16, seed=1) + 1)
    held_out = Walked(3 * sign[:10] + noise(10, 6, 16, 16, seed=2), 2 * noise(10, 6, 16, 16, seed=3) + 1)
    between = Walked(noise(5, 6, 16, 16, seed=4), held_out.end_point[:5])
    fitted = Calibration(6, "memory_and_features").fit(train, held_out, [(200, None)])
    plain = Calibration(6, "memory").fit(train, held_out, [(200, None)])
    for part in (held_out, between):
        assert torch.equal(fitted.score(part.end_point), plain.score(part.end_point))
    assert torch.equal(fitted.reference, plain.reference) and plain.encodings.shape == (0, 6)
    kept, rows = fitted.encodings.numpy(), positions(train.encoding.half().float())
    assert kept.shape == (2_000, 6) and len({*map(tuple, kept.tolist())} & {*map(tuple, rows.tolist())}) == 2_000

    def nearest(x, bank):
        return NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(positions(x))[0].reshape(-1, 16, 16)

    def length(z):
        z, own = z.double().numpy(), train.end_point.double().numpy()
        whitened = (z - own.mean((0, 2, 3), keepdims=True)) / own.std((0, 2, 3), keepdims=True, ddof=1)
        return np.sqrt((whitened**2).mean(1))

    halves = ((train.encoding[:20], train.encoding[20:]), (train.encoding[20:], train.encoding[:20]))
    apart = [nearest(half, draw(other, 2_000).half().float().numpy()) for half, other in halves]
    std = length(train.end_point).std(), np.concatenate(apart).std()
    np.testing.assert_allclose(fitted.map_std.numpy(), std, rtol=1e-3)

    def reference(part):
        return length(part.end_point) / std[0] + nearest(part.encoding, kept) / std[1]

    for part in (held_out, between):
        np.testing.assert_allclose(fitted.map(part).numpy(), reference(part), rtol=1e-3)
    assert fitted.map(between).mean() > fitted.map(held_out).mean() + 1  # of the same end points
    exceeded = np.sort(reference(held_out).reshape(10, -1), 1)[:, 243]  # a twentieth of 256 lies above
    assert (fitted.map_reference.numpy() >= np.sort(exceeded) * 0.999).all()
    assert float(fitted.map_reference[0]) <= np.sort(exceeded)[1] * 1.001


def test_encodings_are_stored_in_half_precision_and_go_with_their_rule():
    train = Walked(noise(40, 6, 16, 16), noise(40, 6, 16, 16, seed=1))
    fitted = Calibration(6, "memory_and_features").fit(train, train, [(200, None)])
    stored = half_precision(fitted.state_dict())
    assert stored["encodings"].dtype == torch.float16 and stored["map_std"].shape == (2,)
    reloaded = Calibration(6)
    reloaded.load_state_dict(stored)
    assert torch.equal(reloaded.map(train), fitted.map(train))
    reloaded.use_rule("memory")
    reloaded.fit(train, train, [(200, None)])
    assert reloaded.encodings.shape == (0, 6) and reloaded.map_std.shape == (0,)


def test_encodings_belong_to_their_end_points():
    with pytest.raises(ValueError, match=r"encodings \(3, 6, 4, 4\) and end points \(2, 6, 4, 4\) are not of the same"):
        Walked(noise(3, 6, 4, 4), noise(2, 6, 4, 4))
