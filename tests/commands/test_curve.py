"""The learning curve command."""

import json

import pytest

from invad_med.__main__ import main
from invad_med.commands import curve
from invad_med.detection import read_provenance
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.training.selection import best_validation
from tests.conftest import save


def test_a_curve_of_all_and_of_half_the_images(noise_set, cache, tmp_path, capsys):
    root = tmp_path / "brain"
    root.mkdir()
    for part in noise_set.iterdir():
        (root / part.name).symlink_to(part)
    for i in range(3):
        save(root / "test" / "good" / "img" / f"g{i}.png", 200 + i)
    tiny = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu"
    tiny += " --image_size 128"
    command = ["curve", str(root), "--steps", "10", "--fraction", "0.5", "--cache_dir", str(cache), "--train", tiny]
    with pytest.raises(ValueError, match="the test split has images of one class only"):
        main(command)
    for i in range(3):
        save(root / "test" / "Ungood" / "img" / f"u{i}.png", 210 + i)
        save(root / "test" / "Ungood" / "label" / f"u{i}.png", 220 + i)
    assert main([*command, "--output", str(tmp_path / "curve.json"), "--ckpt_path", str(tmp_path / "brain.pt")]) == 0
    found = json.loads((tmp_path / "curve.json").read_text())
    whole, half = found["all"], found["0.5 of the data"]
    assert half["train_images"] < whole["train_images"] == 9
    assert [point["step"] for point in whole["curve"]] == [0, 2, 4, 6, 8, 10]
    along = {point["step"]: point["test_auroc"] for point in whole["curve"]}
    assert along[whole["selected"]["step"]] == whole["selected"]["test_auroc"]
    assert whole["selected"]["step"] == best_validation(whole["validation"])["step"]
    assert read_provenance(tmp_path / "brain.pt").architecture["image_size"] == 128
    assert "| brain, step | 9 images |" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [{"rule": "cell_of_16"}, {"inferer#timesteps": [[50, None]]}, {}])
def test_test_is_measured_by_the_score_that_valid_chooses(noise_set, tmp_path, monkeypatch, asked):
    root = tmp_path / "brain"
    root.mkdir()
    for part in noise_set.iterdir():
        (root / part.name).symlink_to(part)
    (root / "test").symlink_to(noise_set / "valid")
    used, real = [], curve.CalibratedAuroc

    def record(host, timesteps, *parts, rule):
        used.append((list(timesteps), rule))
        return real(host, timesteps, *parts, rule=rule)

    monkeypatch.setattr(curve, "CalibratedAuroc", record)
    host = {"_target_": "tests.test_extension.PixelHost", "side": 8}
    model = tmp_path / "brain.pt"
    small = {"steps": 4, "batch_size": 4, "accumulation_steps": 1, "device": "cpu", "precision": "float32"}
    curve.learning_curve(root, 2, None, model, host=host, **small, **asked)
    score = read_checkpoint(model)["calibration._extra_state"]
    assert len(used) == 4 and used[-1] == ([tuple(pair) for pair in score["timesteps"]], score["score"])
    if "rule" in asked:
        assert {rule for _, rule in used} == {"cell_of_16"} and all(walk == [(100, None)] for walk, _ in used)
    if "inferer#timesteps" in asked:
        assert all(walk == [(50, None)] for walk, _ in used)
