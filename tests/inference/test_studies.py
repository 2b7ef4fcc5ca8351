"""Studies of a run: what belongs together, the verdict on it, and where it is told."""

import csv
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_results import make_series
from PIL import Image

from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Source
from invad_med.data.study import Study, Verdict
from invad_med.diffusion import Walked
from invad_med.inference.inputs import list_inputs, share_inputs
from invad_med.inference.pipeline import prepare
from invad_med.inference.predictor import load
from invad_med.inference.progress import RECORD, Progress
from invad_med.inference.results import SourceWriter
from invad_med.inference.studies import StudyJudge
from invad_med.readers.sources import read_source
from invad_med.scoring.calibration import Calibration
from invad_med.writers.study_table import COLUMNS, write_studies
from tests.conftest import CONFIGS
from tests.detection.test_detectors import save_model

PATIENTS, SLICES = 20, 8  # held out, of the calibration of studies
RATE = 0.05


def noise(seed, slices, ill=0):
    """Return a volume (n, 24, 24) of noise, with a bright square in as many slices in its middle."""
    volume = np.random.default_rng(seed).integers(0, 200, (slices, 24, 24)).astype(np.float32)
    first = (slices - ill) // 2
    volume[first : first + ill, 6:18, 6:18] += 300
    return volume


def save_volume(path, volume):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.T, np.eye(4)), path)


def save_pictures(folder, volume, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(volume):
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{first + i:02d}.png")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return two checkpoints of one calibrated detector: with a calibration of studies, and without."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    detector = save_model(folder / "bare.pt", image_size=64, modality="brain")
    for patient in range(PATIENTS + 8):
        save_volume(folder / "normal" / f"{patient:02d}.nii.gz", noise(patient, SLICES))
    images = []
    for item in list_inputs(folder / "normal", ["brain"], "brain").items:
        images.append(prepare(item, read_source(item.source)[item.index], 64))
    with torch.no_grad():
        z = torch.cat([detector.end_point(batch) for batch in torch.from_numpy(np.stack(images)).split(64)])
    held_out = z[: PATIENTS * SLICES]
    learnt = z[len(held_out) :]
    detector.calibration = Calibration(detector.host.channels).fit(
        Walked(learnt, learnt), Walked(held_out, held_out), detector.timesteps
    )
    torch.save(detector.state_dict(), folder / "without.pt")
    patients = torch.arange(PATIENTS).repeat_interleave(SLICES)
    places = ((torch.arange(SLICES) + 0.5) / SLICES).repeat(PATIENTS)
    detector.studies.fit(detector.calibration.score(held_out), patients, places)
    torch.save(detector.state_dict(), folder / "with.pt")
    return folder


def make_input(folder, tall=True):
    """Write a long normal volume, one with disease, a DICOM series, and two folders of pictures."""
    if tall:
        save_volume(folder / "tall.nii.gz", noise(100, 155))
    save_volume(folder / "ill.nii.gz", noise(101, 10, ill=6))
    save_pictures(folder / "patient", noise(102, 4))
    Image.new("L", (24, 24), 7).save(folder / "patient" / "blank.png")
    save_pictures(folder / "other", noise(103, 3, ill=3))
    make_series(folder / "series", noise(104, 5, ill=1), step=2.0, gap_after=9)
    for path in (folder / "series").iterdir():
        ds = pydicom.dcmread(path)
        ds.Modality, ds.BodyPartExamined = "MR", "BRAIN"
        ds.save_as(path)
    return folder


def run(models, folder, output, name="with.pt", **keys):
    monai.bundle.run(
        config_file=str(CONFIGS / "inference.json"), dataset_dir=str(folder), output_dir=str(output), device="cpu",
        ckpt_path=str(models / name), modality="brain", **{"models#models_dir": str(models / "none"), **keys},
    )  # fmt: skip


def rows(output, name="studies.csv"):
    with (output / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """Return the folder of images and that of the results of a run, and what the run said."""
    base = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        run(models, make_input(base / "in"), base / "out")
    return base / "in", base / "out", "\n".join(said)


pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_long_normal_stack_has_slices_above_and_is_not_abnormal_for_that(whole):
    _, output, said = whole
    found = {row["study"]: row for row in rows(output)}
    assert set(found) == {
        "tall", "ill", *(f"patient/{i:02d}" for i in range(4)), "patient/blank", *(f"other/{i:02d}" for i in range(3)),
        next(name for name in found if name.startswith("series/")),
    }  # fmt: skip
    slices = [row for row in rows(output, "scores.csv") if row["input"] == "tall"]
    tall = found["tall"]
    assert (tall["source"], tall["slices"], tall["scored"], tall["reason"]) == ("tall", "155", "155", "")
    above = sum(row["abnormal"] == "True" for row in slices)
    assert int(tall["above"]) == above > 0 and tall["expected_above"] == "7.75"
    assert tall["abnormal"] == "False" and float(tall["score"]) < float(tall["threshold"])
    highest = max(slices, key=lambda row: float(row["score"]))
    assert tall["first_slice"] == highest["slice"] and highest["abnormal"] == "True"

    ill = found["ill"]
    assert ill["abnormal"] == "True" and float(ill["p_value"]) == pytest.approx(1 / (PATIENTS + 1), rel=1e-4)
    assert 2 <= int(ill["first_slice"]) < 8 and int(ill["above"]) >= 6 and ill["expected_above"] == "0.5"
    blank = found["patient/blank"]
    assert (blank["scored"], blank["score"], blank["abnormal"], blank["first_slice"]) == ("0", "", "", "")
    assert blank["reason"].startswith("no contrast")
    judged = [row for row in found.values() if row["abnormal"]]
    abnormal = sum(row["abnormal"] == "True" for row in judged)
    assert f"{abnormal} of {len(judged)} studies above threshold; studies without a verdict: 1 (reasons in" in said
    assert len(judged) == len(found) - 1


def test_the_most_abnormal_come_first_and_json_says_the_same(whole):
    _, output, _ = whole
    table = rows(output)
    judged = [
        (float(row["p_value"]), -float(row["score"]) / float(row["threshold"] or 1)) for row in table if row["p_value"]
    ]
    assert judged == sorted(judged) and [row["p_value"] for row in table[len(judged) :]] == [""]
    stated = json.loads((output / "studies.json").read_text())
    assert [list(record) for record in stated] == [list(COLUMNS)] * len(table)
    assert [{k: "" if v is None else str(v) for k, v in record.items()} for record in stated] == table
    (tall,) = (record for record in stated if record["study"] == "tall")
    assert tall["abnormal"] is False and tall["slices"] == 155 and isinstance(tall["first_slice"], int)


def test_the_verdict_is_the_detector_s_on_the_scores_of_the_slices(whole, models):
    folder, output, _ = whole
    predictor = load(ckpt_path=models / "with.pt", modality="brain", device="cpu")
    detector = predictor.detectors.detector("brain")
    table = rows(output, "scores.csv")
    scores = {n: [float(row["score"]) for row in table if row["input"] == n] for n in ("ill", "tall")}
    studies = predictor.study(folder)
    assert [study.name for study in studies] == [row["study"] for row in rows(output)]
    assert all(isinstance(study, Study) for study in studies)
    for study, row in zip(studies, rows(output), strict=True):
        assert [str(study.abnormal), str(study.above)] == [row["abnormal"] or "None", row["above"] or "None"]
        if study.name in scores:
            n = len(scores[study.name])
            meant = detector.judge_study(scores[study.name], [(i + 0.5) / n for i in range(n)], RATE)
            assert (study.score, study.p_value, study.threshold) == pytest.approx(
                (meant.score, meant.p_value, meant.threshold), rel=1e-5
            )
            assert (study.false_positive_rate, study.expected_above) == (RATE, n * RATE)
            unplaced = detector.judge_study(scores[study.name], None, RATE)
            assert unplaced.score != pytest.approx(meant.score, rel=1e-3)


def test_images_of_a_folder_are_a_study_if_asked_for(whole, models, tmp_path, monkeypatch):
    folder, output, _ = whole
    again = shutil.copytree(output, tmp_path / "out")
    scored = []
    monkeypatch.setattr("invad_med.detection.detectors.Detectors.detect", lambda *_: scored.append(1))
    run(models, folder, again, study_by="folder")
    assert not scored  # how slices are judged together is no reason to score them again
    found = {row["study"]: row for row in rows(again)}
    series = next(row["study"] for row in rows(output) if row["study"].startswith("series/"))
    assert set(found) == {"tall", "ill", "patient/", "other/", series}
    patient, other = found["patient/"], found["other/"]
    assert (patient["source"], patient["slices"], patient["scored"]) == ("5", "5", "4")
    assert (patient["abnormal"], patient["expected_above"], patient["reason"]) == ("False", "0.2", "")
    assert (other["source"], other["scored"], other["above"], other["abnormal"]) == ("3", "3", "3", "True")
    slices = [row for row in rows(again, "scores.csv") if row["input"].startswith("other/")]
    assert other["first_slice"] == max(slices, key=lambda row: float(row["score"]))["input"]
    before = {row["study"]: row for row in rows(output)}
    assert [found[name] for name in ("tall", "ill", series)] == [before[name] for name in ("tall", "ill", series)]
    predictor = load(ckpt_path=models / "without.pt", modality="brain", device="cpu")
    monkeypatch.undo()
    (here,) = predictor.study(folder / "other", by="folder")
    assert (here.name, len(here.sources), here.is_source) == ("./", 3, False)


def test_a_run_that_is_continued_ends_with_the_same_studies(whole, models, tmp_path):
    folder, output, _ = whole
    cut = shutil.copytree(output, tmp_path / "out")
    lines = (cut / RECORD).read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("done") not in ("ill", "patient/02", "other/01")]
    assert len(kept) == len(lines) - 3
    (cut / RECORD).write_text("".join(kept))  # as a run that was killed in the middle of these leaves it
    for name in ("studies.csv", "studies.json", "overview.png"):
        (cut / name).unlink()
    run(models, folder, cut)
    for name in ("scores.csv", "studies.csv", "studies.json", "overview.png"):
        assert (cut / name).read_bytes() == (output / name).read_bytes(), name


def test_a_model_without_a_calibration_of_studies_withholds_the_verdict_alone(models, tmp_path):
    run(models, make_input(tmp_path / "in", tall=False), tmp_path / "out", "without.pt", dicom_out=["report"])
    table = rows(tmp_path / "out")
    slices = rows(tmp_path / "out", "scores.csv")
    alone, stacks = ([row for row in table if bool(row["p_value"]) == judged] for judged in (True, False))
    assert table == alone + stacks and {row["slices"] for row in alone} == {"1"}  # no verdict: last, by its slices
    of_slices = {r["input"]: r for r in slices}
    for row in alone:
        assert all(row[name] == of_slices[row["study"]][name] for name in ("score", "p_value", "threshold", "abnormal"))
    highest = [max(float(r["score"] or "-inf") for r in slices if r["input"] == row["study"]) for row in stacks]
    assert highest == sorted(highest, reverse=True)
    ill = next(row for row in table if row["study"] == "ill")
    assert ill["reason"] == "the model is not calibrated for studies" and ill["expected_above"] == "0.5"
    assert [ill[name] for name in ("score", "p_value", "threshold", "abnormal")] == [""] * 4
    assert int(ill["above"]) >= 6 and 2 <= int(ill["first_slice"]) < 8
    first = groups(next((tmp_path / "out").rglob("report.dcm")))[0]
    assert (
        first["Tracking Identifier"] == "study"
        and first["Slices scored"] == 5
        and "Anomaly score of the study" not in first
    )
    assert first["Comment"].startswith("Study without verdict: the model is not calibrated for studies. ")


def groups(path):
    """Return the measurement groups of a report in order: names and values, tracking identifier, images."""
    (container,) = (
        item
        for item in pydicom.dcmread(path).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    found = []
    for group in container.ContentSequence:
        values = {"images": []}
        for item in group.ContentSequence:
            name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
            if item.ValueType == "NUM":
                values[name] = float(item.MeasuredValueSequence[0].NumericValue)
            elif item.ValueType == "CODE":
                values[name] = item.ConceptCodeSequence[0].CodeMeaning
            elif item.ValueType == "IMAGE":
                values["images"].append(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            elif item.ValueType == "TEXT":
                values[name] = item.TextValue
        found.append(values)
    return found


def test_the_report_begins_with_the_verdict_and_ranks_the_slices_above_threshold(whole):
    folder, output, _ = whole
    (path,) = output.rglob("report.dcm")
    study, *slices, region = groups(path)
    row = next(row for row in rows(output) if row["study"].startswith("series/"))
    numbers = {
        "Anomaly score of the study": "score", "Threshold of the anomaly score of the study": "threshold",
        "Conformal p-value among normal patients": "p_value", "Slices scored": "scored",
        "Slices above the threshold of a slice": "above",
        "Slices above it by chance if all are normal": "expected_above",
    }  # fmt: skip
    assert study["Tracking Identifier"] == "study" and region["Tracking Identifier"] == "region of highest anomaly"
    for name, column in numbers.items():
        assert study[name] == pytest.approx(float(row[column]), rel=1e-5), name
    assert study["False-positive rate promised by the thresholds"] == RATE
    assert study["Anomaly score of the study above threshold"] == ("Yes" if row["abnormal"] == "True" else "No")
    table = [r for r in rows(output, "scores.csv") if r["input"] == row["study"]]
    ranked = [r for r in sorted(table, key=lambda r: -float(r["score"])) if r["abnormal"] == "True"]
    assert ranked[0]["slice"] == row["first_slice"]
    assert [group["Tracking Identifier"] for group in slices] == [f"slice {r['slice']}" for r in ranked]
    stored = [pydicom.dcmread(p, stop_before_pixels=True) for p in (folder / "series").iterdir()]
    normal = np.cross(*np.reshape(stored[0].ImageOrientationPatient, (2, 3)))
    uids = [ds.SOPInstanceUID for ds in sorted(stored, key=lambda ds: normal @ np.array(ds.ImagePositionPatient))]
    assert study["images"] == uids
    assert [group["images"] for group in slices] == [[uids[int(r["slice"])]] for r in ranked]


@pytest.mark.skipif(not shutil.which("dsr2html"), reason="dsr2html (dcmtk) is not installed")
def test_dcmtk_shows_the_verdict_first(whole, tmp_path):
    (path,) = whole[1].rglob("report.dcm")
    subprocess.run(["dsr2html", str(path), str(tmp_path / "report.html")], check=True, capture_output=True)
    page = (tmp_path / "report.html").read_text(errors="replace")
    row = next(row for row in rows(whole[1]) if row["study"].startswith("series/"))
    said = "above" if row["abnormal"] == "True" else "not above"
    words = (
        '"study"',
        f"Study {said} threshold: score {float(row['score']):.3g}, threshold",
        '"slice ',
        '"region of highest',
    )
    places = [page.index(word) for word in words]
    assert places == sorted(places)


class Recorder:
    """Stands for models: keeps what it is asked."""

    rate = 0.1

    def __init__(self):
        self.asked = []

    def judge_study(self, modality, scores, positions):
        self.asked.append((modality, scores, positions))
        return Verdict(score=max(scores), p_value=0.5, threshold=9.0)


def prediction(source, index, score=1.0, status=Status.SCORED, **others):
    numbers = {"score": score, "threshold": 1.5, "p_value": 0.5} if score is not None else {}
    return Prediction(source, index, status, modality="brain", chosen_by=ChosenBy.OPTION, **(numbers | others))


def of_kind(kind, name, slices):
    return Source(kind, (Path(f"/x/{name}"),), name, slices)


@pytest.mark.parametrize(
    ("kind", "slices", "places"),
    [
        ("nifti", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("dicom", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("nifti", 4, None),
        ("dicom", 2, None),
        ("raster", 6, None),
    ],
)
def test_the_place_along_a_stack_is_known_of_volumes_and_series(kind, slices, places):
    models, source = Recorder(), of_kind(kind, "a", slices)
    StudyJudge(models)([prediction(source, i, float(i)) for i in reversed(range(slices))])
    ((modality, scores, positions),) = models.asked
    assert (modality, scores) == ("brain", [float(i) for i in range(slices)])
    assert StudyJudge(models)([prediction(source, i) for i in range(slices)])[0].modality == "brain"
    assert positions == (places if places is None else pytest.approx(places))


def test_empty_slices_at_the_ends_of_a_stack_shift_no_place():
    models, source = Recorder(), of_kind("nifti", "a", 12)
    empty = [prediction(source, i, None, Status.NO_CONTRAST, reason="no contrast") for i in (0, 1, 2, 5, 10, 11)]
    shown = [prediction(source, i) for i in (3, 4, 6, 7, 8, 9)]
    StudyJudge(models)([*empty, *shown])
    assert models.asked[0][2] == pytest.approx([(i + 0.5) / 7 for i in (0, 1, 3, 4, 5, 6)])
    few = [prediction(source, i, None, Status.NO_CONTRAST, reason="no contrast") for i in range(8)]
    StudyJudge(models)([*few, *(prediction(source, i) for i in range(8, 12))])
    assert models.asked[1][2] is None  # four slices say nothing of places
    lost = [prediction(source, i, None, Status.UNREADABLE, reason="cut off") for i in (0, 11)]
    StudyJudge(models)([*lost, *(prediction(source, i) for i in range(1, 11))])
    assert models.asked[2][2] == pytest.approx([(i + 0.5) / 12 for i in range(1, 11)])  # they may show something


def test_slices_of_another_plane_have_no_place_along_the_body():
    models, source = Recorder(), replace(of_kind("dicom", "a", 8), ascends=False)
    StudyJudge(models)([prediction(source, i) for i in range(8)])
    assert models.asked == [("brain", [1.0] * 8, None)]


def test_a_padded_stack_is_judged_as_the_stack(models, tmp_path):
    volume = noise(105, 9, ill=3)
    save_volume(tmp_path / "padded.nii.gz", np.pad(volume, ((20, 4), (0, 0), (0, 0))))
    run(models, tmp_path / "padded.nii.gz", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    scores = [float(r["score"]) for r in rows(tmp_path / "out", "scores.csv") if r["score"]]
    detector = load(ckpt_path=models / "with.pt", modality="brain", device="cpu").detectors.detector("brain")
    meant = detector.judge_study(scores, [(i + 0.5) / 9 for i in range(9)], RATE)
    assert (row["slices"], row["scored"]) == ("33", "9")
    assert float(row["score"]) == pytest.approx(meant.score, rel=1e-5)


def test_files_that_cannot_be_read_count_in_their_folder_s_study(models, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    save_pictures(folder / "patient", noise(102, 4))
    for name, content in {
        "patient/cut.png": b"", "patient/old.bmp": b"BM", "patient/volume.nii": b"", "patient/manifest.json": b"{",
        "patient/notes.txt": b"no image", "lost/a.png": b"", "lost/b.png": b"x", "ill/x.tif": b"",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    save_pictures(folder / "ill", noise(103, 3, ill=3))
    with pytest.raises(SystemExit, match="3"):
        run(models, folder, tmp_path / "out", study_by="folder")
    found = {row["study"]: row for row in rows(tmp_path / "out")}
    assert set(found) == {"patient/", "lost/", "ill/"}
    patient, lost, ill = found["patient/"], found["lost/"], found["ill/"]
    assert [patient[name] for name in ("source", "slices", "scored", "abnormal", "threshold")] == [
        "6",
        "6",
        "4",
        "",
        "",
    ]
    assert patient["score"] and patient["p_value"] and patient["expected_above"] == "0.2"
    assert patient["reason"] == "not called normal, as only 4 of 6 slices were scored (2 unreadable)"
    assert [lost[name] for name in ("source", "slices", "scored", "score", "first_slice")] == ["2", "2", "0", "", ""]
    unread = {r["input"]: r["reason"] for r in rows(tmp_path / "out", "scores.csv") if r["status"] == "unreadable"}
    assert unread["lost/a.png"] in lost["reason"]
    assert ill["abnormal"] == "True" and ill["reason"] == "only 3 of 4 slices were scored (1 unreadable)"
    predictor = load(ckpt_path=models / "with.pt", modality="brain", device="cpu")
    studies = {study.name: study for study in predictor.study(folder, by="folder")}
    assert {name: study.withheld for name, study in studies.items()} == {n: r["reason"] for n, r in found.items()}
    assert (studies["patient/"].unread, len(studies["patient/"].sources), studies["patient/"].slices) == (2, 4, 6)
    assert all(not study.unread for study in predictor.study(folder))


def test_copies_of_one_image_count_once(models, tmp_path):
    save_pictures(tmp_path / "once" / "p", np.concatenate([noise(103, 1, ill=1), noise(102, 9)]))
    twice = shutil.copytree(tmp_path / "once", tmp_path / "twice")
    for i in range(20):
        shutil.copy(twice / "p" / "03.png", twice / "p" / f"copy {i}.png")
    for name in ("once", "twice"):
        run(models, tmp_path / name, tmp_path / f"{name}_out", study_by="folder")
    (once,), (copied,) = (rows(tmp_path / f"{name}_out") for name in ("once", "twice"))
    assert once["reason"] == "" and copied["reason"] == "20 of 30 images are copies of others, and count once"
    assert (once.pop("source"), copied.pop("source")) == ("10", "30")
    assert [once[name] for name in ("slices", "scored")] == ["10", "10"]
    numbers = ("score", "p_value", "threshold", "expected_above")
    assert [float(copied[n]) for n in numbers] == pytest.approx([float(once[n]) for n in numbers], rel=1e-5)
    same = ("study", "slices", "scored", "abnormal", "above", "first_slice")
    assert [copied[n] for n in same] == [once[n] for n in same]
    assert len(rows(tmp_path / "twice_out", "scores.csv")) == 30
    (tmp_path / "twice_out" / "studies.csv").unlink()
    run(models, twice, tmp_path / "twice_out", study_by="folder")  # all of it is taken over
    assert rows(tmp_path / "twice_out") == [copied | {"source": "30"}]
    (study,) = load(ckpt_path=models / "with.pt", modality="brain", device="cpu").study(twice, by="folder")
    assert (study.slices, study.scored, study.withheld) == (10, 10, copied["reason"])


def test_two_copies_alone_are_one_slice():
    models, sources = Recorder(), [of_kind("raster", f"p/{i}", 1) for i in range(2)]
    (study,) = StudyJudge(models, "folder")([prediction(s, 0, 1.2, content="same") for s in sources])
    assert (study.score, study.threshold, study.abnormal, study.slices) == (1.2, 1.5, False, 1) and not models.asked
    assert study.withheld == "1 of 2 images are copies of others, and count once"
    volume = of_kind("nifti", "v", 6)
    (study,) = StudyJudge(models)([prediction(volume, i, content="of the file") for i in range(6)])
    assert study.scored == 6 and study.withheld is None


@pytest.mark.parametrize("status", [Status.UNFAMILIAR, Status.UNREADABLE])
def test_what_was_not_scored_may_be_what_is_abnormal(status):
    """The verdict of a part says abnormal, or nothing."""
    source = of_kind("nifti", "a", 6)
    left_out = [prediction(source, i, None, status, reason="unlike others") for i in (0, 1)]
    below, above = (
        StudyJudge(Recorder())([*left_out, *(prediction(source, i, score) for i in range(2, 6))])[0]
        for score in (8.0, 10.0)
    )
    said = f"only 4 of 6 slices were scored (2 {status})"
    assert below.abnormal is None and below.threshold is None and below.withheld == f"not called normal, as {said}"
    assert (below.score, below.p_value) == (8.0, 0.5)
    assert above.abnormal and above.withheld == said
    blank = [prediction(source, i, None, Status.NO_CONTRAST, reason="no contrast") for i in (0, 1)]
    whole = StudyJudge(Recorder())([*blank, *(prediction(source, i, 8.0) for i in range(2, 6))])[0]
    assert whole.abnormal is False and whole.withheld is None  # nothing is to be seen in them


def test_a_study_of_one_slice_is_judged_as_that_slice_is():
    models, source = Recorder(), of_kind("raster", "a", 1)
    (study,) = StudyJudge(models)([prediction(source, 0, 1.2)])
    assert (study.score, study.threshold, study.p_value, study.abnormal) == (1.2, 1.5, 0.5, False) and not models.asked
    (study,) = StudyJudge()([prediction(source, 0, 1.2, threshold=None, reason="few images")])
    assert study.abnormal is None and study.withheld == "few images"


def test_slices_without_a_score_are_counted_and_not_judged():
    models, source = Recorder(), of_kind("nifti", "a", 6)
    unscored = [
        prediction(source, 0, None, Status.UNREADABLE, reason="cut off"),
        prediction(source, 3, None, Status.NO_CONTRAST, reason="no contrast"),
    ]
    (study,) = StudyJudge(models)([*unscored, *(prediction(source, i, float(i)) for i in (1, 2, 4, 5))])
    assert models.asked == [("brain", [1.0, 2.0, 4.0, 5.0], pytest.approx([1.5 / 6, 2.5 / 6, 4.5 / 6, 5.5 / 6]))]
    assert (study.slices, study.scored, study.above, study.first_slice) == (6, 4, 3, (source, 5))
    assert study.expected_above == pytest.approx(0.4)


def test_why_there_is_no_verdict():
    source = of_kind("nifti", "a", 3)
    lost = [prediction(source, i, None, Status.UNREADABLE, reason="cut off" if i else "damaged") for i in range(3)]
    (study,) = StudyJudge(Recorder())(lost)
    assert study.withheld == "cut off (2 of 3 slices; the others for other reasons)"
    assert (study.modality, study.above, study.expected_above, study.first_slice) == (None, None, None, None)
    unlike = [
        prediction(source, i, None, Status.UNFAMILIAR, reason=f"unlike (distance 1.{i} of a limit of 1); like none")
        for i in range(2)
    ]
    blank = [prediction(of_kind("nifti", "a", 5), i, None, Status.NO_CONTRAST, reason="no contrast") for i in (2, 3, 4)]
    (study,) = StudyJudge(Recorder())([*unlike, *blank])
    assert study.withheld == "unlike; like none (2 of 5 slices; the others for other reasons)"
    (study,) = StudyJudge(Recorder())([replace(unlike[1], source=of_kind("raster", "b", 1), index=0)])
    assert study.withheld == "unlike (distance 1.1 of a limit of 1); like none"
    (study,) = StudyJudge(Recorder())(blank)
    assert study.withheld.startswith("no contrast")
    other = [prediction(source, i, None, reason="other timesteps", paper_score=i % 2) for i in range(3)]
    (study,) = StudyJudge(Recorder())(other)
    assert (study.withheld, study.score, study.scored, study.first_slice) == ("other timesteps", None, 3, (source, 1))
    assert study.above is None and study.expected_above is None
    (study,) = StudyJudge()([prediction(source, i) for i in range(3)])
    assert study.withheld == "there is no model to judge studies" and study.expected_above is None
    with pytest.raises(
        ValueError, match="study_by='patient': folder makes one study of the images of a folder, null one"
    ):
        StudyJudge(Recorder(), "patient")


def test_a_wrong_word_stops_a_run_before_anything_is_written(whole, models, tmp_path):
    with pytest.raises(Exception) as raised:  # noqa: PT011 MONAI wraps it
        run(models, whole[0], tmp_path / "out", study_by="patient")
    causes = [raised.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert "study_by='patient': folder makes one study" in str(causes[-1])
    assert not (tmp_path / "out").exists()


def test_a_folder_is_a_study_of_its_pictures():
    sources = [
        of_kind("raster", "p/1", 1), of_kind("raster", "p/2", 1), of_kind("raster", "p/pages", 3),
        of_kind("raster", "x", 1), of_kind("nifti", "p/flat", 1), of_kind("dicom", "p/film", 1),
    ]  # fmt: skip
    found = [p for s in sources for p in (prediction(s, i) for i in range(s.n_slices))]
    names = {study.name: [s.name for s in study.sources] for study in StudyJudge(Recorder(), "folder")(found)}
    assert names == {
        "p/": ["p/1", "p/2"], "p/flat": ["p/flat"], "p/film": ["p/film"], "p/pages": ["p/pages"], "./": ["x"],
    }  # fmt: skip


def test_a_study_is_whole_in_one_of_several_processes(tmp_path):
    for patient in "abc":
        save_pictures(tmp_path / patient, noise(ord(patient), 3))
    inputs = list_inputs(tmp_path, ["brain"], "brain")
    parts = [share_inputs(inputs, rank, 2, "folder") for rank in range(2)]
    assert [{i.source.name[0] for i in part.items} for part in parts] == [{"a", "c"}, {"b"}]
    (tmp_path / "b" / "cut.png").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cut.png").write_bytes(b"")
    inputs = list_inputs(tmp_path, ["brain"], "brain")
    for by, files in (
        ("folder", [["elsewhere/cut.png"], ["b/cut.png"]]),
        (None, [["b/cut.png", "elsewhere/cut.png"], []]),
    ):
        assert [[name for name, _ in share_inputs(inputs, rank, 2, by).unread] for rank in range(2)] == files
    with pytest.raises(ValueError, match="3 studies cannot be shared among 4 processes: start fewer"):
        share_inputs(inputs, 0, 4, "folder")


def test_the_table_is_whole_or_not_there(tmp_path, monkeypatch):
    save_pictures(tmp_path / "in", noise(0, 1))
    (item,) = list_inputs(tmp_path / "in", ["brain"], "brain").items
    writer = SourceWriter(Progress(tmp_path / "out"))
    done = prediction(item.source, 0, map=np.ones((24, 24), np.float32), map_threshold=2.0)
    writer.take(done, read_source(item.source)[0])
    real = os.replace

    def full(start, end):
        if "studies" in str(end):
            raise OSError(28, "No space left on device")
        real(start, end)

    monkeypatch.setattr(os, "replace", full)
    writer.close()
    assert writer.incomplete and dict(writer.faults) == {"table of studies not written (No space left on device)": 1}
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_file()} == {
        "progress.jsonl", "scores.csv", "scores.json", "overview.png",
    }  # fmt: skip


def test_studies_without_a_verdict_are_ranked_by_their_most_abnormal_slice():
    a, b = of_kind("nifti", "a", 2), of_kind("nifti", "b", 2)
    found = [prediction(a, 0, 4.0), prediction(a, 1, 4.0), prediction(b, 0, 1.0), prediction(b, 1, 5.0)]
    assert [study.name for study in StudyJudge()(found)] == ["b", "a"]


def test_equal_p_values_are_ranked_by_score_and_numbers_are_rounded(tmp_path):
    models, sources = Recorder(), [of_kind("nifti", name, 1) for name in "abc"]
    studies = StudyJudge(models)(
        [prediction(s, 0, score) for s, score in zip(sources, (1.0, 3.23456789, 2.0), strict=True)]
    )
    assert [study.name for study in studies] == ["b", "c", "a"]
    write_studies([replace(studies[0], p_value=1 / 3)], tmp_path)
    assert (tmp_path / "studies.csv").read_text().splitlines()[1] == "b,b,1,1,3.23457,0.333333,1.5,True,1,0.1,0,"
