"""How finer taps become cells of the coarsest grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from invad_med.data.modalities import find_modality
from invad_med.detection import FeatureHost
from invad_med.detection.host import rebuild_host
from invad_med.features.cached import cached_features
from invad_med.networks import FrozenFeatures
from tests.conftest import save


def taps_of(features, image):
    return features.body((image - features.image_mean) / features.image_std)


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_area_is_the_mean_of_all_values_in_a_cell(image):
    features = FrozenFeatures(merge="area")
    expected = []
    for tap in taps_of(features, image):
        n, c, h, w = tap.shape
        expected.append(tap.double().numpy().reshape(n, c, 4, h // 4, 4, w // 4).mean((3, 5)))
    assert len({e.shape[1:] for e in expected}) > 1 and len(expected) == 4
    np.testing.assert_allclose(features.raw(image).numpy(), np.concatenate(expected, 1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_point_is_bilinear_without_antialias_as_in_the_authors_code(image):
    features = FrozenFeatures(merge="point")
    taps = [F.interpolate(tap, size=(4, 4), mode="bilinear", align_corners=False) for tap in taps_of(features, image)]
    assert torch.equal(features.raw(image), torch.cat(taps, 1))
    assert torch.equal(FrozenFeatures().raw(image), features.raw(image))
    area = FrozenFeatures(merge="area").raw(image)
    last = taps[-1].shape[1]
    assert torch.equal(area[:, -last:], features.raw(image)[:, -last:])  # the coarsest tap is as it is
    assert not torch.allclose(area[:, :-last], features.raw(image)[:, :-last], atol=0.01)


@torch.no_grad()
def test_a_checkpoint_states_it_and_an_older_one_that_does_not_is_of_points(image):
    for merge in ("point", "area"):
        host = FeatureHost(FrozenFeatures(merge=merge), torch.nn.Identity(), image_size=64)
        stated = host.architecture.to_plain()
        assert stated["merge"] == merge
        again = rebuild_host(stated, denoiser=torch.nn.Identity())
        again.load_state_dict(host.state_dict())
        assert torch.equal(again.raw(image), host.raw(image))
        older = rebuild_host({k: v for k, v in stated.items() if k != "merge"}, denoiser=torch.nn.Identity())
        assert older.features.merge == "point"
    with pytest.raises(ValueError, match="merge='max': choose point or area"):
        FrozenFeatures(merge="max")


def test_cached_features_of_one_are_not_taken_for_the_others(tmp_path):
    images = [save(tmp_path / "a.png", 0)]
    point, area = (
        cached_features(
            FeatureHost(FrozenFeatures(merge=merge), torch.nn.Identity(), image_size=64),
            images, find_modality("brain"), tmp_path / "cache", progress=False,
        )
        for merge in ("point", "area")
    )  # fmt: skip
    assert not torch.equal(point, area) and len(list((tmp_path / "cache").iterdir())) == 2
