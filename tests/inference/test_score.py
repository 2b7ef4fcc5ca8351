"""`python -m invad_med score`: what the bundle's command writes, bit for bit, without MONAI and torch."""

import subprocess
import sys
from pathlib import Path

import monai.bundle
import numpy as np
import pydicom
import pytest

from invad_med.__main__ import main
from invad_med.bundle import root
from invad_med.inference.ahead import Behind, ahead

CONFIG = str(Path(root()) / "configs" / "inference.json")
_TIMES = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime",
          "DateTime", "ObservationDateTime", "ContributionDateTime")  # fmt: skip
_WITHOUT = """
import sys
for name in ("torch", "monai", "ignite", "timm", "torchvision", "mlflow"):
    sys.modules[name] = None  # importing it raises
from invad_med.__main__ import main
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The sample scored by both commands: the command's folder, the bundle's, and what the first printed."""
    base = tmp_path_factory.mktemp("score")
    code = _WITHOUT + "raise SystemExit(main(sys.argv[1:]))"
    command = ["score", "--output_dir", str(base / "ours"), "--deterministic_uids"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monai.bundle.run(config_file=CONFIG, output_dir=str(base / "monai"), deterministic_uids=True, device="cpu")
    return base / "ours", base / "monai", done.stdout


def test_both_commands_write_the_same(outputs):
    ours, theirs, _ = outputs
    names = {path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file()}
    assert names == {path.relative_to(ours) for path in ours.rglob("*") if path.is_file()} and len(names) > 100
    for name in sorted(names):
        if name.suffix == ".dcm":
            assert _timeless(ours / name) == _timeless(theirs / name), name
        else:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def _timeless(path):
    ds = pydicom.dcmread(path)
    for element in list(ds.iterall()):
        if element.keyword in _TIMES:
            element.value = ""
    return ds


def test_it_says_what_computed_the_scores(outputs):
    rows = (outputs[0] / "scores.csv").read_text().splitlines()
    place = rows[0].split(",").index("computed_by")
    scored = [row for row in rows if ",scored," in row]
    assert len(scored) > 60 and all(row.split(",")[place] == "onnxruntime float32" for row in scored)
    assert "studies above threshold" in outputs[2] and "Research use only" in outputs[2]


def test_batches_go_on_with_the_next_source_in_both(tmp_path):
    image = str(Path(root()) / "sample" / "phantom")
    given = {"dataset_dir": image, "modality": "phantom", "engine": "eager", "report": False, "dicom_out": []}
    words = ["--dataset_dir", image, "--modality", "phantom", "--engine", "eager", "--report", "false"]
    ours = tmp_path / "ours"
    assert main(["score", *words, "--dicom_out", "[]", "--device", "cpu", "--output_dir", str(ours)]) == 0
    monai.bundle.run(config_file=CONFIG, output_dir=str(tmp_path / "monai"), device="cpu", **given)
    for path in (tmp_path / "monai").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (ours / path.relative_to(tmp_path / "monai")).read_bytes(), path.name


def test_a_folder_called_none_is_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    assert main(["score", "--dataset_dir", "none"]) == 2
    assert "no image found in none" in capsys.readouterr().err
    assert main(["score", "--ckpt_path", "null"]) == 2
    assert "checkpoint null does not exist" in capsys.readouterr().err


def test_one_command_goes_on_where_the_other_was(tmp_path, capsys):
    image = str(Path(root()) / "sample" / "phantom" / "healthy_01.png")
    given = ["--dataset_dir", image, "--output_dir", str(tmp_path)]
    monai.bundle.run(config_file=CONFIG, dataset_dir=image, output_dir=str(tmp_path), modality="phantom", device="cpu")
    capsys.readouterr()
    assert main(["score", *given, "--modality", "phantom"]) == 0
    assert "1 of them were scored by an earlier run" in capsys.readouterr().out
    assert main(["score", *given, "--modality", "phantom", "--false_positive_rate", "0.1"]) == 0
    assert "1 slices scored" in (said := capsys.readouterr().out) and "by an earlier run" not in said


def test_what_cannot_be_meant_is_refused(tmp_path, capsys):
    for words, message in (
        ([str(tmp_path / "none")], "no such file or folder"),
        (["--false_positive_rate", "much"], "argument --false_positive_rate: --false_positive_rate is 'much', which"),
        (
            ["--overwrite", "$False"],
            "--overwrite begins with $: expressions are for the bundle's command, here",
        ),
        (["--gate", "@report"], "--gate begins with @: expressions are for the bundle's command"),
        (["x", "--dataset_dir", "y"], "DIR and --dataset_dir are one thing"),
        (["--dataset_dir", "http://bob:secret@host/studies/1"], "must hold no user and password"),
        (["--engine", "fast", "--output_dir", str(tmp_path / "out")], "engine='fast' is none of"),
    ):
        try:
            status = main(["score", *words])
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr().err
        assert status == 2 and message in said and "secret" not in said


def test_what_runs_ahead_comes_in_order_and_its_errors_where_they_are():
    def numbers():
        yield from range(5)
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(ahead(numbers(), 2))
    assert found == list(range(5))
    seen = []
    first = next(iter(ahead((seen.append(i) or i for i in range(1000)), 3)))
    assert first == 0 and len(seen) <= 6
    assert np.array_equal(list(ahead(range(100), 1)), np.arange(100))


def test_what_is_handed_on_is_taken_in_order_and_an_error_ends_it():
    taken = []
    behind = Behind(taken.append, 2)
    for i in range(100):
        behind.put(i)
    behind.close()
    assert taken == list(range(100))

    def refuse(item):
        taken.append(item)
        raise OSError("full")

    behind = Behind(refuse, 2)
    with pytest.raises(OSError, match="full"):
        list(map(behind.put, range(100)))
    with pytest.raises(OSError, match="full"):
        behind.close()
    assert taken[100:] == [0]
