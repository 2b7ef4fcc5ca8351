"""The feature cache: bounded, shared between processes, and the same features whatever was interrupted."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from invad_med.data.modalities import find_modality
from invad_med.detection import FeatureHost
from invad_med.features.cache import ArrayCache
from invad_med.features.cached import cached_features
from invad_med.networks import FrozenFeatures
from tests.conftest import save

BRAIN = find_modality("brain")


def array(value):
    return np.full((2, 3), value, np.float16)


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = ArrayCache(tmp_path, (2, 3))
    for age, key in enumerate("abcd"):
        cache.store(key, array(age))
        os.utime(tmp_path / f"{key}.npy", (1000 + age, 1000 + age))
    size = (tmp_path / "a.npy").stat().st_size
    (tmp_path / ".0a1b2c3d.partial").write_bytes(b"of a killed run")
    os.utime(tmp_path / ".0a1b2c3d.partial", (1000, 1000))
    assert cache.trim() == (4 * size, 0)
    assert cache.load("a")[0, 0] == 0  # used now
    assert ArrayCache(tmp_path, (2, 3), 2 * size + 1).trim() == (2 * size, 2)
    assert {p.stem for p in tmp_path.iterdir()} == {"a", "d"}
    with pytest.raises(ValueError, match="a cache of 0 bytes holds nothing"):
        ArrayCache(tmp_path, (2, 3), 0)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None, b"not an array" * 20])
def test_a_damaged_entry_counts_as_absent_and_is_replaced(tmp_path, damage):
    cache = ArrayCache(tmp_path, (2, 3))
    cache.store("a", array(1))
    file = tmp_path / "a.npy"
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert cache.load("a") is None
    cache.store("a", array(2))
    assert np.array_equal(cache.load("a"), array(2))
    np.save(file, np.zeros((2, 4), np.float16))
    assert cache.load("a") is None  # another shape


def test_an_image_has_the_same_features_whatever_else_is_computed(tmp_path):
    host = FeatureHost(FrozenFeatures(), torch.nn.Identity(), image_size=64)
    images = [save(tmp_path / f"{i}.png", i) for i in range(5)]
    whole = cached_features(host, images, BRAIN, None, progress=False, workers=2)
    alone = cached_features(host, images[3:4], BRAIN, tmp_path / "cache", progress=False, workers=1)
    assert torch.equal(alone[0], whole[3])
    assert torch.equal(cached_features(host, images, BRAIN, tmp_path / "cache", progress=False), whole)


def test_images_of_equal_content_are_computed_once(tmp_path, monkeypatch):
    host = FeatureHost(FrozenFeatures(), torch.nn.Identity(), image_size=64)
    computed, raw = [], host.raw
    monkeypatch.setattr(host, "raw", lambda x: computed.append(len(x)) or raw(x))
    images = [save(tmp_path / f"{i}.png", i % 2) for i in range(12)]
    once = cached_features(host, images, BRAIN, tmp_path / "cache", progress=False, workers=4)
    assert len(computed) == 2 and len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.equal(once, cached_features(host, images, BRAIN, None, progress=False))


def fill(images, cache, queue):
    """What one of two processes does."""
    torch.set_num_threads(1)
    host = FeatureHost(FrozenFeatures(), torch.nn.Identity(), image_size=64)
    queue.put(cached_features(host, images, BRAIN, cache, progress=False, limit_gb=1).numpy())


def test_two_processes_fill_one_cache_at_once(tmp_path):
    images = [save(tmp_path / f"{i}.png", i) for i in range(30)]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    running = [context.Process(target=fill, args=(images, tmp_path / "cache", queue)) for _ in range(2)]
    for process in running:
        process.start()
    one, other = queue.get(timeout=120), queue.get(timeout=120)
    for process in running:
        process.join()
    assert [p.exitcode for p in running] == [0, 0]
    assert np.array_equal(one, other)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 30 and all(p.suffix == ".npy" for p in files)  # nothing half-written is left
