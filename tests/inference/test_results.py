"""The writer of results: what fails costs that file alone, and the table is whole at any time."""

import csv
import errno
import gc
import json
import os
import resource
import subprocess
import sys
import weakref

import nibabel as nib
import numpy as np
import pytest
from dicom_results import LIMIT, make_series
from PIL import Image

from invad_med.bundle import root
from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Problem, ReadError, Source
from invad_med.inference.inputs import Inputs
from invad_med.inference.progress import Progress
from invad_med.inference.results import SourceWriter
from invad_med.readers import spool
from invad_med.readers.sources import read_source, scan
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.nifti import NiftiFile
from invad_med.writers.report.writer import ReportWriter
from invad_med.writers.table import GrowingTable, cell_of, write_table


def save(path, seed=0, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


def prediction_of(source, index, piece, reason=None):
    if isinstance(piece, ReadError):
        return Prediction(source, index, Status.UNREADABLE, str(piece), "phantom", ChosenBy.FOLDER)
    values = np.random.default_rng(index).random(piece.pixels.shape[:2], dtype=np.float32)
    return Prediction(
        source, index, Status.SCORED, reason, "phantom", ChosenBy.FOLDER, values,
        score=1.25 + index, p_value=0.05, threshold=2.0, map_threshold=LIMIT, paper_score=3.0,
    )  # fmt: skip


def take_all(writer, folder):
    for source in scan(folder).sources:
        for index, piece in enumerate(read_source(source)):
            writer.take(prediction_of(source, index, piece), piece)


def rows(output):
    with (output / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    stated = json.loads((output / "scores.json").read_text())
    assert [(r["input"], r["reason"]) for r in table] == [(cell_of(r["input"]), r["reason"] or "") for r in stated]
    return table


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        save(tmp_path / "in" / f"{i}.png", i)
    pages = [Image.fromarray(np.full((8, 9), i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "in" / "pages.tif", save_all=True, append_images=pages[1:])
    return tmp_path / "in"


def test_all_of_a_folder_is_written(folder, tmp_path):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    problem, lost = Problem(folder / "x.png", "empty file"), Source("raster", (folder / "y.png",), "y", 1)
    unscored = Prediction(lost, 0, Status.NO_MODEL, "no model for knees")
    with SourceWriter(Progress(tmp_path / "out", Inputs(folder, (), (unscored,), (problem,)))) as writer:
        take_all(writer, folder)
    assert [(r["input"], r["slice"], r["status"]) for r in rows(tmp_path / "out")] == [
        ("0", "0", "scored"), ("1", "0", "unreadable"), ("2", "0", "scored"), ("3", "0", "scored"),
        *(("pages", str(i), "scored") for i in range(3)), ("x.png", "", "unreadable"), ("y", "0", "no model"),
    ]  # fmt: skip
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {
        "progress.jsonl", "scores.csv", "scores.json", "studies.csv", "studies.json", "overview.png", "maps/pages.tif",
        *(f"maps/{i}.tif" for i in "023"),
        *(f"heatmaps/{i}.png" for i in "023"), *(f"heatmaps/pages_s00{i}.png" for i in range(3)),
    }  # fmt: skip
    assert (writer.unreadable, writer.incomplete) == (2, True)
    assert "6 slices scored, 2 above threshold; 1 without a model; 2 not read" in writer.summary()


def test_a_folder_where_a_file_should_be_costs_that_file_alone(folder, tmp_path):
    for name in ("maps/2.tif", "heatmaps/3.png", "maps/pages.tif"):
        (tmp_path / "out" / name).mkdir(parents=True)
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        take_all(writer, folder)
    table = rows(tmp_path / "out")
    assert all(r["status"] == "scored" and r["score"] for r in table)
    assert [r["reason"] for r in table] == [
        "", "", "map not written (Is a directory)", "heatmap not written (Is a directory)",
        *["map not written (Is a directory)"] * 3,
    ]  # fmt: skip
    files = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"2.png", "3.tif", "pages_s002.png", "overview.png"} <= files and "3.png" not in files
    assert writer.incomplete and writer.unreadable == 0
    assert "3 file(s) not written" in writer.summary()


@pytest.mark.filterwarnings("ignore")
def test_a_disk_that_is_full_for_a_while_costs_what_was_written_then(tmp_path, monkeypatch, caplog):
    volume = np.random.default_rng(0).integers(0, 900, (3, 24, 20), dtype=np.int16)
    make_series(tmp_path / "in" / "a", np.concatenate([volume, volume[:1]]))
    make_series(tmp_path / "in" / "b", np.concatenate([volume, volume[:1]]))
    save(tmp_path / "in" / "c.png")
    real = os.replace

    def replace(start, end):
        if "/a/" in str(end) and str(end).endswith((".nii.gz", "report.dcm")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(end))
        real(start, end)

    monkeypatch.setattr(os, "replace", replace)
    with SourceWriter(Progress(tmp_path / "out"), DicomWriter(tmp_path / "out", ["overlay", "report"])) as writer:
        take_all(writer, tmp_path / "in")
    table = rows(tmp_path / "out")
    reason = "map not written (No space left on device); DICOM report cannot be written (No space left on device)"
    assert [r["reason"] for r in table] == [reason] * 4 + [""] * 5
    files = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert sum("overlay" in f for f in files) == 8 and sum("report" in f for f in files) == 1
    assert sum(f.endswith(".png") for f in files) == 10 and not any("partial" in f for f in files)
    assert writer.incomplete and str(tmp_path) not in caplog.text
    assert dict(writer.faults) == dict.fromkeys(reason.split("; "), 1)


def test_a_picture_that_cannot_be_drawn_costs_itself(folder, tmp_path):
    (source,) = scan(folder / "0.png").sources
    (piece,) = read_source(source)
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        writer.take(
            Prediction(source, 0, Status.SCORED, None, "phantom", map=np.ones((20, 24), np.float32), score=1.0), piece
        )
    assert [r["reason"] for r in rows(tmp_path / "out")] == ["heatmap not written (ValueError)"]
    assert (tmp_path / "out" / "maps" / "0.tif").is_file()


def test_an_input_of_the_longest_name_is_written(tmp_path):
    name = "語" * 82 + "ab"  # 248 bytes
    save(tmp_path / "in" / f"{name}.png")
    save(tmp_path / "in" / "b.png")
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        take_all(writer, tmp_path / "in")
    assert not writer.incomplete and len(list((tmp_path / "out" / "maps").iterdir())) == 2
    assert (tmp_path / "out" / "heatmaps" / f"{name}.png").is_file()
    assert [r["input"] for r in rows(tmp_path / "out")] == ["b", name]


def test_nothing_is_held_of_a_source_that_is_complete(folder, tmp_path):
    writer = SourceWriter(Progress(tmp_path / "out"))
    (source,) = scan(folder / "pages.tif").sources
    pieces = read_source(source)
    watched = [weakref.ref(piece) for piece in pieces]
    while pieces:
        piece = pieces.pop(0)
        writer.take(prediction_of(source, piece.index, piece), piece)
    del piece
    gc.collect()
    assert [ref() for ref in watched] == [None] * 3
    assert (tmp_path / "out" / "maps" / "pages.tif").is_file()  # before it is closed
    assert all(p.map is None for p in writer.predictions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["series", "volume", "pages"])
def test_neither_pixels_nor_map_of_a_slice_are_held_once_it_was_taken(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(spool, "HELD", 0)
    volume = np.random.default_rng(0).integers(1, 900, (5, 24, 20), dtype=np.int16)
    (tmp_path / "in").mkdir()
    if kind == "series":
        make_series(tmp_path / "in" / "s", volume)
    elif kind == "volume":
        nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1.0, 1.0, 1.0])), tmp_path / "in" / "v.nii.gz")
    else:
        pages = [Image.fromarray(page.astype(np.uint16)) for page in volume]
        pages[0].save(tmp_path / "in" / "p.tif", save_all=True, append_images=pages[1:])
    (source,) = scan(tmp_path / "in").sources
    pieces, pixels, maps = read_source(source), [], []
    assert isinstance(pieces, spool.Pieces)
    dicom, report = DicomWriter(tmp_path / "out", ["overlay", "report"]), ReportWriter()
    writer = SourceWriter(Progress(tmp_path / "out"), dicom, report=report)
    for index in range(source.n_slices):
        piece = pieces[index]
        prediction = prediction_of(source, index, piece)
        pixels.append(weakref.ref(piece.pixels))
        maps.append(weakref.ref(prediction.map))
        writer.take(prediction, piece)
        del piece, prediction
        gc.collect()
        alive = [sum(ref() is not None for ref in refs) for refs in (pixels, maps)]
        assert alive == [0, kind == "series" and index + 1 < source.n_slices]  # of DICOM the one with the highest value
    writer.close()
    assert not writer.incomplete and (tmp_path / "out" / "report.html").is_file()


@pytest.mark.filterwarnings("ignore")
def test_a_map_that_fails_in_the_middle_leaves_nothing_and_is_said_once(tmp_path, monkeypatch):
    make_series(tmp_path / "in" / "a", np.ones((2, 24, 20), np.int16), gap_after=9, shear=0.0)
    make_series(tmp_path / "in" / "b", np.ones((2, 24, 20), np.int16), gap_after=9, shear=0.0)
    real, calls = NiftiFile.add, []

    def add(file, values):
        calls.append(values)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, values)

    monkeypatch.setattr(NiftiFile, "add", add)
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        take_all(writer, tmp_path / "in")
    assert [r["reason"] for r in rows(tmp_path / "out")] == ["map not written (No space left on device)"] * 2 + [""] * 2
    (whole,) = (p for p in (tmp_path / "out" / "maps").rglob("*") if p.is_file())
    assert whole.name.endswith(".nii.gz") and writer.incomplete


def test_of_a_source_that_is_cut_short_nothing_is_written_as_a_whole(folder, tmp_path):
    (source,) = scan(folder / "pages.tif").sources
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        piece = read_source(source)[0]
        writer.take(prediction_of(source, 0, piece), piece)
    assert not list((tmp_path / "out" / "maps").rglob("*")) and writer.incomplete
    (study,) = writer.studies
    assert (
        study.withheld.endswith("only 1 of 3 slices were scored (2 not come to)") and len(rows(tmp_path / "out")) == 1
    )


def test_a_run_that_breaks_off_leaves_no_verdict_and_nothing_of_a_source_in_hand(folder, tmp_path):
    (source,) = scan(folder / "pages.tif").sources
    piece = read_source(source)[0]

    def broken_off():
        with SourceWriter(Progress(tmp_path / "out")) as writer:
            writer.take(prediction_of(source, 0, piece), piece)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"progress.jsonl", "scores.csv", "scores.json", "pages_s000.png"}


def test_the_table_is_whole_after_every_row(folder, tmp_path):
    source = Source("raster", (), "多,\"'\n", 6)
    predictions = [
        Prediction(source, i, Status.SCORED, None if i else "a;b", "brain", ChosenBy.DICOM, score=i / 3)
        for i in range(6)
    ]
    for known in ([], predictions[:2]):
        table = GrowingTable(known, [], tmp_path, folder)
        for i in range(len(known), 6):
            table.add(predictions[i])
            assert len(rows(tmp_path)) == i + 1
        grown = [(tmp_path / name).read_bytes() for name in ("scores.csv", "scores.json")]
        write_table(predictions, [], tmp_path, folder)
        assert grown == [(tmp_path / name).read_bytes() for name in ("scores.csv", "scores.json")]


@pytest.mark.parametrize("name", ["scores.csv", "scores.json"])
def test_a_row_that_does_not_fit_on_the_disk_leaves_the_table_as_it_was(tmp_path, name):
    source = Source("raster", (), "x" * 200, 2)
    rows_of = [Prediction(source, i, Status.NO_MODEL, "y" * 200) for i in range(2)]
    table = GrowingTable([], [], tmp_path, tmp_path)
    table.add(rows_of[0])
    before = (tmp_path / name).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))  # a write beyond it stops in the middle
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            table.add(rows_of[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / name).read_bytes() == before
    assert len(rows(tmp_path)) == len(json.loads((tmp_path / "scores.json").read_text())) == 1
    table.add(rows_of[1])
    assert b"\n" in (tmp_path / name).read_bytes()[len(before) :]


def test_a_table_that_vanishes_is_there_again_at_the_end(folder, tmp_path, caplog):
    with SourceWriter(Progress(tmp_path / "out")) as writer:
        for source in scan(folder).sources:
            for index, piece in enumerate(read_source(source)):
                writer.take(prediction_of(source, index, piece), piece)
                (tmp_path / "out" / "scores.json").unlink(missing_ok=True)
    assert len(rows(tmp_path / "out")) == 7 and "the table lacks rows until the run ends (No such file" in caplog.text


def test_results_are_written_from_python_without_monai_ignite_and_mlflow(tmp_path):
    code = (
        "import sys\n"
        "from invad_med import Prediction, load\n"
        "from invad_med.inference.inputs import list_inputs\n"
        "from invad_med.inference.pipeline import score_inputs\n"
        "from invad_med.inference.progress import Progress\n"
        "from invad_med.inference.results import SourceWriter\n"
        "from invad_med.writers.dicom.export import DicomWriter\n"
        "predictor = load()\n"
        "inputs = list_inputs(sys.argv[1], predictor.detectors.names, predictor.detectors.default)\n"
        "dicom, progress = DicomWriter('out', ['report']), Progress('out', inputs)\n"
        "with SourceWriter(progress, dicom, predictor.detectors.provenance) as writer:\n"
        "    for prediction, piece in score_inputs(predictor.detectors, inputs):\n"
        "        assert isinstance(prediction, Prediction)\n"
        "        writer.take(prediction, piece)\n"
        "again = predictor(sys.argv[1])\n"
        "assert [p.score for p in again] == [p.score for p in writer.predictions]\n"
        "print(*[name for name in ('monai', 'ignite', 'mlflow') if name in sys.modules])\n"
    )
    chest = f"{root()}/sample/chest"
    done = subprocess.run([sys.executable, "-c", code, chest], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr[-3000:]
    assert {r["status"] for r in rows(tmp_path / "out")} == {"scored"}
    assert len(list((tmp_path / "out").rglob("report.dcm"))) == 1
