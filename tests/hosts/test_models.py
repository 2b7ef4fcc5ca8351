"""Adapted hosts as models: calibrated, trained, run and evaluated as our own."""

import json

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from monai.networks.schedulers import DDPMScheduler as MonaiDDPM

from invad_med import __main__ as command_line
from invad_med.bundle import root
from invad_med.detection import AnomalyDetector, load_detector, read_provenance, serve
from invad_med.diffusion import Grid, inversion_timesteps, linear_alphas_cumprod
from invad_med.hosts import ImageHint, Pixels, from_callable, from_monai
from invad_med.training.calibrating import calibrate_host
from invad_med.training.steps import NoisyBatch
from tests.hosts import made

IMAGE = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def run(config, **overrides):
    """Run one of the bundle's configurations in this process."""
    monai.bundle.run(config_file=f"{root()}/configs/{config}.json", device="cpu", **overrides)


@pytest.fixture
def ddpm(tmp_path):
    """A folder of diffusers over pixels."""
    folder = tmp_path / "ddpm"
    made.pixel_unet().save_pretrained(folder)
    DDPMScheduler().save_config(folder)
    return folder


def judged_alike(model, noise_set, tmp_path, **anywhere):
    """Score the abnormal images of valid and measure valid, by one checkpoint: the figures of the evaluation."""
    run(
        "inference", dataset_dir=str(noise_set / "valid" / "Ungood" / "img"), output_dir=str(tmp_path / "scored"),
        ckpt_path=str(model), **anywhere,
    )  # fmt: skip
    run(
        "evaluate", dataset_dir=str(noise_set), output_dir=str(tmp_path / "judged"), ckpt_path=str(model),
        split="valid", mlflow=False, resamples=10, **anywhere,
    )  # fmt: skip
    scores = pd.read_csv(tmp_path / "scored" / "scores.csv")
    judged = pd.read_csv(tmp_path / "judged" / noise_set.name / "scores.csv")
    assert (scores.status == "scored").all() and scores.score.notna().all()
    ungood = judged[judged.image.str.contains("Ungood")].calibrated
    # Encodings of noise are all alike, so that the last digits of their lengths are divided by little.
    assert scores.score.tolist() == pytest.approx(ungood.tolist(), rel=1e-4, abs=0.02)
    return json.loads((tmp_path / "judged" / "metrics.json").read_text())[noise_set.name], judged


def test_a_folder_is_calibrated_run_and_evaluated(ddpm, noise_set, tmp_path, capsys):
    model = tmp_path / "brain.pt"
    words = ["calibrate", str(ddpm), str(noise_set), "--output", str(model), "--licence", "Apache-2.0"]
    assert command_line.main(words) == 0
    assert f"model written to {model}" in capsys.readouterr().out
    detector, stated = load_detector(model), read_provenance(model)
    assert stated.architecture["licence"] == "Apache-2.0" and stated.steps == 0 and stated.train_images == 9
    assert detector.timesteps in ([(200, None)], [(200, 300), (300, None)], [(300, None)])  # what is chosen from
    assert detector(IMAGE).shape == (2, 1, 40, 40)  # on the image's own grid
    figures, _ = judged_alike(model, noise_set, tmp_path)
    assert "image_auroc" in figures


def test_the_inversion_and_rule_that_are_asked_for(ddpm, noise_set, tmp_path):
    model = tmp_path / "brain.pt"
    words = ["calibrate", str(ddpm), str(noise_set), "--output", str(model), "--steps", "3", "--rule", "cell_of_8"]
    assert command_line.main(words) == 0
    detector = load_detector(model)
    assert detector.timesteps == inversion_timesteps(3) and detector.calibration.rule == "cell_of_8"


def test_a_host_that_cannot_be_had_is_told(tmp_path, noise_set, capsys):
    output = ["--output", str(tmp_path / "a.pt")]
    assert command_line.main(["calibrate", str(tmp_path), str(noise_set), *output]) == 2
    assert "is no folder of diffusers" in capsys.readouterr().err
    assert command_line.main(["calibrate", str(tmp_path / "none"), str(noise_set), *output]) == 2
    assert "does not exist: give a folder of diffusers" in capsys.readouterr().err
    assert not (tmp_path / "a.pt").exists()


TRAIN = {"steps": 2, "batch_size": 4, "accumulation_steps": 1, "precision": "float32"}


def test_a_folder_is_trained_on(ddpm, noise_set, tmp_path):
    model = tmp_path / "brain.pt"
    run(
        "train", dataset_dir=str(noise_set), output_dir=str(tmp_path / "train"), ckpt_path=str(model), host=str(ddpm),
        learning_rate=1e-3, warmup_steps=0, **TRAIN,
    )  # fmt: skip
    detector = load_detector(model)
    assert read_provenance(model).steps == 2
    assert detector.detect(IMAGE)[0].score is not None
    calibrated = tmp_path / "calibrated.pt"
    assert command_line.main(["calibrate", str(ddpm), str(noise_set), "--output", str(calibrated)]) == 0
    names = [name for name in detector.state_dict() if name.startswith("host.denoiser.network.")]
    other = load_detector(calibrated).state_dict()
    assert any(not torch.equal(detector.state_dict()[name], other[name]) for name in names)  # it has learnt


def test_latents_are_scaled_on_the_normal_images(noise_set, tmp_path):
    parts = dict(network_arguments=made.MONAI_UNET, autoencoder_arguments=made.MONAI_AUTOENCODER)
    host = from_monai(made.monai_unet(), MonaiDDPM(), made.monai_autoencoder(), size=16, **parts)
    model = calibrate_host(host, noise_set, tmp_path / "brain.pt")
    stated = read_provenance(model).architecture["scale"]
    assert stated["source"] == "estimated" and stated["images"] == 9
    loaded = load_detector(model)
    image = IMAGE[..., :16, :16]
    torch.testing.assert_close(loaded.host.encode(image), host.encode(image))
    ours = AnomalyDetector(host, loaded.calibration, loaded.timesteps).eval()
    assert loaded.detect(IMAGE)[0].score == pytest.approx(ours.detect(IMAGE)[0].score, rel=1e-5)
    judged_alike(model, noise_set, tmp_path)


def test_a_network_without_its_arguments_is_given_again(noise_set, tmp_path):
    network = made.monai_unet()
    model = calibrate_host(from_monai(network, MonaiDDPM(), size=16), noise_set, tmp_path / "brain.pt")
    with pytest.raises(ValueError, match=r"DiffusionModelUNet cannot be built from what it states: make the same"):
        load_detector(model)
    assert load_detector(model, denoiser=network).detect(IMAGE)[0].score is not None
    same = from_monai(made.monai_unet(), MonaiDDPM(), size=16)
    torch.testing.assert_close(load_detector(model, host=same)(IMAGE), load_detector(model, denoiser=network)(IMAGE))
    other = from_monai(made.monai_unet(), MonaiDDPM(), size=16, pixels=Pixels.in_range(1))
    with pytest.raises(ValueError, match=r"is of another host than the given one: pixels is \{.*there, .* here"):
        load_detector(model, host=other)


def linear_noise(x, t):
    """What an exact predictor of N(0, 1) data says."""
    return x * (1 - linear_alphas_cumprod()[t]).sqrt().view(-1, 1, 1, 1).to(x)


def test_a_function_goes_the_whole_way(noise_set, tmp_path, monkeypatch):
    def host(**others):
        return from_callable(linear_noise, linear_alphas_cumprod(), size=16, channels=1, **others)

    monkeypatch.setattr("invad_med.hosts.mine", host, raising=False)  # where a _target_ finds it
    model = calibrate_host(host(), noise_set, tmp_path / "brain.pt")
    with pytest.raises(ValueError, match=r"linear_noise cannot be built .* \(host, of invad_med\.hosts\.from_callable"):
        load_detector(model)
    judged_alike(model, noise_set, tmp_path, host={"_target_": "invad_med.hosts.mine"})


def test_simplex_noise_leaves_the_calibrated_length_alone(noise_set, tmp_path, monkeypatch):
    def host():
        return from_callable(linear_noise, linear_alphas_cumprod(), size=16, channels=1, noise="simplex")

    monkeypatch.setattr("invad_med.hosts.mine", host, raising=False)
    model = calibrate_host(host(), noise_set, tmp_path / "brain.pt")
    detector = load_detector(model, host=host())
    assert detector.calibration.rule == "length"
    (detection, _) = detector.detect(IMAGE)
    assert detection.score is not None and detection.paper_score is None
    lengths = detector.calibration.map(detector.walk(IMAGE)).mean((1, 2)).log()
    assert detection.score == pytest.approx(
        float((lengths[0] - detector.calibration.statistics_mean) / detector.calibration.statistics_std), rel=1e-4
    )
    _, judged = judged_alike(model, noise_set, tmp_path, host={"_target_": "invad_med.hosts.mine"})
    assert "calibrated" in judged and "paper" not in judged and "official" not in judged
    report = (tmp_path / "judged" / "report.html").read_text()
    assert "paper is not measured: the model was trained with other than Gaussian noise" in report
    with pytest.raises(ValueError, match=r"the rule cell_of_8 is not for a model .* calibrated length of end points"):
        calibrate_host(host(), noise_set, tmp_path / "other.pt", rule="cell_of_8")
    with pytest.raises(ValueError, match="is not trained here: fit its calibration alone"):
        NoisyBatch(host=host())


def test_a_hint_comes_along_from_the_cache(noise_set, tmp_path):
    def eps(x, t, hint):
        return linear_noise(x, t) + hint.mean((1, 2, 3), keepdim=True)

    host = from_callable(
        eps, linear_alphas_cumprod(), size=16, channels=1, encode=lambda image: image[..., ::2, ::2],
        conditioning=ImageHint(),
    )  # fmt: skip
    model = calibrate_host(host, noise_set, tmp_path / "brain.pt", cache_dir=tmp_path / "cache")
    again = calibrate_host(host, noise_set, tmp_path / "again.pt", cache_dir=tmp_path / "cache")
    detector = load_detector(model, host=host)
    score = detector.detect(IMAGE)[0].score
    assert score == load_detector(again, host=host).detect(IMAGE)[0].score
    raw = host.raw(detector.resized(IMAGE))
    z = detector.engine.from_raw(raw)
    assert score == pytest.approx(float(detector.calibration.score(z)[0]), rel=1e-5)
    assert not np.allclose(z, detector.engine.from_raw(torch.cat([raw[:, :1], raw[:, 1:] + 0.5], 1)), atol=1e-3)


def test_a_memory_of_encodings_leaves_the_hint_out(noise_set, tmp_path):
    host = from_callable(
        lambda x, t, hint: linear_noise(x, t) + hint.mean((1, 2, 3), keepdim=True), linear_alphas_cumprod(), size=16,
        channels=1, encode=lambda image: image[..., ::2, ::2], conditioning=ImageHint(),
    )  # fmt: skip
    model = calibrate_host(host, noise_set, tmp_path / "brain.pt", rule="memory_and_features")
    detector = load_detector(model, host=host)
    calibration, seen = detector.calibration, detector.walk(IMAGE)
    x, kept = seen.encoding, calibration.encodings
    assert kept.shape[1] == x.shape[1] == 1 and len(kept) > 500
    apart = (x.flatten()[:, None] - kept.flatten()).abs().amin(1).view(x[:, 0].shape)
    lengths = calibration.whiten(seen.end_point)[:, 0].abs()
    expected = lengths / calibration.map_std[0] + apart / calibration.map_std[1]
    torch.testing.assert_close(calibration.map(seen), expected, rtol=1e-3, atol=1e-2)


def test_timesteps_that_a_host_cannot_evaluate_are_refused_at_once():
    schedule = linear_alphas_cumprod().clone()
    schedule[-1] = 0.0
    host = from_callable(linear_noise, schedule, size=16, channels=1)
    AnomalyDetector(host)
    with pytest.raises(ValueError, match=r"t = 999 cannot be evaluated: alphas_cumprod is 0 there .* give other"):
        AnomalyDetector(host, timesteps=Grid(3, "official").resolve((), 1000))


def test_no_graph_is_made_of_another_host(ddpm, noise_set, tmp_path):
    model = tmp_path / "brain.pt"
    assert command_line.main(["calibrate", str(ddpm), str(noise_set), "--output", str(model)]) == 0
    with pytest.raises(ValueError, match="is of a host 'adapted', which no graph is made of: --engine eager"):
        serve(model, engine="onnxruntime")
