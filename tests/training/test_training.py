"""The feature cache, the draws of noise, and the artefact."""

import pytest
import torch

from invad_med.data.modalities import find_modality
from invad_med.detection import AnomalyDetector, FeatureHost, load_detector
from invad_med.diffusion import add_noise, linear_alphas_cumprod
from invad_med.features.cached import cached_features
from invad_med.files import data_digest
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.training.artefact import finish_training
from invad_med.training.cohort import read_cohort
from invad_med.training.features import prepare_features
from invad_med.training.sampling import Draw
from invad_med.training.steps import FeatureDataset, NoisePredictionInferer, NoisyBatch, training_precision
from tests.conftest import save

BRAIN = find_modality("brain")


@pytest.fixture
def brain(tmp_path):
    """A data set of 5 patients with 4 training slices each, 3 valid and 2 test images."""
    root = tmp_path / "brain"
    lines = ["split,class,name,patient"]
    for i in range(20):
        save(root / "train" / "good" / f"t{i:02d}.png", i)
        lines.append(f"train,good,t{i:02d},p{i // 4}")
    for i in range(3):
        save(root / "valid" / "good" / "img" / f"v{i}.png", 100 + i)
    save(root / "valid" / "Ungood" / "img" / "w.png", 150)
    save(root / "valid" / "Ungood" / "label" / "w.png", 151)
    save(root / "test" / "good" / "img" / "g.png", 200)
    save(root / "test" / "Ungood" / "img" / "u.png", 201)
    save(root / "test" / "Ungood" / "label" / "u.png", 202)
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def host():
    return FeatureHost(FrozenFeatures(), torch.nn.Identity(), image_size=64)


def test_the_cache_gives_the_same_and_notices_every_change(host, tmp_path, monkeypatch):
    images = [save(tmp_path / f"{i}.png", i) for i in range(3)]
    cache = tmp_path / "cache"
    computed = []
    raw = host.raw
    monkeypatch.setattr(host, "raw", lambda x: computed.append(len(x)) or raw(x))

    def run(modality=BRAIN):
        computed.clear()
        return cached_features(host, images, modality, cache, progress=False)

    first = run()
    assert sum(computed) == 3 and first.shape == (3, 192, 4, 4) and first.dtype == torch.float16
    assert torch.equal(run(), first) and not computed
    assert torch.equal(cached_features(host, images, BRAIN, None, progress=False), first)

    damaged = sorted(cache.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert torch.equal(run(), first) and sum(computed) == 1  # truncated: computed again
    assert torch.equal(run(), first) and not computed

    save(images[1], 77)
    assert not torch.equal(run()[1], first[1]) and sum(computed) == 1  # another content
    run(find_modality("chest"))
    assert sum(computed) == 3  # another recipe
    with torch.no_grad():
        host.features.body.bn1.bias.add_(0.1)
    run()
    assert sum(computed) == 3  # another backbone


def raw_host():
    """A host that takes features as they are."""
    return FeatureHost(FrozenFeatures(feature_norm=None), torch.nn.Identity())


def test_noise_depends_on_seed_step_and_sample_alone():
    items = FeatureDataset(torch.randn(6, 4, 3, 3), raw_host())

    def draw(step, indices, seed=3):
        batch = torch.utils.data.default_collate([items[Draw(step, i)] for i in indices])
        _, noise, _, extra = NoisyBatch(seed)(batch)
        return noise, extra["timesteps"]

    noise, timesteps = draw(7, range(6))
    some, some_timesteps = draw(7, (4, 1))
    assert torch.equal(some, noise[[4, 1]]) and torch.equal(some_timesteps, timesteps[[4, 1]])
    assert not torch.equal(draw(8, range(6))[0], noise)
    assert not torch.equal(draw(7, range(6), seed=4)[0], noise)
    fixed = torch.utils.data.default_collate([items[i] for i in range(6)])  # without a sampler: validation
    assert torch.equal(NoisyBatch(3)(fixed)[1], NoisyBatch(3)(fixed)[1])


def test_the_training_inferer_noises_its_input():
    x, noise, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([10, 900])
    seen = NoisePredictionInferer(linear_alphas_cumprod())(x, lambda x_t, t: x_t, noise=noise, timesteps=t)
    torch.testing.assert_close(seen, add_noise(x, noise, t, linear_alphas_cumprod()))


@pytest.mark.parametrize("capable", ["amx_bf16", "avx512_bf16", None])
def test_a_cpu_that_multiplies_in_bfloat16_trains_in_it(monkeypatch, capable):
    found = {"amx_bf16": False, "avx512_bf16": False, "avx512_f": True} | ({capable: True} if capable else {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert training_precision("cpu") == (torch.bfloat16 if capable else None)
    assert training_precision("cpu", "float32") is None and training_precision("cpu", "bfloat16") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # of another kind of processor
    assert training_precision("cpu") is None


def test_the_artefact_is_the_calibrated_detector(brain, tmp_path):
    cohort = read_cohort(brain, held_out_fraction=0.2)
    denoiser = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), denoiser, image_size=64))
    features = prepare_features(detector.host, cohort, tmp_path / "cache", progress=False)
    trained = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    torch.nn.init.normal_(trained.network.final_layer.linear.weight, std=0.1)
    path = finish_training(detector, trained.state_dict(), cohort, features, tmp_path / "model.pt", seed=0)

    state = torch.load(path, weights_only=True)
    assert state["host.features.body.conv_stem.weight"].dtype == torch.float32  # small
    assert state["host.features.body.blocks.4.0.conv_pw.weight"].dtype == torch.float16
    loaded = load_detector(path)
    image = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(loaded.detect(image), detector.detect(image), strict=True):
        torch.testing.assert_close(ours.map, theirs.map, rtol=1e-5, atol=1e-6)
        assert (ours.score, ours.p_value) == pytest.approx((theirs.score, theirs.p_value), rel=1e-5)
    assert loaded.provenance.modality == "brain"
    assert loaded.provenance.train_images == 16 and loaded.provenance.held_out_images == 7
    assert str(tmp_path) not in str(loaded.provenance)
    assert len(loaded.calibration.reference) == 7


def test_the_data_digest_ignores_names_and_order(tmp_path):
    a, b = save(tmp_path / "a.png", 1), save(tmp_path / "b.png", 2)
    assert data_digest([a, b]) == data_digest([b, a])
    assert data_digest([a]) == data_digest([a.rename(tmp_path / "c.png")])
    assert data_digest([b]) != data_digest([tmp_path / "c.png"])
