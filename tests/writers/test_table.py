"""The table: one row per slice, honest blanks, no path of the machine, whole files only."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Problem, Source
from invad_med.writers.table import COLUMNS, cell_of, relative_name, write_table

HEAD = Source("nifti", (Path("/data/in/DOE/head.nii"),), "head", 3)
FILM = Source("dicom", (Path("/data/in/film.dcm"),), "chest/film", 1)


def scored(source=HEAD, index=0, **others):
    values = dict(score=1.5, p_value=0.0123456789, threshold=1.25, map_threshold=2.0, paper_score=1 / 3)
    return Prediction(source, index, Status.SCORED, modality="brain", chosen_by=ChosenBy.OPTION, **(values | others))


def rows(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_rows_and_columns(tmp_path):
    predictions = [
        scored(index=1),
        scored(index=0, score=0.5),
        scored(index=2, score=None, p_value=None, threshold=None, reason="the model is not calibrated, sorry"),
        Prediction(FILM, 0, Status.NO_MODEL, "no model for DICOM modality CR", "chest", ChosenBy.DICOM),
    ]
    problems = [Problem(Path("/data/in/sub/broken.png"), "empty file")]
    path = write_table(predictions, problems, tmp_path / "new", "/data/in")
    assert path == tmp_path / "new" / "scores.csv"
    assert rows(path) == [
        "input,slice,status,modality,chosen_by,computed_by,score,threshold,abnormal,p_value,paper_score,reason",
        "chest/film,0,no model,chest,dicom,,,,,,,no model for DICOM modality CR",
        "head,0,scored,brain,option,,0.5,1.25,False,0.0123457,0.333333,",
        "head,1,scored,brain,option,,1.5,1.25,True,0.0123457,0.333333,",
        'head,2,scored,brain,option,,,,,,0.333333,"the model is not calibrated, sorry"',
        "sub/broken.png,,unreadable,,,,,,,,,empty file",
    ]
    records = json.loads((tmp_path / "new" / "scores.json").read_text(encoding="utf-8"))
    assert [list(r) for r in records] == [list(COLUMNS)] * 5
    assert records[1]["abnormal"] is False and records[2]["abnormal"] is True and records[3]["abnormal"] is None
    assert records[1]["slice"] == 0 and records[4]["slice"] is None
    frame = pd.read_csv(path)
    assert len(frame) == 5 and frame["score"].isna().sum() == 3


def test_numbers_of_numpy_and_nan(tmp_path):
    path = write_table([scored(score=np.float32(1.2345678), p_value=float("nan"))], [], tmp_path, ".")
    assert rows(path)[1] == "head,0,scored,brain,option,,1.23457,1.25,False,,0.333333,"
    (record,) = json.loads((tmp_path / "scores.json").read_text())
    assert record["score"] == 1.23457 and record["p_value"] is None and record["abnormal"] is False
    path = write_table([scored(score=1234567.0, threshold=None, paper_score=1.5e-7)], [], tmp_path, ".")
    assert rows(path)[1].split(",")[6:11] == ["1234570.0", "", "", "0.0123457", "1.5e-07"]
    path = write_table([scored(score=1.2500001, threshold=1.25)], [], tmp_path, ".")
    assert rows(path)[1].split(",")[8] == "True"  # compared before rounding


def test_slices_sort_as_numbers(tmp_path):
    source = Source("nifti", HEAD.paths, "head", 20)
    path = write_table([scored(source, i) for i in (10, 9, 2)], [], tmp_path, ".")
    assert [r.split(",")[1] for r in rows(path)[1:]] == ["2", "9", "10"]


def test_no_path_of_the_machine_is_written(tmp_path):
    base = tmp_path / "in"
    problems = [
        Problem(base / "a" / "x.dcm", "r"),
        Problem(Path("/elsewhere/y.png"), "r"),
        Problem(base, "folder cannot be opened"),
    ]
    path = write_table([scored()], problems, tmp_path, base)
    assert [r.split(",")[0] for r in rows(path)[1:]] == ["a/x.dcm", "head", "in", "y.png"]
    for file in (path, tmp_path / "scores.json"):
        text = file.read_text()
        assert str(tmp_path) not in text and "DOE" not in text and "elsewhere" not in text


def test_names_below_a_relative_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_name(tmp_path / "in" / "a" / "b.png", "in") == "a/b.png"
    assert relative_name(Path("in/a/../b.png"), "in") == "b.png"
    assert relative_name(tmp_path / "in2" / "b.png", "in") == "b.png"
    assert relative_name(tmp_path / "one.png", tmp_path / "one.png") == "one.png"


def test_an_empty_run_has_a_heading(tmp_path):
    assert rows(write_table([], [], tmp_path, ".")) == [",".join(COLUMNS)]
    assert json.loads((tmp_path / "scores.json").read_text()) == []


def test_names_that_are_not_text(tmp_path):
    path = write_table([], [Problem(Path("/in/\udce4 é\n.png"), "empty file")], tmp_path, "/in")
    assert pd.read_csv(path)["input"][0] == "\\udce4 é\\n.png"
    (record,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert record["input"] == "\udce4 é\n.png"


NAMES = [
    "a\nb",
    "a\\nb",
    "=1+1",
    "+x",
    "-1/@b",
    "@b",
    "\uff1dx",
    "x=1",
    "\x1b[31m",
    "a\u2028b",
    "Bild\u202f 10\xa0é",
    "\t=1",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_line_no_formula_and_still_the_file_s(tmp_path, name):
    write_table([scored(Source("raster", (Path("x"),), name, 1))], [Problem(tmp_path / name, "r")], tmp_path, tmp_path)
    text = (tmp_path / "scores.csv").read_bytes().decode()
    assert len(text.splitlines()) == 3 and "\x1b" not in text
    cells = pd.read_csv(tmp_path / "scores.csv")["input"]
    assert len(set(cells)) == 1 and not cells[0].startswith(tuple("=+-@\uff1d\t"))
    meant = cells[0].encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert Path(meant) == Path(name)
    assert {r["input"] for r in json.loads((tmp_path / "scores.json").read_text())} == {name}


def test_names_stay_apart_and_common_ones_as_they_are():
    assert len({cell_of(name) for name in NAMES}) == len(NAMES)
    common = ["head", "p/01", "Müller 1 (2), b", "Bild\u202f 10\xa0é", "x=1", "a-b/+c"]
    assert [cell_of(name) for name in common] == common


def test_a_failing_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = write_table([scored()], [], tmp_path, ".")
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_table([scored(), scored(index=1)], [], tmp_path, ".")
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"scores.csv", "scores.json"}
