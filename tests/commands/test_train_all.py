"""Every data set of a folder in one command."""

import io
import json
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image

from invad_med.__main__ import main
from invad_med.bundle import run_config
from invad_med.commands import train_all


@pytest.mark.slow
def test_one_command_trains_and_measures_all_that_is_there(tmp_path, capfd):
    rng = np.random.default_rng(0)
    for name in ("brain", "chest", "knee"):
        for place, bright in (("train/good", 0), ("valid/good/img", 0), ("test/good/img", 0), ("test/Ungood/img", 120)):
            for i in range(8):
                path = tmp_path / "root" / name / place / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 100, (64, 64), dtype=np.uint8)
                image[20:40, 20:40] += np.uint8(bright)
                Image.fromarray(image).save(path)
    tiny = "--denoiser#hidden_size 32 --denoiser#depth 1"
    arguments = [
        "train-all",
        str(tmp_path / "root"),
        "--output_dir",
        str(tmp_path / "out"),
        "--train",
        f"{tiny} --steps 2",
    ]
    arguments += ["--evaluate", f"{tiny} --resamples 20"]
    assert main(arguments) == 3  # one data set is none of the table
    said = capfd.readouterr()
    assert "knee was not trained: nothing says what it shows" in said.err
    assert {p.stem for p in (tmp_path / "out/models").iterdir()} == {"brain", "chest"}
    metrics = json.loads((tmp_path / "out/evaluate/metrics.json").read_text())
    assert set(metrics) == {"brain", "chest"}
    (store,) = (tmp_path / "out/evaluate").rglob("*.db")
    with sqlite3.connect(store) as database:
        runs = dict(database.execute("select run_uuid, name from runs").fetchall())
        parents = {v for (v,) in database.execute("select value from tags where key = 'mlflow.parentRunId'").fetchall()}
    assert len(runs) == 3 and len(parents) == 1  # a parent and one run a data set


@pytest.mark.slow
def test_a_model_stays_only_if_it_is_the_one_asked_for(noise_set, tmp_path, monkeypatch, capfd):
    evaluated = []

    def run(config, given, overrides):
        return run_config(config, given, overrides) if config == "train.json" else evaluated.append(given) or 0

    monkeypatch.setattr(train_all, "run_config", run)
    narrow = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu"

    def command(keys):
        arguments = ["train-all", str(noise_set.parent), "--output_dir", str(tmp_path), "--train", f"{narrow} {keys}"]
        return main(arguments), capfd.readouterr()

    model = tmp_path / "models" / "brain.pt"
    assert command("--steps 4")[0] == 0
    first = model.read_bytes()
    status, said = command("--steps 4")  # is found to be the same, and not trained again
    assert status == 0 and "resuming at step 4" in said.out + said.err and len(evaluated) == 2
    before, after = (torch.load(io.BytesIO(content), weights_only=True) for content in (first, model.read_bytes()))
    assert all(torch.equal(before[k], after[k]) for k in before if isinstance(before[k], torch.Tensor))
    first = model.read_bytes()
    status, said = command("--steps 6")
    assert status == 3 and len(evaluated) == 2 and model.read_bytes() == first
    assert "recipe.steps was 4, is 6" in said.err and "nothing was evaluated: the models of brain" in said.err
    assert command("--steps 6 --resume False")[0] == 0 and len(evaluated) == 3
    second = model.read_bytes()
    assert second != first
    model.write_bytes(first)
    status, said = command("--steps 6")
    assert status == 3 and model.read_bytes() == first and f"{model} is of another training than" in said.err


def test_each_set_is_asked_what_it_shows_and_one_model_is_made_of_one_set(tmp_path, monkeypatch, capfd):
    stated = {"mine": "histopathology", "a": "brain", "b": "brain", "chest": None, "knee": None, "other": "hed"}
    for name, modality in stated.items():
        (tmp_path / "root" / name / "train/good").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "root" / name / "train/good/x.png")
        if modality:
            (tmp_path / "root" / name / "manifest.json").write_text(json.dumps({"modality": modality}))
    ran = []
    monkeypatch.setattr(train_all, "run_config", lambda config, given, overrides: ran.append((config, given)) or 0)
    assert main(["train-all", str(tmp_path / "root"), "--output_dir", str(tmp_path / "out")]) == 3
    trained = {given["dataset_dir"].name: given["ckpt_path"].name for config, given in ran if config == "train.json"}
    assert trained == {"mine": "histopathology.pt", "chest": "chest.pt"} and ran[-1][0] == "evaluate.json"
    said = capfd.readouterr().err
    for name in ("a", "b"):
        assert f"{name} was not trained: several data sets show brain, which has one model: train each alone" in said
    assert (
        'knee was not trained: nothing says what it shows: give it alone with --modality NAME, or write {"mod' in said
    )
    assert "other was not trained: modality 'hed' is none of brain, liver" in said
