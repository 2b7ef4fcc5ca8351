"""Cross-fitting of thresholds."""

import pytest
import torch

from invad_med.__main__ import main
from invad_med.inference.predictor import load
from invad_med.training.cohort import read_cohort


@pytest.mark.slow
def test_every_normal_image_becomes_a_reference_once(noise_set, tmp_path, capfd):
    narrow = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu"
    command = [
        "cross-fit",
        str(noise_set),
        "--output_dir",
        str(tmp_path),
        "--folds",
        "2",
        "--train",
        f"{narrow} --steps 4",
    ]
    assert main(command) == 0
    cohort = read_cohort(noise_set)
    count = len(cohort.train) + len(cohort.held_out)
    assert f"{count} normal images support rates from {1 / (count + 1):.2g} on" in capfd.readouterr().out
    states = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    pooled = states.pop("brain")
    assert set(states) == {"whole", "fold-1", "fold-2"}
    for name in ("calibration.reference", "calibration.map_reference"):
        expected = sorted(value for state in states.values() for value in state[name].tolist())
        assert pooled[name].tolist() == expected and len(expected) == count
    studies = pooled["studies._extra_state"]
    assert sorted(studies["scores"]) == sorted(
        score for state in states.values() for score in state["studies._extra_state"]["scores"]
    )
    assert len(set(studies["patients"])) == count  # no patient is known: each image is one
    assert studies["highest_of"] == states["whole"]["studies._extra_state"]["highest_of"]
    score = states["whole"]["calibration._extra_state"]
    assert all(state["calibration._extra_state"] == score for state in states.values())
    assert [len(state["_extra_state"].get("candidates", {})) for state in states.values()].count(
        0
    ) == 2  # folds are told
    weights = {k: v for k, v in states["whole"].items() if k.startswith("host.denoiser")}
    assert weights and all(torch.equal(pooled[k], v) for k, v in weights.items())
    assert not torch.equal(states["whole"]["calibration.z_mean"], states["fold-1"]["calibration.z_mean"])

    image = noise_set / "valid" / "good" / "img" / "g0.png"
    pooled_score, whole_score = (
        load("brain", ckpt_path=str(tmp_path / f"{name}.pt"))(image)[0] for name in ("brain", "whole")
    )
    assert pooled_score.score == whole_score.score
    assert pooled_score.p_value != whole_score.p_value


def test_one_fold_is_refused(noise_set, capsys):
    with pytest.raises(SystemExit):
        main(["cross-fit", str(noise_set), "--folds", "1"])
    assert "--folds: 1 must be at least 2" in capsys.readouterr().err
