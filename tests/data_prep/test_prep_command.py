"""``python -m data_prep``: what a user types, kills and types again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import oct2017
from data_prep.__main__ import COMMANDS, main
from data_prep.layout import Case, Picture, PrepError, build
from data_prep.splits import anonymous, apart, assign, portion, shuffled, spread

REPOSITORY = Path(__file__).parents[2]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "Brain"
    for folder in ("train/good", "test/good/img", "test/Ungood/img", "test/Ungood/label"):
        (root / folder).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(np.full((6, 5), 9, np.uint8)).save(root / folder / f"{name}.png")
    return root


# check --------------------------------------------------------------------------------------------------------------


def test_check_says_what_is_there_beside_what_is_published(tree, capsys):
    assert main(["check", str(tree), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {k: found[k] for k in ("dataset", "dialect", "problems")} == {
        "dataset": "brain", "dialect": "anomalib", "problems": [],
    }  # fmt: skip
    assert found["splits"] == {
        "train": {"good": {"images": 2, "masks": 0}},
        "test": {"good": {"images": 2, "masks": 0}, "Ungood": {"images": 2, "masks": 2}},
    }
    assert found["published"]["test"] == {"good": 640, "Ungood": 3075}
    assert any("train good: 2 images, published: 7500" in note for note in found["notes"])
    assert main(["check", str(tree)]) == 0
    text = capsys.readouterr().out
    assert "test   Ungood        2       2       3075" in text and "valid  good          0       0         39" in text


def test_check_opens_every_file(tree, capsys):
    image, mask = tree / "train/good/b.png", tree / "test/Ungood/label/b.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 5), np.uint8)).save(image)
    for path in (image, mask):
        path.write_bytes(path.read_bytes()[:-30])
    (tree / "test/good/img/a.png").write_bytes(b"not an image")
    assert main(["check", str(tree), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    named = {path for problem in found["problems"] for path in problem["paths"]}
    assert named == {str(p) for p in (image, mask, tree / "test/good/img/a.png")}
    assert all("cannot be read (" in problem["reason"] for problem in found["problems"])


def test_check_names_contradicting_masks(tree, capsys):
    Image.new("L", (5, 6)).save(tree / "test/Ungood/label/a.png")
    (tree / "test/good/label").mkdir()
    for name, value in (("a", 0), ("b", 255)):
        Image.new("L", (5, 6), value).save(tree / f"test/good/label/{name}.png")
    assert main(["check", str(tree), "--json"]) == 0
    notes = "\n".join(json.loads(capsys.readouterr().out)[0]["notes"])
    assert "1 Ungood images have an empty mask, the first: " in notes and "Ungood/label/a.png" in notes
    assert "1 good images have a mask, the first: " in notes and "good/label/b.png" in notes


def test_check_says_what_a_set_shows_and_that_a_mask_is_lossy(tree, capsys):
    for name in "ab":
        Image.new("L", (5, 6), 255).save(tree / f"test/Ungood/label/{name}.png", format="JPEG")
    (tree / "manifest.json").write_text('{"modality": "phantom"}')
    assert main(["check", str(tree), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["dataset"], found["modality"], found["published"]) == ("custom", "phantom", {})
    assert any("2 masks of test are JPEG, which is lossy" in note for note in found["notes"])
    assert main(["check", str(tree)]) == 0
    assert capsys.readouterr().out.startswith(f"custom   modality phantom   dialect anomalib   {tree}\n")
    (tree / "manifest.json").write_text('{"modality": "fantom"}')
    assert main(["check", str(tree)]) == 1
    assert "(did you mean phantom?)" in capsys.readouterr().out


def test_a_folder_that_only_states_its_modality_is_not_taken_for_a_build(tree, tmp_path):
    (tree / "manifest.json").write_text('{"modality": "brain"}')
    with pytest.raises(PrepError, match="not written by this command"):
        build(tree, [], dataset="custom", recipe="x", parameters={}, progress=False)
    assert (tree / "train/good/a.png").exists()


def test_check_of_an_ambiguous_tree_is_a_problem_not_a_traceback(tree, tmp_path, capsys):
    (tree / "test/Ungood/anomaly_mask").mkdir()
    (tree / "test/Ungood/anomaly_mask/a.png").write_bytes((tree / "test/Ungood/label/a.png").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", "check", tmp_path, "--json"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (found,) = json.loads(done.stdout)
    assert any("more than one mask folder" in p["reason"] and len(p["paths"]) == 2 for p in found["problems"])
    assert main(["check", str(tree), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "problem: more than one mask folder" in captured.out and str(tree / "test/Ungood/label") in captured.out
    assert captured.err == ""
    assert main(["check", str(tmp_path / "nowhere"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["problems"][0]["paths"] == [str(tmp_path / "nowhere")]


@pytest.mark.shared
def test_check_of_the_development_sets(capsys):
    root = Path(os.environ.get("INVAD_SHARED", REPOSITORY / "../shared")) / "data"
    assert main(["check", str(root), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(f["splits"]) for f in found] == [3] * 6 and not any(f["problems"] for f in found)


# sources ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"data_prep {command}" in text and ("--output" in text or command == "check")


def test_wrong_use_is_told_in_one_line(tmp_path, capsys):
    assert main(["brain", "--source", str(tmp_path / "no"), "--output", str(tmp_path / "o"), "--quiet"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'no'} is not a folder\n"


def test_phantom_is_one_more_source(tmp_path, capsys):
    pytest.importorskip("nilearn")
    few = ["--train-patients", "1", "--valid-patients", "2", "--test-patients", "2", "--slices-per-patient", "3"]
    assert main(["phantom", "--output", str(tmp_path / "phantom"), *few, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "phantom"), "--json", "--quiet"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["dataset"] == "phantom" and found["splits"]["test"]["Ungood"]["masks"] > 0


@pytest.fixture
def kermany(tmp_path):
    rng = np.random.default_rng(0)
    for split, finding, count in (("train", "NORMAL", 600), ("test", "NORMAL", 20), ("test", "CNV", 20)):
        folder = tmp_path / f"raw/{split}/{finding}"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(folder / f"{finding}-{split}{i}-1.jpeg")
    return tmp_path / "raw"


def test_a_killed_process_goes_on_where_it_stopped(tmp_path, kermany):
    """SIGKILL, with two worker processes; then the same command, and any number of workers, gives the same bytes."""
    oct2017.prepare(kermany, tmp_path / "whole", workers=1, progress=False)
    command = [
        sys.executable, "-m", "data_prep", "oct2017", "--source", kermany, "--output", tmp_path / "out",
        "--workers", "2", "--quiet",
    ]  # fmt: skip
    running = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    images = tmp_path / "out/train/good"
    deadline = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        if images.is_dir() and len(list(images.iterdir())) >= 20:
            break
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert "train: 600 good" in done.stdout
    again = oct2017.prepare(kermany, tmp_path / "out", workers=1, progress=False)
    assert (again.made, again.kept) == (0, 3)


# shared parts -------------------------------------------------------------------------------------------------------


def one(case):
    yield Picture("train", "good", case.parameters["name"], np.zeros((2, 2), np.uint8), None, "g", "s")


def test_build_makes_again_what_was_changed_or_damaged(tmp_path):
    (tmp_path / "in").write_text("1")

    def run(names=("a", "b")):
        cases = [Case(name, {"in": tmp_path / "in"}, one, {"name": name}) for name in names]
        return build(tmp_path / "out", cases, dataset="custom", recipe="x", parameters={}, progress=False)

    assert run().made == 2 and run().made == 0
    (tmp_path / "out/train/good/a.png").write_bytes(b"damaged")
    assert run().made == 1 and (tmp_path / "out/train/good/a.png").read_bytes() != b"damaged"
    (tmp_path / "in").write_text("2")
    assert run().made == 2
    assert run(("a",)).counts == {"train": {"good": 1}} and not (tmp_path / "out/train/good/b.png").exists()
    with pytest.raises(PrepError, match="two inputs of the same name"):
        run(("a", "a"))


def test_two_pictures_of_one_name_are_refused(tmp_path):
    (tmp_path / "in").write_text("1")
    cases = [Case(name, {"in": tmp_path / "in"}, one, {"name": "x"}) for name in "ab"]
    with pytest.raises(PrepError, match=r"two images would be written to train/good/x\.png"):
        build(tmp_path / "out", cases, dataset="custom", recipe="x", parameters={}, progress=False)


def test_divisions():
    names = [f"p{i}" for i in range(100)]
    where = assign(names, {"train": 0.6, "valid": 0.1, "test": 0.3}, seed=0)
    assert [list(where.values()).count(s) for s in ("train", "valid", "test")] == [60, 10, 30]
    assert where == assign(reversed(names), {"train": 0.6, "valid": 0.1, "test": 0.3}, seed=0)
    assert shuffled(names, 0) != shuffled(names, 1) and sorted(shuffled(names, 1)) == sorted(names)
    assert portion(3, {"train": 0.9, "valid": 0.05, "test": 0.05}) == {"train": 1, "valid": 1, "test": 1}
    assert portion(851, {"valid": 70, "test": 781}) == {"valid": 70, "test": 781}
    assert portion(0, {"valid": 1, "test": 1}) == {"valid": 0, "test": 0}
    assert spread(range(10), 3) == [0, 4, 9] and spread([1, 2], 5) == [1, 2] and spread([1, 2, 3], 1) == [2]
    assert apart([2, 3, 4, 8, 9], distance=2.5, at_least=5) == [2, 4, 8]
    assert len(anonymous("X")) == 12 and anonymous("X") != anonymous("X", "salt") != anonymous("Y", "salt")
