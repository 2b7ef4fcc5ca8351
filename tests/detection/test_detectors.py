"""Models of several sizes on one shelf."""

import pytest
import torch

from invad_med.detection import AnomalyDetector
from invad_med.detection.detectors import load_like
from invad_med.networks import FrozenFeatures, create_denoiser


def detector(preset):
    features = FrozenFeatures()
    return AnomalyDetector(features, create_denoiser(preset, features.out_channels)).eval()


def test_a_checkpoint_of_another_preset_is_built_as_it_states(tmp_path):
    other, image = detector("tiny"), torch.rand(1, 3, 256, 256)
    torch.nn.init.normal_(other.denoiser.final_layer.linear.weight)
    other.provenance = {"preset": "tiny", "backbone": "tf_efficientnet_lite0"}
    torch.save(other.state_dict(), tmp_path / "tiny.pt")
    with torch.no_grad():
        torch.testing.assert_close(load_like(detector("cpu"), tmp_path / "tiny.pt")(image), other(image))
    other.provenance = {}
    torch.save(other.state_dict(), tmp_path / "silent.pt")
    with pytest.raises(ValueError, match=r"does not fit the network; missing: denoiser\.network\.blocks"):
        load_like(detector("cpu"), tmp_path / "silent.pt")
