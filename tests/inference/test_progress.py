"""An output folder is continued by the same input, and by no other."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_results import LIMIT, make_series
from monai.bundle import ConfigParser
from PIL import Image

from invad_med.bundle import root
from invad_med.data.prediction import Prediction, Status
from invad_med.data.slices import ReadError
from invad_med.inference.inputs import list_inputs
from invad_med.inference.pipeline import unreadable
from invad_med.inference.progress import RECORD, OtherResults, Progress
from invad_med.inference.results import SourceWriter
from invad_med.readers.sources import read_source, scan
from invad_med.writers.dicom.anonymous import SECRET
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.report.writer import ReportWriter

KINDS = ["overlay", "report"]


@pytest.fixture
def folder(tmp_path):
    """Return a folder of a series, a volume and three pictures."""
    return made_input(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return such a folder, the names that a run scores of it, and where it left its results."""
    base = tmp_path_factory.mktemp("whole")
    folder = made_input(base)
    names, _ = go(folder, base / "out")
    return folder, names, base / "out"


def made_input(tmp_path):
    volume = np.random.default_rng(0).integers(0, 900, (3, 24, 20), dtype=np.int16)
    make_series(tmp_path / "in" / "series", np.concatenate([volume, volume[:1]]))
    for path in (tmp_path / "in" / "series").iterdir():
        ds = pydicom.dcmread(path)
        ds.Modality, ds.BodyPartExamined = "MR", "BRAIN"
        ds.save_as(path)
    nib.save(nib.Nifti1Image(volume.T.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "in" / "v.nii.gz")
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", i)
    return tmp_path / "in"


def save(path, seed, size=(20, 24)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


class Cut(BaseException):
    """What ends a run between two files."""


def go(folder, output, stop=None, scale=1.0, settings="", kinds=KINDS, **options):
    """Score a folder with numbers drawn by index; stop after so many slices; return the names scored, and the words."""
    inputs = list_inputs(folder, ["phantom", "brain"], "phantom")
    progress = Progress(output, inputs, settings, **options)
    return score(progress, DicomWriter(output, kinds, deterministic_uids=True), stop, scale)


def score(progress, dicom, stop=None, scale=1.0):
    """Score what is to be scored as `go` does."""
    writer, names = SourceWriter(progress, dicom, report=ReportWriter()), []
    for item in progress.todo.items:
        if len(names) == stop:
            progress.close()  # as the end of the process does
            return names, ""
        piece = read_source(item.source)[item.index]
        if isinstance(piece, ReadError):
            writer.take(unreadable(item, piece), piece)
            continue
        values = np.random.default_rng(item.index).random(piece.pixels.shape[:2], dtype=np.float32)
        numbers = {"score": scale * (item.index + 1) / 3, "threshold": 0.5, "p_value": 0.1, "map_threshold": LIMIT}
        prediction = Prediction(
            item.source, item.index, Status.SCORED, None, item.modality.name, item.chosen_by, values, **numbers
        )
        writer.take(prediction, piece)
        names.append(item.source.name)
    writer.close()
    return names, writer.summary()


def results(output):
    """Return the content of all results; of DICOM objects, whose dates differ, that they are there."""
    files = [p for p in output.rglob("*") if p.is_file() and p.name != RECORD]
    return {p.relative_to(output).as_posix(): b"" if p.suffix == ".dcm" else p.read_bytes() for p in files}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", range(11))
def test_a_run_that_was_cut_is_continued_and_ends_as_one_that_was_not(whole, tmp_path, stop):
    folder, names, output = whole
    first, _ = go(folder, tmp_path / "cut", stop)
    second, words = go(folder, tmp_path / "cut")
    complete = {name for name in first if first.count(name) == names.count(name)}
    assert set(second) == set(names) - complete and "10 slices scored, 5 above threshold" in words
    assert results(tmp_path / "cut") == results(output)
    done = sum(names.count(name) for name in complete)
    assert (f"{done} of them were scored by an earlier run" in words) == bool(done)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_stays_whole_as_long_as_one_of_it_is_not_done(folder, tmp_path):
    inputs = list_inputs(folder, ["phantom", "brain"], "phantom")
    assert go(folder, tmp_path / "out", 3)[0] == ["0", "1", "2"]
    for size, first in ((1, 3), (2, 2), (3, 3), (4, 0), (99, 0)):
        progress = Progress(tmp_path / "out", inputs, batch_size=size)
        assert progress.todo.items == inputs.items[first:]
        progress.close()
    before = (tmp_path / "out" / "maps" / "0.tif").stat().st_mtime_ns
    names, words = go(folder, tmp_path / "out", batch_size=4, scale=3.0)
    assert len(names) == 10 and "10 slices scored" in words and "3 of them were scored by an earlier run" in words
    assert (tmp_path / "out" / "maps" / "0.tif").stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore")
def test_a_line_that_was_cut_counts_as_not_written(folder, tmp_path):
    go(folder, tmp_path / "out")
    record = (tmp_path / "out" / RECORD).read_bytes()
    (tmp_path / "out" / RECORD).write_bytes(record[:-9])
    names, _ = go(folder, tmp_path / "out")
    assert names == ["v"] * 3
    assert len((tmp_path / "out" / RECORD).read_bytes().splitlines()) == 9 + 2  # begun once more
    assert go(folder, tmp_path / "out")[0] == []


@pytest.mark.filterwarnings("ignore")
def test_inputs_that_are_new_or_changed_are_scored_and_nothing_of_before_is_left_of_them(folder, tmp_path, caplog):
    go(folder, tmp_path / "out")
    save(folder / "1.png", 9)
    save(folder / "new.png", 10)
    (series,) = (s for s in scan(folder).sources if s.kind == "dicom")
    series.paths[-1].unlink()
    before = len(list((tmp_path / "out" / "dicom").rglob("*.dcm")))
    names, words = go(folder, tmp_path / "out", scale=2.0)
    assert names == ["1", "new", *[series.name] * 3] and "10 slices scored" in words
    assert len(list((tmp_path / "out" / "dicom").rglob("*.dcm"))) == before - 1
    assert [p.name[-8:] for p in sorted((tmp_path / "out" / "heatmaps" / "series").iterdir())] == [
        f"s00{i}.png" for i in range(3)
    ]
    assert "17 file(s) of inputs that an earlier run did not finish, or scored otherwise, removed" in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["settings", "model", "missing", "emptied"])
def test_what_is_to_be_scored_otherwise_is_scored(folder, tmp_path, change):
    model = tmp_path / "phantom.pt"
    model.write_bytes(b"1")
    options = {"models": {"phantom": model}}
    go(folder, tmp_path / "out", **options)
    names = {"settings": 10, "model": 6, "missing": 1, "emptied": 3}[change]
    if change == "settings":
        options["settings"] = "rate 0.1"
    elif change == "model":
        model.write_bytes(b"2")
    elif change == "missing":
        (tmp_path / "out" / "heatmaps" / "1.png").unlink()
    else:
        (tmp_path / "out" / "maps" / "v.nii.gz").write_bytes(b"")
    assert len(go(folder, tmp_path / "out", **options)[0]) == names
    assert go(folder, tmp_path / "out", **options)[0] == []


@pytest.mark.filterwarnings("ignore")
def test_a_copy_elsewhere_with_other_dates_is_the_same_input(folder, tmp_path):
    go(folder, tmp_path / "out", 5)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(go(tmp_path / "copy", tmp_path / "out")[0]) == 10 - 3  # the pictures are done


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("other", ["absent", "same names", "unrecorded"])
def test_results_of_another_input_are_neither_mixed_nor_lost(folder, tmp_path, other):
    go(folder, tmp_path / "out")
    if other == "absent":
        (folder / "0.png").rename(folder / "other.png")
        says = r"holds results of 1 input\(s\) that are not among the 5 of this run: give another"
    elif other == "same names":
        for i in range(3):
            save(folder / f"{i}.png", i + 50)
        shutil.rmtree(folder / "series")
        (folder / "v.nii.gz").unlink()
        shutil.rmtree(tmp_path / "out")
        save(tmp_path / "one.png", 1)
        go(tmp_path / "one.png", tmp_path / "out")
        save(tmp_path / "one.png", 2)
        folder, says = tmp_path / "one.png", "holds results of other files of the same names"
    else:
        (tmp_path / "out" / RECORD).unlink()
        says = "holds results that do not say of which input"
    before = results(tmp_path / "out")
    with pytest.raises(OtherResults, match=says):
        go(folder, tmp_path / "out")
    assert results(tmp_path / "out") == before
    (tmp_path / "out" / "maps" / "mine.txt").write_text("a user's own")
    names, _ = go(folder, tmp_path / "out", overwrite=True)
    go(folder, tmp_path / "fresh")
    assert names
    assert results(tmp_path / "out") == results(tmp_path / "fresh") | {"maps/mine.txt": b"a user's own"}


@pytest.mark.filterwarnings("ignore")
def test_what_could_not_be_read_or_written_is_tried_again(folder, tmp_path):
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:200])
    (tmp_path / "out" / "maps" / "2.tif").mkdir(parents=True)
    go(folder, tmp_path / "out")
    (tmp_path / "out" / "maps" / "2.tif").rmdir()
    assert go(folder, tmp_path / "out")[0] == ["2"]
    (folder / "1.png").write_bytes(whole)
    assert go(folder, tmp_path / "out")[0] == ["1"]
    assert go(folder, tmp_path / "out")[0] == []


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_the_same_name_with_more_slices_is_another_input(tmp_path):
    for name, count in (("one", 3), ("two", 4)):
        (tmp_path / name).mkdir()
        volume = np.random.default_rng(count).random((20, 24, count), dtype=np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / name / "T1.nii.gz")
    go(tmp_path / "one", tmp_path / "out")
    before = results(tmp_path / "out")
    with pytest.raises(OtherResults, match="results of other files of the same names"):
        go(tmp_path / "two", tmp_path / "out")
    assert results(tmp_path / "out") == before
    save(tmp_path / "one" / "new.png", 0)
    go(tmp_path / "one", tmp_path / "out")
    shutil.copy(tmp_path / "two" / "T1.nii.gz", tmp_path / "one")
    assert go(tmp_path / "one", tmp_path / "out")[0] == ["T1"] * 4  # the picture is what it was


@pytest.mark.filterwarnings("ignore")
def test_a_broken_file_may_be_taken_away(folder, tmp_path):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    go(folder, tmp_path / "out")
    (folder / "1.png").unlink()
    names, words = go(folder, tmp_path / "out")
    assert names == [] and "9 slices scored" in words and "0 not read" in words


@pytest.mark.filterwarnings("ignore")
def test_objects_of_the_users_own_stay_where_they_are_put(folder, tmp_path):
    go(folder, tmp_path / "out")
    place = next((tmp_path / "out" / "dicom").rglob("*.dcm")).parent
    shutil.copy(next((folder / "series").iterdir()), place / "mine.dcm")
    go(folder, tmp_path / "out", kinds=["report"], settings="other")
    assert sorted(p.name for p in place.iterdir()) == ["mine.dcm", "report.dcm"]
    go(folder, tmp_path / "out", overwrite=True)
    assert (place / "mine.dcm").exists()


@pytest.mark.filterwarnings("ignore")
def test_results_are_not_mixed_with_those_that_a_cut_run_was_to_remove(folder, tmp_path, monkeypatch):
    go(folder, tmp_path / "out")
    (tmp_path / "out" / RECORD).unlink()

    def cut(output_dir):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("invad_med.inference.progress._remove_results", cut)
        with pytest.raises(Cut):
            go(folder, tmp_path / "out", overwrite=True)
    with pytest.raises(OtherResults, match="do not say of which input"):
        go(folder, tmp_path / "out")
    assert len(go(folder, tmp_path / "out", overwrite=True)[0]) == 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["content", "settings", "files", "n_slices", "objects", "refused", "slices"])
def test_a_line_that_states_nonsense_counts_as_not_written(tmp_path, key):
    (tmp_path / "in").mkdir()
    for i in range(2):
        save(tmp_path / "in" / f"{i}.png", i)
    go(tmp_path / "in", tmp_path / "out")
    record = (tmp_path / "out" / RECORD).read_text().splitlines()
    for value in (None, 7.5, "x", [[]], ["x"], {"x": "y"}):
        stated = json.loads(record[1]) | {key: value}
        (tmp_path / "out" / RECORD).write_text("\n".join([record[0], json.dumps(stated), *record[2:], ""]))
        assert go(tmp_path / "in", tmp_path / "out")[0] in ([], ["0"])
        assert len(list((tmp_path / "out" / "heatmaps").iterdir())) == 2


@pytest.mark.parametrize("name", ["heatmaps", "maps"])
@pytest.mark.parametrize("single", [False, True])
def test_images_are_not_replaced_by_results_of_the_same_name(tmp_path, name, single):
    place = tmp_path / "out" / name
    place.mkdir(parents=True)
    save(place / "a.png", 0)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = (place / "a.png").read_bytes()
    with pytest.raises(ValueError, match=f"where their {name} would replace them: give another --output_dir"):
        go(place / "a.png" if single else place, tmp_path / "link")
    assert list(tmp_path.rglob("*.*")) == [place / "a.png"] and (place / "a.png").read_bytes() == before
    assert go(tmp_path / "out", tmp_path / "out")[0] == [f"{name}/a"]


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    code = "import sys; from invad_med.inference.progress import Progress; Progress(sys.argv[1])"
    progress = Progress(tmp_path / "out")
    run = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1 and "another run writes to" in done.stderr
    progress.close()
    assert subprocess.run(run, capture_output=True).returncode == 0


def test_a_volume_and_a_picture_named_as_its_slice_keep_their_results_apart(tmp_path):
    (tmp_path / "in").mkdir()
    volume = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "in" / "scan.nii.gz")
    save(tmp_path / "in" / "scan_s001.png", 0)
    go(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert [r["input"] for r in csv.DictReader(file)] == ["scan"] * 3 + ["scan_s001.png"]
    assert len(list((tmp_path / "out" / "heatmaps").iterdir())) == 4


def configured(folder, output, **keys):
    """Score a folder as `go` does, by what the configuration of the command makes of some keys; return the names."""
    parser = ConfigParser()
    parser.read_config(f"{root()}/configs/inference.json")
    parser.update({"dataset_dir": str(folder), "output_dir": str(output), "device": "cpu", **keys})
    progress = parser.get_parsed_content("progress")
    return score(progress, parser.get_parsed_content("dicom"))[0]


@pytest.mark.filterwarnings("ignore")
def test_the_configuration_says_what_is_to_be_scored_otherwise(tmp_path, monkeypatch):
    (tmp_path / "in" / "phantom").mkdir(parents=True)
    save(tmp_path / "in" / "phantom" / "a.png", 0)
    run = partial(configured, tmp_path / "in", tmp_path / "out", dicom_out=["secondary_capture"])
    name, secret = ["phantom/a"], {"anonymize": True, "deterministic_uids": True}
    assert run() == name
    assert run(batch_size=3, dataloader={"num_workers": 2}) == []
    assert run(save_execute_config="config_20260101.json", _of_mlflow="@save_execute_config") == []
    assert run(dicom_out=None) == name and run(dicom_out=None) == []
    assert run(false_positive_rate=0.1) == name and run(false_positive_rate=0.1) == []
    assert run(anonymize=True) == name and run(anonymize=True) == []
    monkeypatch.setenv(SECRET, "0" * 32)
    assert run(**secret) == name and run(**secret) == []
    monkeypatch.setenv(SECRET, "1" * 32)
    assert run(**secret) == name and run(**secret) == []
    assert run(dicom=None) == name and run(dicom=None) == []


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_ones_own_is_compared_by_its_content(tmp_path, monkeypatch):
    (tmp_path / "in" / "brain").mkdir(parents=True)
    save(tmp_path / "in" / "brain" / "a.png", 0)
    name, path = ["brain/a"], tmp_path / "own.pt"
    run = partial(configured, tmp_path / "in", tmp_path / "out", dicom_out=["secondary_capture"])
    state = torch.load(f"{root()}/models/model.pt", weights_only=True)
    given = {"network_def": {"_target_": "invad_med.detection.load_detector", "path": str(path)}}
    for reference in (state["calibration.reference"], state["calibration.reference"] + 1):
        torch.save(state | {"calibration.reference": reference}, path)
        assert run(**given) == name and run(**given) == []
    (tmp_path / "own_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    given["network_def"]["_target_"] = "own_code.load"
    assert run(**given) == name and run(**given) == []
    (tmp_path / "own_code.py").write_text(CODE.replace("2 *", "3 *"))
    assert run(**given) == name and run(**given) == []


CODE = """
from invad_med.detection import host, load_detector
class Twice(host.FeatureHost):
    def eps(self, x, timesteps):
        return 2 * super().eps(x, timesteps)
def load(path):
    detector = load_detector(path)
    detector.host.__class__ = Twice
    return detector
"""


def test_a_damaged_file_of_the_users_own_among_results_stops_nothing_and_stays(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", 0)
    go(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "maps" / "mine.nii").write_bytes(b"x" * 400)

    def odd(path, file):
        raise KeyError("what no reader foresees")

    monkeypatch.setattr("invad_med.readers.sources.nifti.load", odd)
    go(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "maps" / "mine.nii").is_file()


def command(folder, output, *more):
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{root()}/configs/inference.json"]
    return [
        *run,
        "--dataset_dir",
        str(folder),
        "--output_dir",
        str(output),
        "--device",
        "cpu",
        "--gate",
        "False",
        *more,
    ]


def test_the_command_goes_on_where_it_was_killed(tmp_path):
    (tmp_path / "in" / "phantom").mkdir(parents=True)
    for i in range(40):
        save(tmp_path / "in" / "phantom" / f"{i:03d}.png", i)
    (tmp_path / "in" / "broken.png").write_bytes(b"")
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path / "in", output), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while len(list(output.rglob("heatmaps/**/*.png"))) < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    with (output / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    stated = json.loads((output / "scores.json").read_text())
    scored = [r for r in table if r["status"] == "scored"]
    assert table[0]["input"] == "broken.png" and len(table) == len(scored) + 1
    assert 0 <= len(table) - len(stated) <= 1  # it may have ended between the two files
    assert 5 <= len(scored) < 40 and all(float(r["score"]) and r["reason"] == "" for r in scored)

    done = subprocess.run(command(tmp_path / "in", output), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3 and "40 slices scored" in done.stdout, done.stderr[-3000:]
    with (output / "scores.csv").open() as file:
        after = {r["input"]: r for r in csv.DictReader(file)}
    assert len(after) == 41 and all(after[r["input"]] == r for r in table)
    assert len(list(output.rglob("heatmaps/**/*.png"))) == len(list(output.rglob("maps/**/*.tif"))) == 40
    earlier = int(done.stdout.split(" of them were scored by an earlier run")[0].split()[-1])
    assert len(scored) - 1 <= earlier <= len(scored)
