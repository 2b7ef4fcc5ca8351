"""One command trains, measures and compares designs; what is done is not done again, and what cannot be is named."""

import shutil

import numpy as np
import pandas as pd
import pytest

from invad_med.__main__ import main
from invad_med.commands import designs
from tests.commands.trainings import in_this_process
from tests.conftest import REPOSITORY, save

NARROW = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu --steps 2"


@pytest.fixture
def root(noise_set, tmp_path):
    """A folder with a data set of brain, one that says nothing, and one without abnormal images in valid."""
    shutil.copytree(noise_set, tmp_path / "root" / "brain")
    for kind in ("good", "Ungood"):
        for i in range(3):
            for place in ("img", "label")[: 1 + (kind == "Ungood")]:
                save(tmp_path / "root/brain/test" / kind / place / f"{i}.png", 50 + i + 3 * (kind == "good"))
    for name in ("knee", "chest"):
        save(tmp_path / "root" / name / "train" / "good" / "0.png", 0)
    return tmp_path / "root"


@pytest.fixture
def command(root, cache, tmp_path, monkeypatch, capfd):
    """Run the command with trainings in this process: keys of all, arguments -> status, output, keys, refusals."""
    trained, refused = in_this_process(monkeypatch)

    def run(keys, *arguments):
        trained.clear()
        refused.clear()
        capfd.readouterr()
        output = ["--output_dir", str(tmp_path / "out"), "--train", f"{NARROW} --cache_dir '{cache}' {keys}"]
        status = main(["designs", str(root), *output, *arguments])
        return status, capfd.readouterr(), list(trained), "\n".join(refused)

    return run


def test_designs_are_trained_once_and_compared(command, root, tmp_path, monkeypatch):
    two = ("--design", "today=", "--design", "same=")
    status, said, trained, _ = command("", *two)
    assert status == 3 and [keys["seed"] for keys in trained] == [0, 0]  # two sets cannot be done
    assert "knee was not measured: nothing says what it shows" in said.err
    assert "chest was not measured: there is no abnormal image in valid" in said.err
    assert "2 of 2: same on brain, seed 0: training" in said.err
    text, table = (tmp_path / "out/designs.md").read_text(), pd.read_csv(tmp_path / "out/designs.csv")
    assert said.out.endswith(text) and "on test" not in text and not table["figure"].str.contains("test").any()
    (row,) = table[
        (table.design == "same") & (table.kind == "mean of kinds") & (table.figure == "valid_image_auroc")
    ].iloc
    assert row[["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert row.verdict == "not distinguishable" and "same is not distinguishable" in text
    assert {"valid_pixel_ap"} < set(table.figure)

    shutil.rmtree(root / "knee")
    shutil.rmtree(root / "chest")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/brain/seed0.*")}
    assert len(files) == 4
    status, said, trained, _ = command("", *two)
    assert status == 0 and not trained and "1 of 2: today on brain, seed 0: is there" in said.err
    assert said.out.endswith(text) and files == {p: p.stat().st_mtime_ns for p in files}

    monkeypatch.setattr(designs, "_defaults", lambda: ["other code"])  # the training is asked, and finds nothing to do
    status, said, trained, _ = command("", "--design", "today=")
    assert status == 0 and len(trained) == 1 and "resuming at step 2" in said.out + said.err
    status, said, trained, _ = command("", "--design", "today=", "--test", "true")
    assert status == 0 and not trained and "Image AUROC on test" in said.out and "it chooses nothing" in said.out
    status, said, trained, _ = command("", "--design", "today=")
    assert status == 0 and "on test" not in said.out

    model = tmp_path / "out/same/brain/seed0.pt"
    before = model.read_bytes()
    status, said, trained, refused = command("", "--design", "today=", "--design", "same=--steps 3")
    assert status == 3 and [keys["steps"] for keys in trained] == [3] and model.read_bytes() == before
    assert "recipe.steps was 2, is 3" in refused
    assert f"same on brain, seed 0 was not measured: training ended with status 1: {model} is there" in said.err
    assert "| brain | " in said.out and said.out.count("| - |") == 2  # the first design is reported all the same

    shutil.rmtree(tmp_path / "out/same/brain/seed0")
    status, said, trained, _ = command("", "--design", "same=--steps 3")
    assert status == 3 and not trained and "does not hold the training that it is of" in said.err
    status, said, trained, _ = command("", "--design", "same=--steps 3 --resume False")
    assert status == 0 and len(trained) == 1 and model.read_bytes() != before


def test_a_set_that_changed_is_not_taken_as_it_was(command, root):
    shutil.rmtree(root / "knee")
    shutil.rmtree(root / "chest")
    assert command("", "--design", "today=", "--seeds", "1")[0] == 0
    save(root / "brain" / "train" / "good" / "more.png", 77)
    status, _, trained, refused = command("", "--design", "today=", "--seeds", "1")
    assert status == 3 and len(trained) == 1 and "cohort.train was" in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--design", "today"], "'today' is not NAME=KEYS"),
        (["--design", "a b="], "'a b=' is not NAME=KEYS"),
        (["--design", "=--steps 5"], "is not NAME=KEYS"),
        (["--design", "features="], "features is the folder of features"),
        (["--design", "a=--stps 5"], "train.json has no key stps: did you mean --steps?"),
        (["--design", "a=--seed 5"], "--seed is set by this command"),
        (["--design", "a=", "--train", "--output_dir x"], "--output_dir is set by this command"),
        (["--design", "a=", "--seeds", "0,x"], "'0,x' must be whole numbers"),
        (["--design", "a=", "--seeds", "1,1"], "'1,1' names a seed twice"),
        (["--design", "a=", "--test", "maybe"], "--test is 'maybe': a switch is true or false"),
        ([], "the following arguments are required: --design"),
    ],
)
def test_wrong_words_are_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["designs", str(tmp_path), *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_name_is_given_once_and_keys_that_a_training_refuses_are_not_tried_twice(root, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(designs, "run_config", lambda *a, **k: started.append(a) or 2)
    assert main(["designs", str(root), "--design", "a=", "--design", "a=--steps 3"]) == 2
    assert "several designs are called a" in capsys.readouterr().err and not started
    command = ["designs", str(root), "--output_dir", str(tmp_path / "o"), "--design", "a=", "--design", "b="]
    assert main(command) == 2 and len(started) == 1


def test_folds_of_one_modality_are_all_trained_and_folders_of_one_name_are_not(root, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(designs, "run_config", lambda c, given, keys, stdout: started.append((given, keys)) or 1)
    for fold in range(2):
        shutil.copytree(root / "brain", root / f"brain_fold{fold}")
        shutil.copytree(root / "brain", root / f"my_fold{fold}")
        (root / f"my_fold{fold}" / "manifest.json").write_text('{"modality": "brain", "dataset": "brain"}')
        shutil.copytree(root / "brain", root / f"in{fold}" / "liver")
    output = tmp_path / "o"
    assert main(["designs", str(root), "--output_dir", str(output), "--design", "a=--steps 3", "--seeds", "4,0"]) == 3
    names = {"brain": [], "brain_fold0": ["--modality", "brain"], "brain_fold1": ["--modality", "brain"]}
    names |= {"my_fold0": [], "my_fold1": []}  # their manifests say it
    assert [(given["ckpt_path"], keys) for given, keys in started] == [
        (output / "a" / name / f"seed{seed}.pt", [*stated, "--steps", "3", "--seed", str(seed)])
        for seed in (4, 0)
        for name, stated in names.items()
    ]
    said = capsys.readouterr()
    assert "liver was not measured: 2 folders are of this name" in said.err and said.out == ""
    assert not np.any([path.suffix == ".md" for path in output.glob("*")])


def test_code_that_shapes_a_training_is_found():
    assert all(list((REPOSITORY / "invad_med" / room).glob("*.py")) for room in designs._SHAPING)
