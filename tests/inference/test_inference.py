"""The commands a user runs, with the models and the sample that ship."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image

from invad_med.inference.predictor import load, root

BUNDLE = Path(root())
REPOSITORY = BUNDLE.parents[1]
CONFIG = str(BUNDLE / "configs" / "inference.json")
SAMPLE = BUNDLE / "sample"


def run(*arguments, cwd, config=CONFIG, ok=(0,)) -> str:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode in ok, said[-3000:]
    return said


def table(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "scores.csv")


def slices_of(volume: Path, count: int, folder: Path, start: int = 8) -> list[Path]:
    data = np.asarray(nib.load(volume).dataobj, dtype=np.float32)
    scaled = np.clip(data / np.percentile(data, 99.5) * 255, 0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        paths.append(folder / f"good_{i:02d}.png")
        Image.fromarray(np.ascontiguousarray(scaled[::-1, ::-1, start + i].T)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory) -> tuple[Path, str]:
    """The command with nothing but its configuration, from another folder."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    return cwd, run(cwd=cwd)


def test_the_sample_is_scored_or_listed(sample_run):
    cwd, said = sample_run
    assert [p.name for p in cwd.iterdir()] == ["output"]  # a run leaves nothing else behind
    output = cwd / "output" / "inference"
    assert str(output) in said
    rows = table(output)
    scored = rows[rows.status == "scored"]
    assert set(scored.modality) == {"phantom", "chest"}
    for folder in ("chest", "phantom"):
        assert (rows[rows.input.str.startswith(folder)].status == "scored").all()
    assert scored[["score", "p_value", "threshold", "paper_score"]].notna().all().all()
    unscored = rows[rows.input.str.startswith("dicom")]
    assert (unscored.status == "no model").all() and unscored.reason.str.startswith("no model for DICOM").all()
    heatmaps = {p.relative_to(output / "heatmaps").as_posix() for p in (output / "heatmaps").rglob("*.png")}
    assert len(heatmaps) == len(scored)
    with Image.open(output / "overview.png") as picture:
        assert min(picture.size) > 500
    page = (output / "report.html").read_text()
    assert "report.html, overview.png" in said and page.count('"picture":') == len(scored)
    assert all(f"<b>{name}</b>" in page for name in set(scored.input)) and "no model for DICOM" in page


def test_maps_lie_on_the_grid_of_their_input(sample_run):
    maps = sample_run[0] / "output" / "inference" / "maps"
    for name in ("healthy_t1", "lesions_t1"):
        source = nib.load(SAMPLE / "phantom" / f"{name}.nii.gz")
        written = nib.load(maps / "phantom" / f"{name}.nii.gz")
        assert written.shape == source.shape
        np.testing.assert_array_equal(written.affine, source.affine)
    with Image.open(maps / "phantom" / "lesion_01.tif") as anomaly:
        assert anomaly.size == (256, 256) and anomaly.mode == "F"


STATED = json.loads((SAMPLE / "phantom" / "lesions.json").read_text())


@pytest.mark.parametrize("name", STATED)
def test_healthy_lies_below_the_threshold_and_lesions_above_it(sample_run, name):
    rows = table(sample_run[0] / "output" / "inference")
    rows = rows[rows.input == f"phantom/{name.split('.')[0]}"]
    assert len(rows) and (rows.status == "scored").all()
    assert bool((rows.score > rows.threshold).any()) == bool(STATED[name])


@pytest.mark.parametrize("name", [name for name, lesions in STATED.items() if lesions])
def test_the_highest_heat_lies_in_a_lesion(sample_run, name):
    maps = sample_run[0] / "output" / "inference" / "maps" / "phantom"
    if name.endswith((".nii.gz", ".dcm")):
        written = nib.load(maps / f"{name.split('.')[0]}.nii.gz")
        data = written.get_fdata()
        peak = nib.affines.apply_affine(written.affine, np.unravel_index(data.argmax(), data.shape))
        centres, millimetres = [lesion["centre_ras_mm"] for lesion in STATED[name]], 1.0
    else:
        with Image.open(maps / f"{Path(name).stem}.tif") as anomaly:
            data = np.asarray(anomaly)
        peak = np.unravel_index(data.argmax(), data.shape)
        centres = [lesion["centre_row_column"] for lesion in STATED[name]]
        millimetres = 233 / 256
    # The longest semi-axis is at most 1.25^(4/3) of the radius.
    apart = [
        np.linalg.norm(np.subtract(peak, c)) * millimetres / k["radius_mm"]
        for c, k in zip(centres, STATED[name], strict=True)
    ]
    assert min(apart) < 1.35


def test_identity_stays_out_of_every_output(sample_run):
    cwd, said = sample_run
    film = pydicom.dcmread(SAMPLE / "chest" / "chest_cr.dcm", stop_before_pixels=True)
    for secret in (str(film.PatientName), str(film.PatientID)):
        assert secret not in said
        assert not any(secret in p.as_posix() for p in cwd.rglob("*"))
        assert secret not in (cwd / "output" / "inference" / "scores.csv").read_text()
        assert secret not in (cwd / "output" / "inference" / "report.html").read_text()


def test_overrides_change_what_runs(tmp_path):
    folder = tmp_path / "phantom"
    slices_of(SAMPLE / "phantom" / "healthy_t1.nii.gz", 2, folder)
    arguments = ("--dataset_dir", folder, "--output_dir", tmp_path / "out", "--device", "cpu")
    said = run(*arguments, "--inferer#steps", 5, cwd=REPOSITORY)
    rows = table(tmp_path / "out")
    assert rows.score.isna().all() and rows.threshold.isna().all() and rows.paper_score.notna().all()
    assert rows.reason.str.contains("calibrated for the timesteps").all() and "withheld" in said
    run(*arguments[:2], "--output_dir", tmp_path / "three", "--report", "False", cwd=REPOSITORY)
    assert (tmp_path / "out" / "report.html").exists() and not list((tmp_path / "three").glob("report*"))
    three = table(tmp_path / "three")
    assert three.score.notna().all()
    assert not np.allclose(three.paper_score, rows.paper_score)


def test_five_broken_files_of_twenty(tmp_path):
    folder = tmp_path / "phantom"
    good = slices_of(SAMPLE / "phantom" / "healthy_t1.nii.gz", 15, folder)
    (folder / "empty.png").write_bytes(b"")
    (folder / "truncated.png").write_bytes(good[0].read_bytes()[:2000])
    (folder / "words.jpg").write_text("these are words")
    (folder / "cut.nii.gz").write_bytes((SAMPLE / "phantom" / "healthy_t1.nii.gz").read_bytes()[:5000])
    (folder / "cut.dcm").write_bytes((SAMPLE / "dicom" / "ct.dcm").read_bytes()[:400])
    said = run("--dataset_dir", folder, "--output_dir", tmp_path / "out", cwd=tmp_path, ok=(3,))
    rows = table(tmp_path / "out")
    assert (rows.status == "scored").sum() == 15
    broken = rows[rows.status == "unreadable"].drop_duplicates("input")
    assert {Path(n).stem.split(".")[0] for n in broken.input} == {"empty", "truncated", "words", "cut"}
    assert len(broken) == 5 and broken.reason.notna().all()
    assert "15 slices scored" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ckpt_path", "nowhere.pt"), "checkpoint nowhere.pt does not exist: train one with configs/train.json"),
        (("--modality", "knee"), "modality 'knee' is none of brain"),
    ],
)
def test_what_cannot_run_stops_with_a_sentence(arguments, message, tmp_path):
    assert message in run(*arguments, cwd=tmp_path, ok=(1,))
    assert not (tmp_path / "output").exists()


def test_an_empty_folder_stops_with_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    said = run("--dataset_dir", tmp_path / "empty", cwd=tmp_path, ok=(1,))
    assert "PNG, JPEG, TIFF, NIfTI" in said.replace("\n", " ")


def test_three_lines_of_python_do_the_same(sample_run):
    rows = table(sample_run[0] / "output" / "inference").set_index(["input", "slice"])
    predictor = load()
    (found,) = predictor(SAMPLE / "phantom" / "lesion_01.png")
    assert (found.modality, found.chosen_by) == ("phantom", "folder")
    row = rows.loc[("phantom/lesion_01", 0)]
    assert found.score == pytest.approx(row.score, rel=1e-4)
    assert found.map.shape == (256, 256)
    array = np.asarray(Image.open(SAMPLE / "phantom" / "lesion_01.png"))
    (same,) = load("phantom")(array)
    assert same.score == pytest.approx(found.score, rel=1e-4)
    assert predictor.provenance.modality == "brain"
    with pytest.raises(ValueError, match=r"an array must be \(H, W\)"):
        predictor(np.zeros((2, 2, 2)))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((16, 16), 1j), "array of complex128 is no image"),
        (np.full((16, 16), "1"), "array of <U1 is no image"),
        (np.full((16, 16), 1, object), "array of object is no image"),
        (np.ma.masked_equal(np.eye(16), 0), "a masked array is no image"),
        (np.where(np.eye(16) > 0, np.nan, 1.0), "holds NaN"),
        (np.where(np.eye(16) > 0, np.inf, 1.0), "holds NaN, infinite"),
        (np.eye(16) * 1e40, "values beyond 3.4e38"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, reason):
    with pytest.raises(ValueError, match=reason):
        load()(array)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_images_is_refused(size):
    with pytest.raises(ValueError, match=f"batch_size={size} must be at least 1"):
        load()(SAMPLE / "phantom" / "lesion_01.png", batch_size=size)


def test_models_are_safe_small_and_say_what_they_are():
    files = sorted((BUNDLE / "models").glob("*.pt"))
    assert sum(f.stat().st_size for f in files) < 60e6
    for file in files:
        state = torch.load(file, weights_only=True)
        provenance = state["_extra_state"]
        assert provenance["modality"] == ("brain" if file.stem == "model" else file.stem)
        assert provenance["train_images"] > 100 and provenance["held_out_images"] >= 19
        assert state["calibration._extra_state"]["timesteps"] in ([[200, None]], [[200, 300], [300, None]])
