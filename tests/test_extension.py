"""What a researcher adds from outside the package: trained, calibrated, run and evaluated with it."""

import json
from dataclasses import dataclass
from typing import ClassVar

import monai.bundle
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invad_med.bundle import root
from invad_med.detection import Host, load_detector, read_provenance
from invad_med.detection.engine import ENGINES, EagerEngine
from invad_med.detection.host import HOSTS, Architecture
from invad_med.diffusion import linear_alphas_cumprod
from invad_med.networks import PRESETS, Preset, Recipe, TokenMLP
from invad_med.scoring.rules import RULES, Rule


def run(config, **overrides):
    """Run one of the bundle's configurations in this process."""
    monai.bundle.run(config_file=f"{root()}/configs/{config}.json", device="cpu", **overrides)


@pytest.fixture
def whole_way(noise_set, cache, tmp_path):
    """Train on the noise set, score its valid images, and measure them: the checkpoint, the table, the figures."""

    def go(train, anywhere=()):
        model, common = tmp_path / "brain.pt", dict(anywhere)
        run(
            "train", dataset_dir=str(noise_set), output_dir=str(tmp_path / "train"), ckpt_path=str(model),
            cache_dir=str(cache), steps=2, batch_size=4, accumulation_steps=1, precision="float32", **train, **common,
        )  # fmt: skip
        out, images = tmp_path / "scored", noise_set / "valid" / "Ungood" / "img"
        run("inference", dataset_dir=str(images), output_dir=str(out), ckpt_path=str(model), **common)
        run(
            "evaluate", dataset_dir=str(noise_set), output_dir=str(tmp_path / "judged"), ckpt_path=str(model),
            split="valid", mlflow=False, resamples=10, **common,
        )  # fmt: skip
        figures = json.loads((tmp_path / "judged" / "metrics.json").read_text())[noise_set.name]
        judged = pd.read_csv(tmp_path / "judged" / noise_set.name / "scores.csv")
        scores = pd.read_csv(out / "scores.csv")
        assert (scores.status == "scored").all() and scores.score.notna().all() and "image_auroc" in figures
        ungood = judged[judged.image.str.contains("Ungood")].calibrated
        assert scores.score.tolist() == pytest.approx(ungood.tolist(), rel=1e-4)
        return model, scores

    return go


NARROW = {"denoiser#depth": 1, "denoiser#hidden_size": 32}


def test_an_engine(whole_way, monkeypatch):
    computed = []

    class Counting(EagerEngine):
        def from_raw(self, raw):
            computed.append(len(raw))
            return super().from_raw(raw)

    monkeypatch.setitem(ENGINES, "counting", Counting)
    model, scores = whole_way(NARROW, {"engine": "counting"})
    assert sum(computed) >= 2 + len(scores)  # inference, evaluation
    image = torch.rand(1, 3, 256, 256)
    torch.testing.assert_close(load_detector(model, engine="counting")(image), load_detector(model)(image))


def test_a_score(whole_way, monkeypatch):
    largest = Rule(lambda whitened: whitened.square().mean(1).amax((1, 2))[:, None])
    monkeypatch.setitem(RULES, "largest", largest)
    model, _ = whole_way(NARROW | {"rule": "largest"})
    calibration = load_detector(model).calibration
    assert calibration.rule == "largest" and calibration.statistics_mean.shape == (1,)
    monkeypatch.delitem(RULES, "largest")
    with pytest.raises(ValueError, match="there is no rule 'largest' for the score; known are whitened_mean_and_cell"):
        load_detector(model)


class Pointwise(nn.Module):
    """A noise predictor of two layers, without blocks."""

    def __init__(self, channels, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 1), nn.SiLU(), nn.Conv2d(width, channels, 1))

    def forward(self, x, timesteps):
        return self.layers(x)


@dataclass(frozen=True)
class PointwiseSizes:
    """Its width."""

    width: int

    def build(self, in_channels, input_size):
        return Pointwise(in_channels, self.width)


def test_a_denoiser(whole_way, monkeypatch):
    recipe = Recipe(1e-3, 4, 4, steps=10, backbone="tf_efficientnet_lite0", gradient_norm=0.5)
    monkeypatch.setitem(PRESETS, "pointwise", Preset(PointwiseSizes(16), recipe))
    model, _ = whole_way({"preset": "pointwise", "denoiser#width": 8})
    stated = read_provenance(model)
    assert stated.architecture["preset"] == "pointwise" and stated.architecture["sizes"] == {"width": 8}
    assert (stated.learning_rate, stated.steps) == (1e-3, 2)
    monkeypatch.delitem(PRESETS, "pointwise")
    with pytest.raises(ValueError, match="'pointwise' is no denoiser preset; choose one of cpu, tiny"):
        load_detector(model)


def test_a_denoiser_of_no_preset_is_given_again(whole_way, monkeypatch):
    monkeypatch.setattr("invad_med.Pointwise", Pointwise, raising=False)  # where a _target_ finds it
    model, _ = whole_way({}, {"denoiser": {"_target_": "invad_med.Pointwise", "channels": 192, "width": 8}})
    stated = read_provenance(model).architecture
    assert stated["preset"] is None and stated["denoiser"] == "Pointwise"
    with pytest.raises(ValueError, match="is a Pointwise, which no preset builds: give the same network again"):
        load_detector(model)
    with pytest.raises(ValueError, match=r"layers\.0\.weight"):
        load_detector(model, denoiser=Pointwise(192, 9))
    image = torch.rand(1, 3, 256, 256)
    assert load_detector(model, denoiser=Pointwise(192, 8)).detect(image)[0].score is not None


def test_another_image_size(whole_way):
    model, _ = whole_way(NARROW | {"image_size": 128})  # what follows has it of the checkpoint
    detector = load_detector(model)
    assert (detector.host.image_size, detector.host.grid_size) == (128, 8)


@dataclass(frozen=True)
class PixelArchitecture(Architecture):
    """Pixels, so many a side."""

    host: ClassVar[str] = "pixels"
    side: int = 16


class PixelHost(Host):
    """Diffusion over small pixels, on a schedule of its own."""

    def __init__(self, side=16, image_size=256):
        super().__init__()
        self.side, self.image_size, self.channels, self.grid_size = side, image_size, 3, side
        self.alphas_cumprod = linear_alphas_cumprod(500)
        self.denoiser = TokenMLP(3, 16, 1)

    def raw(self, image):
        return 2 * F.interpolate(image, size=(self.side, self.side), mode="area") - 1

    @property
    def architecture(self):
        return PixelArchitecture(self.image_size, self.side)

    @property
    def encoder(self):
        return nn.Identity()

    @classmethod
    def rebuild(cls, values, **parts):
        stated = PixelArchitecture.from_plain(values)
        return cls(stated.side, stated.image_size)


def test_a_host(whole_way, monkeypatch):
    monkeypatch.setitem(HOSTS, "pixels", PixelHost)
    monkeypatch.setattr("invad_med.PixelHost", PixelHost, raising=False)  # where a _target_ finds it
    model, _ = whole_way({"host": {"_target_": "invad_med.PixelHost", "side": 8}})
    assert read_provenance(model).architecture == {"host": "pixels", "image_size": 256, "side": 8}
    detector = load_detector(model)
    assert detector.host.alphas_cumprod.shape == (500,)
    assert detector.timesteps in ([(100, None)], [(100, 150), (150, None)], [(150, None)])  # what is chosen from
