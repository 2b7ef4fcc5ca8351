"""One module from image to map, as exporters and third parties call it."""

import numpy as np
import pytest
import torch

from invad_med.detection import AnomalyDetector, FeatureHost, load_detector
from invad_med.diffusion import Grid, Walked, inversion_timesteps, invert, linear_alphas_cumprod
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.scoring.scores import anomaly_map, paper_score


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def detector(images) -> AnomalyDetector:
    torch.manual_seed(0)
    features = FrozenFeatures()
    denoiser = create_denoiser("cpu", in_channels=features.out_channels, depth=1, hidden_size=32)
    torch.nn.init.normal_(denoiser.network.final_layer.linear.weight, std=0.05)
    detector = AnomalyDetector(FeatureHost(features, denoiser)).eval()
    with torch.no_grad():
        detector.host.fit_normalisation(detector.host.raw(images))
        x, z = detector.host.encode(images), detector.end_point(images)
        detector.calibration.fit(Walked(x[:4], z[:4]), Walked(x[4:], z[4:]), detector.timesteps)
    return detector


@pytest.fixture(scope="module")
def checkpoint(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(detector.state_dict(), path)
    return path


@torch.no_grad()
def test_image_in_map_out(detector, images):
    detections = detector.detect(images[:2], false_positive_rate=0.4)
    z, maps = detector.end_point(images[:2]), detector(images[:2])
    assert maps.shape == (2, 1, 256, 256)
    for i, detection in enumerate(detections):
        torch.testing.assert_close(torch.from_numpy(detection.map), maps[i, 0])
        assert detection.paper_score == pytest.approx(float(paper_score(z)[i]), rel=1e-6)
        assert detection.score == pytest.approx(float(detector.calibration.score(z)[i]), rel=1e-6)
        assert detection.threshold == detector.calibration.references.threshold(0.4) and detection.withheld is None
        assert detection.abnormal == (detection.score > detection.threshold)
    assert detector(torch.rand(1, 3, 300, 200)).shape == (1, 1, 300, 200)


@torch.no_grad()
def test_a_rate_out_of_reach_withholds_the_threshold_alone(detector, images):
    (detection,) = detector.detect(images[:1], false_positive_rate=0.05)
    assert detection.score is not None and detection.threshold is None and detection.abnormal is None
    assert detection.withheld == "2 held-out normal images support no threshold at a rate of 0.05"
    assert detection.map_threshold == float(detector.calibration.map_reference[-1])


@torch.no_grad()
def test_a_checkpoint_brings_everything(detector, checkpoint, images):
    loaded = load_detector(checkpoint)
    torch.testing.assert_close(loaded(images[:1]), detector(images[:1]))
    assert loaded.detect(images[:1])[0].p_value == detector.detect(images[:1])[0].p_value
    assert loaded.timesteps == inversion_timesteps(3)


@torch.no_grad()
def test_other_steps_run_and_withhold_the_calibrated_score(checkpoint, images):
    five = load_detector(checkpoint, Grid(steps=5))
    (detection,) = five.detect(images[:1])
    assert detection.score is None and detection.p_value is None
    assert "withheld" in detection.withheld
    z = invert(five.host.denoiser, five.host.features(images[:1]), inversion_timesteps(5), linear_alphas_cumprod())
    torch.testing.assert_close(torch.from_numpy(detection.map), anomaly_map(z, size=(256, 256))[0])
    assert detection.map_threshold == pytest.approx(192**0.5)


@torch.no_grad()
def test_a_checkpoint_of_version_0_1_loads(detector, images, tmp_path):
    state = {name.removeprefix("host."): value for name, value in detector.state_dict().items()}
    state["_extra_state"] = {
        "dataset": "brain", "title": "Brain MRI", "backbone": "tf_efficientnet_lite0", "denoiser": "VelocityDenoiser",
        "preset": "cpu", "seed": 3, "versions": {"invad_med": "0.1.0"}, "train_images": 4,
    }  # fmt: skip
    torch.save(state, tmp_path / "old.pt")
    denoiser = create_denoiser("cpu", 192, depth=1, hidden_size=32)  # sizes were not stated then
    loaded = load_detector(tmp_path / "old.pt", denoiser=denoiser)
    torch.testing.assert_close(loaded(images[:1]), detector(images[:1]))
    assert (loaded.provenance.modality, loaded.provenance.seed) == ("brain", 3)
    assert loaded.provenance.stated()["architecture.preset"] == "cpu"


def test_missing_or_foreign_checkpoints_stop(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: train one"):
        load_detector(tmp_path / "none.pt")
    state = detector.state_dict()
    del state["host.denoiser.network.pos_embed"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"missing: host\.denoiser\.network\.pos_embed"):
        load_detector(tmp_path / "part.pt")


def test_wrong_images_are_named(detector):
    with pytest.raises(ValueError, match=r"expects images \(B, 3, H, W\) in \[0, 1\], not \(1, 1, 256, 256\)"):
        detector(torch.rand(1, 1, 256, 256))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_torchscript_reproduces_the_map(detector, images, tmp_path):
    traced = torch.jit.trace(detector, images[:1], check_trace=False)
    traced.save(str(tmp_path / "model.ts"))
    again = torch.jit.load(str(tmp_path / "model.ts"))
    torch.testing.assert_close(again(images[1:2]), detector(images[1:2]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_onnx_reproduces_the_map(detector, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    torch.onnx.export(detector, (images[:1],), str(path), input_names=["image"], output_names=["pred"], dynamo=True)
    (ours,) = onnxruntime.InferenceSession(str(path)).run(None, {"image": images[1:2].numpy()})
    np.testing.assert_allclose(ours, detector(images[1:2]).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # waits for a compiler
@torch.no_grad()
def test_the_compiled_engine_computes_what_the_eager_one_does(checkpoint, images):
    compiled, eager = (load_detector(checkpoint, engine=name) for name in ("compile", "eager"))
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    for ours, theirs in zip(compiled.detect(images[:2], 0.4), eager.detect(images[:2], 0.4), strict=True):
        np.testing.assert_allclose(ours.map, theirs.map, rtol=1e-4)
        assert ours.score == pytest.approx(theirs.score, rel=1e-4) and ours.p_value == theirs.p_value
