"""One module from image to map, as exporters and third parties call it."""

import numpy as np
import pytest
import torch

from invad_med.detection import AnomalyDetector
from invad_med.inferers import InversionInferer
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.scoring import anomaly_map, paper_score


def new_detector(inferer=None, **options) -> AnomalyDetector:
    features = FrozenFeatures(weights=options.pop("weights", "auto"))
    denoiser = create_denoiser("cpu", in_channels=features.out_channels, depth=1, hidden_size=32)
    return AnomalyDetector(features, denoiser, inferer, **options).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def detector(images) -> AnomalyDetector:
    torch.manual_seed(0)
    detector = new_detector()
    torch.nn.init.normal_(detector.denoiser.network.final_layer.linear.weight, std=0.05)
    with torch.no_grad():
        detector.features.fit_normalisation(detector.features.raw(images))
        z = detector.end_point(images)
        detector.calibration.fit(z[:4], z[4:], detector.inferer.timesteps)
    return detector


@torch.no_grad()
def test_image_in_map_out(detector, images):
    detection = detector.detect(images[:2])
    assert detection.pred.shape == (2, 1, 256, 256)
    torch.testing.assert_close(detector(images[:2]), detection.pred)
    z = detector.end_point(images[:2])
    torch.testing.assert_close(detection.paper_score, paper_score(z))
    torch.testing.assert_close(detection.score, detector.calibration.score(z))
    assert detection.withheld is None
    assert detector(torch.rand(1, 3, 300, 200)).shape == (1, 1, 300, 200)


@torch.no_grad()
def test_a_checkpoint_brings_everything(detector, images, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(detector.state_dict(), path)
    loaded = new_detector(weights="checkpoint", checkpoint=path)
    torch.testing.assert_close(loaded(images[:1]), detector(images[:1]))
    torch.testing.assert_close(loaded.detect(images[:1]).p_value, detector.detect(images[:1]).p_value)


@torch.no_grad()
def test_other_steps_run_and_withhold_the_calibrated_score(detector, images, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(detector.state_dict(), path)
    five = new_detector(InversionInferer(steps=5), weights="checkpoint", checkpoint=path)
    detection = five.detect(images[:1])
    assert detection.score is None and detection.p_value is None
    assert "withheld" in detection.withheld
    z = InversionInferer(steps=5)(five.features(images[:1]), five.denoiser)
    torch.testing.assert_close(detection.pred[:, 0], anomaly_map(z, size=(256, 256)))


def test_missing_or_foreign_checkpoints_stop(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: train one"):
        new_detector(weights="checkpoint", checkpoint=tmp_path / "none.pt")
    state = detector.state_dict()
    del state["denoiser.network.pos_embed"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"missing: denoiser\.network\.pos_embed"):
        new_detector(weights="checkpoint", checkpoint=tmp_path / "part.pt")


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
