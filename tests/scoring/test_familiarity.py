"""How unlike an encoding is what a model was trained on, against the formula written out."""

import numpy as np
import pytest
import torch

from invad_med.networks.checkpoints import half_precision
from invad_med.scoring.familiarity import Familiarity


def encodings(count, seed, shift=0.0, spread=1.0):
    """Encodings of one kind of image: 48 channels whose levels and contrasts vary together, on 8 x 8 positions."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, 96, generator=torch.Generator().manual_seed(0))
    level, contrast = (0.15 * torch.randn(count, 12, generator=draw) @ mixing).chunk(2, dim=1)
    noise = torch.randn(count, 48, 8, 8, generator=draw)
    return noise * (spread * contrast.exp()[..., None, None]) + level[..., None, None] + shift


@pytest.fixture(scope="module")
def fitted():
    return Familiarity().fit(encodings(200, 1), encodings(31, 2))


def test_the_distance_is_that_of_the_formula(fitted):
    train, held_out, fresh = (encodings(*which).double().numpy() for which in ((200, 1), (31, 2), (7, 3)))

    def statistics(x):
        return np.concatenate([x.mean((2, 3)), np.log(x.std((2, 3)))], axis=1)

    seen = statistics(train)
    centre, scale = seen.mean(0), seen.std(0, ddof=1)
    values, vectors = np.linalg.eigh(np.cov(((seen - centre) / scale).T))
    kept = 48  # half of the statistics
    values[:-kept] = values[:-kept].mean()
    inverse = vectors @ np.diag(1 / values) @ vectors.T

    def distance(x):
        z = (statistics(x) - centre) / scale
        return np.sqrt(np.einsum("ni,ij,nj->n", z, inverse, z) / 96)

    limit = 2.5 * np.median(distance(held_out))
    np.testing.assert_allclose(fitted.distance(torch.from_numpy(fresh)), distance(fresh) / limit, rtol=3e-3)


def test_its_own_kind_is_familiar_and_another_is_not(fitted):
    assert fitted.distance(encodings(100, 4)).max() < 1
    assert fitted.distance(encodings(100, 4, shift=4.0)).min() > 1
    assert fitted.distance(encodings(100, 4, spread=4.0)).min() > 1
    assert fitted.distance(torch.zeros(1, 48, 8, 8)).item() > 1, "what has no contrast at all"


def test_a_lesion_is_no_other_kind(fitted):
    images = encodings(100, 5)
    images[:, :, 2:4, 2:4] += 2 * images.std((2, 3))[..., None, None]
    assert (fitted.distance(images) < 1).float().mean() >= 0.99


def test_an_image_is_judged_alone(fitted):
    images = torch.cat([encodings(70, 6), encodings(70, 7, shift=2.0)])
    alone = torch.cat([fitted.distance(image[None]) for image in images])
    torch.testing.assert_close(fitted.distance(images), alone, rtol=1e-5, atol=1e-6)


def test_an_odd_image_among_the_held_out_does_not_move_the_limit(fitted):
    odd = Familiarity().fit(encodings(200, 1), torch.cat([encodings(31, 2), encodings(2, 8, shift=50.0)]))
    assert odd.limit.item() == pytest.approx(fitted.limit.item(), rel=0.1)


def test_it_is_stored_in_half_precision_and_loads_as_it_was(fitted):
    state = half_precision(fitted.state_dict())
    loaded = Familiarity()
    loaded.load_state_dict(state)
    assert loaded.fitted
    images = encodings(9, 9)
    torch.testing.assert_close(loaded.distance(images), fitted.distance(images), rtol=0, atol=0)


def test_its_size_is_bounded():
    large = Familiarity().fit(torch.randn(300, 192, 4, 4), torch.randn(10, 192, 4, 4))
    stored = half_precision(large.state_dict()).values()
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored) < 60_000


@pytest.mark.parametrize(("train", "held_out"), [(49, 10), (50, 9)])
def test_too_few_images_fit_nothing(train, held_out):
    assert not Familiarity().fit(encodings(train, 1), encodings(held_out, 2)).fitted
    assert Familiarity().fit(encodings(50, 1), encodings(10, 2)).fitted


def test_values_that_are_not_finite_are_refused():
    broken = encodings(60, 1)
    broken[3, 2, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="encodings of held_out are not finite: an image or the encoder is damaged"):
        Familiarity().fit(encodings(60, 1), broken)
