"""Models of several sizes, and which file serves which modality."""

import numpy as np
import pytest
import torch

from invad_med.data.provenance import Provenance
from invad_med.detection import AnomalyDetector, Detectors, FeatureHost, ModelFiles, load_detector, model_files
from invad_med.diffusion import Grid, Walked, inversion_timesteps
from invad_med.networks import FrozenFeatures, create_denoiser


def save_model(path, preset="tiny", image_size=128, modality=None, **sizes):
    """Write the checkpoint of a random detector and return it."""
    features = FrozenFeatures()
    size = image_size // features.reduction
    denoiser = create_denoiser(preset, features.out_channels, size, depth=1, hidden_size=32, num_heads=4, **sizes)
    detector = AnomalyDetector(FeatureHost(features, denoiser, image_size)).eval()
    network = getattr(denoiser, "network", denoiser)
    torch.nn.init.normal_(network.final_layer.linear.weight)
    detector.provenance = Provenance(detector.host.architecture.to_plain(), modality)
    torch.save(detector.state_dict(), path)
    return detector


@torch.no_grad()
def test_a_checkpoint_is_built_as_it_states(tmp_path):
    for preset, image_size in (("tiny", 128), ("cpu", 64)):
        saved = save_model(tmp_path / "model.pt", preset, image_size)
        image = torch.rand(1, 3, image_size, image_size)
        loaded = load_detector(tmp_path / "model.pt")
        torch.testing.assert_close(loaded(image), saved(image))
        assert loaded.host.architecture == saved.host.architecture


def test_what_no_preset_builds_must_be_given_again(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(192, 192, 1)

        def forward(self, x, timesteps):
            return self.layer(x)

    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), Own()))
    torch.save(detector.state_dict(), tmp_path / "own.pt")
    with pytest.raises(ValueError, match="noise predictor is a Own, which no preset builds: give the same network"):
        load_detector(tmp_path / "own.pt")
    again = load_detector(tmp_path / "own.pt", denoiser=Own())
    torch.testing.assert_close(again.host.denoiser.layer.weight, detector.host.denoiser.layer.weight)


def test_a_checkpoint_of_a_training_that_diverged_is_refused(tmp_path):
    detector = save_model(tmp_path / "model.pt")
    torch.save(
        detector.state_dict() | {"calibration.reference": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pt"
    )
    with pytest.raises(ValueError, match=r"nan\.pt has NaN or infinite values \(calibration\.reference\)"):
        load_detector(tmp_path / "nan.pt")


def test_a_network_without_finite_numbers_is_refused_and_an_image_without_such_is_withheld(tmp_path):
    detector = save_model(tmp_path / "model.pt")
    state = detector.state_dict()
    name = next(name for name in state if name.startswith("host.denoiser") and name.endswith("weight"))
    torch.save(state | {name: state[name] * torch.inf}, tmp_path / "inf.pt")
    with pytest.raises(ValueError, match=rf"NaN or infinite values \({name}\)"):
        load_detector(tmp_path / "inf.pt")
    size = detector.host.image_size
    images = np.random.default_rng(0).random((2, 3, size, size), dtype=np.float32)
    images[1, 0, 3, 4] = np.nan
    sound, broken = detector.detect(images)
    assert np.isfinite(sound.map).all() and "finite" not in (sound.withheld or "")
    assert broken.withheld == "the model makes no finite numbers of this image"
    assert not broken.map.any() and broken.score is None and broken.p_value is None and broken.paper_score is None


def test_statistics_of_another_rule_are_refused(tmp_path):
    detector = save_model(tmp_path / "model.pt")
    calibration, channels = detector.calibration, detector.host.channels
    noise = torch.randn(40, channels, detector.host.grid_size, detector.host.grid_size)
    calibration.fit(Walked(noise[:20], noise[:20]), Walked(noise[20:], noise[20:]), detector.timesteps)
    changed = {"calibration.statistics_mean": torch.zeros(5), "calibration.statistics_std": torch.ones(5)}
    torch.save(detector.state_dict() | changed, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"the rule \w+ makes \d statistics; mean and std are of \(5, 5\)"):
        load_detector(tmp_path / "other.pt")


def test_a_given_model_is_of_the_modality_that_it_is_given_for(tmp_path):
    detector = save_model(tmp_path / "brain.pt", modality="brain")
    files = ModelFiles({"phantom": tmp_path / "brain.pt"}, "phantom")
    with pytest.raises(ValueError, match="the given model is of brain, and the default one of phantom"):
        Detectors(files, detector)


def test_an_unknown_host_or_field_is_named(tmp_path):
    detector = save_model(tmp_path / "model.pt")
    for change, message in (
        ({"host": "pixels"}, "of a host 'pixels'; known are features"),
        ({"stride": 8}, "architecture states stride, which this version"),
        ({"preset": "enormous"}, "'enormous' is no denoiser preset"),
    ):
        stated = detector.provenance.to_state()
        stated["architecture"] = stated["architecture"] | change
        torch.save(detector.state_dict() | {"_extra_state": stated}, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            load_detector(tmp_path / "other.pt")


def test_a_grid_of_ones_own_is_made_of_what_is_stated(tmp_path):
    save_model(tmp_path / "model.pt")
    paper = inversion_timesteps(3)
    assert load_detector(tmp_path / "model.pt").timesteps == paper
    assert load_detector(tmp_path / "model.pt", Grid(steps=5)).timesteps == inversion_timesteps(5)
    assert load_detector(tmp_path / "model.pt", Grid(mode="official")).timesteps == inversion_timesteps(3, "official")
    assert load_detector(tmp_path / "model.pt", Grid(timesteps=[[400, None]])).timesteps == [(400, None)]
    with pytest.raises(ValueError, match=r"steps=2 without a mode: the model's pairs \[\(5, 7\)\] are none"):
        Grid(steps=2).resolve([(5, 7)])
    for stated in ([(200, 300), (300, None)], [(300, None)]):  # no grid, but what a training may choose
        assert Grid(steps=3).resolve(stated) == inversion_timesteps(3, "truncated")
    with pytest.raises(ValueError, match="without a mode"):
        Grid(steps=2).resolve([(0, None)])
    for mode in (None, "official"):
        with pytest.raises(ValueError, match="steps=0 is out of range"):
            Grid(steps=0, mode=mode).resolve(inversion_timesteps(3))


def test_which_file_serves_which_modality(tmp_path):
    models, elsewhere = tmp_path / "models", tmp_path / "own.pt"
    models.mkdir()
    for name, modality in (("model", "brain"), ("chest", "chest"), ("brain", "brain")):
        save_model(models / f"{name}.pt", modality=modality)
    save_model(elsewhere, modality="chest")
    shipped = ModelFiles.in_folder(models)
    assert shipped.default == "brain" and shipped["brain"].name == "model.pt" and shipped["chest"].name == "chest.pt"
    assert list(model_files(models / "chest.pt", models).files) == ["chest", "brain"]
    assert list(model_files(elsewhere, models).files) == ["chest"]
    with pytest.raises(ValueError, match=r"no model for liver \(there: brain, chest\): train one"):
        shipped["liver"]
    save_model(elsewhere)
    assert model_files(elsewhere, models, "phantom").default == "phantom"
    with pytest.raises(ValueError, match="does not say which modality it is for: give --modality"):
        model_files(elsewhere, models)


def test_a_file_called_as_another_models_is_refused(tmp_path, caplog):
    save_model(tmp_path / "model.pt", modality="brain")
    save_model(tmp_path / "brain.pt", modality="brain")
    save_model(tmp_path / "liver.pt", modality="chest")
    save_model(tmp_path / "resc.pt")  # states none, as of version 0.1
    files = ModelFiles.in_folder(tmp_path)
    assert "model.pt and" in caplog.text and "brain.pt are both for brain: the first is used" in caplog.text
    assert files["brain"].name == "model.pt" and files["resc"].name == "resc.pt"
    with pytest.raises(ValueError, match=r"liver\.pt is called as a model for liver, but was trained for chest"):
        files["liver"]


def test_each_image_is_scored_by_its_own_model(tmp_path):
    for name in ("brain", "chest"):
        save_model(tmp_path / f"{name}.pt", modality=name)
    detectors = Detectors(model_files(tmp_path / "brain.pt", tmp_path))
    image = np.random.default_rng(0).random((3, 3, 128, 128), np.float32)
    together = detectors.detect(image, ["brain", "chest", "brain"])
    for i, name in enumerate(("brain", "chest", "brain")):
        alone = load_detector(tmp_path / f"{name}.pt").detect(image[i : i + 1])[0]
        np.testing.assert_allclose(together[i].map, alone.map, rtol=1e-4)
        assert together[i].paper_score == pytest.approx(alone.paper_score, rel=1e-5)
    with pytest.raises(ValueError, match="no model for liver"):
        detectors.detector("liver")
