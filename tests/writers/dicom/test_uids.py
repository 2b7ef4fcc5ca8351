"""Deterministic UIDs: an object that is made again has the same; whatever shapes it gives it another."""

import shutil
from dataclasses import replace
from pathlib import Path

import monai.bundle
import numpy as np
import pydicom
import pytest
import torch
from dicom_results import make_series, named, result_of
from pydicom.uid import generate_uid

import invad_med
from invad_med.bundle import root
from invad_med.readers.sources import scan
from invad_med.writers.dicom import common, parametric_map, presentation_state
from invad_med.writers.dicom.digest import CREATION, content_digest
from invad_med.writers.dicom.export import KINDS, DicomWriter

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CT of four slices."""
    made = tmp_path_factory.mktemp("uids") / "in"
    make_series(made, np.random.default_rng(0).integers(0, 2000, (4, 32, 24)))
    return made


def result(folder):
    (source,) = scan(folder).sources
    return result_of(source)


def objects(result, out, kinds=KINDS, **options):
    outcome = DicomWriter(out, kinds, deterministic_uids=True, **options)(result)
    assert outcome.failed == []
    return {p.name: pydicom.dcmread(p) for p in outcome.written}


@pytest.fixture(scope="module")
def first(folder, tmp_path_factory):
    return objects(result(folder), tmp_path_factory.mktemp("first"))


def uids(objects):
    return {name: str(ds.SOPInstanceUID) for name, ds in objects.items()}


def series(objects):
    return {str(ds.SeriesInstanceUID) for ds in objects.values()}


def timeless(ds):
    """Return an object without the time of its making."""
    for item in [ds, *ds.get("ContributingEquipmentSequence", [])]:
        for keyword in CREATION:
            if keyword in item:
                del item[keyword]
    return ds


def test_an_object_that_is_made_again_is_the_same(folder, first, tmp_path):
    again = objects(result(folder), tmp_path / "out")
    assert uids(again) == uids(first) and len(set(uids(first).values())) == len(first) == 11
    for name, ds in again.items():
        assert ds.InstanceCreationTime != first[name].InstanceCreationTime  # it says when it was made
        ours, theirs = timeless(ds), timeless(pydicom.dcmread(first[name].filename))
        assert ours == theirs and ours.file_meta == theirs.file_meta, name
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_it_does_not_matter_where_the_source_lies_but_to_the_capture_which_shows_its_name(folder, first, tmp_path):
    shutil.copytree(folder, tmp_path / "moved" / "elsewhere")
    again = objects(result(tmp_path / "moved"), tmp_path / "out")
    assert {n for n, uid in uids(again).items() if uid != uids(first)[n]} == {"secondary_capture.dcm"}
    assert series(again) == series(first)


def test_what_else_is_written_does_not_matter(folder, first, tmp_path):
    some = objects(result(folder), tmp_path, kinds=["report", "blending"])
    assert set(some) == {"parametric_map.dcm", "blending.dcm", "report.dcm"}
    assert uids(some).items() <= uids(first).items()


def header(**values):
    """Return what changes the headers of the source."""

    def change(folder):
        for path in folder.glob("*.dcm"):
            ds = pydicom.dcmread(path)
            for keyword, value in values.items():
                setattr(ds, keyword, value)
            ds.save_as(path)

    return change


def one_pixel(folder):
    path = min(folder.glob("*.dcm"))
    ds = pydicom.dcmread(path)
    ds.PixelData = b"\x01\x00" + ds.PixelData[2:] if ds.PixelData[0] != 1 else b"\x02\x00" + ds.PixelData[2:]
    ds.save_as(path)


SOURCES = {
    "patient": header(PatientName="Corrected^Jo"),
    "date": header(StudyDate="20200102"),
    "time of content, which objects of ours have too": header(ContentTime="010203"),
    "side": header(Laterality="L"),
    "spacing": header(PixelSpacing=[0.7, 1.30001]),
    "rescale": header(RescaleIntercept=-1023),
    "frame of reference": header(FrameOfReferenceUID=generate_uid()),
    "series": header(SeriesInstanceUID=generate_uid()),
    "a pixel": one_pixel,
    "a slice less": lambda folder: max(folder.glob("*.dcm")).unlink(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_another_source_gives_other_uids_though_maps_and_scores_are_the_same(name, folder, first, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    SOURCES[name](tmp_path / "in")
    other = objects(result(tmp_path / "in"), tmp_path / "out")
    assert not set(uids(other).values()) & set(uids(first).values()) and not series(other) & series(first)


def with_number(**numbers):
    return lambda r: replace(r, predictions=(replace(r.predictions[0], **numbers), *r.predictions[1:]))


def with_map(r):
    values = r.predictions[1].map.copy()
    values[3, 4] = np.nextafter(values[3, 4], np.float32(1))  # the smallest change that there is
    return replace(r, predictions=(r.predictions[0], replace(r.predictions[1], map=values), *r.predictions[2:]))


def with_model(**stated):
    return lambda r: replace(r, provenance=replace(r.provenance, **stated))


RESULTS = {
    "map": with_map,
    "score": with_number(score=1.5000001),
    "threshold": with_number(threshold=1.3),
    "p-value": with_number(p_value=0.04),
    "map threshold": with_number(map_threshold=6.5),
    "paper score": with_number(paper_score=33.1),
    "score withheld": with_number(score=None, reason="no calibration"),
    "modality": with_number(modality="chest"),
    "title": with_model(title="Brain MRI 2"),
    "training data": with_model(data_digest="cd16"),
    "training": with_model(configuration_digest="77aa"),
    "seed": with_model(seed=7),
    "architecture": with_model(architecture={"backbone": "efficientnet"}),
    "versions": with_model(versions={"monai": "2"}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_another_result_or_model_gives_other_uids(name, folder, first, tmp_path):
    other = objects(RESULTS[name](result(folder)), tmp_path)
    assert not set(uids(other).values()) & set(uids(first).values()) and not series(other) & series(first)


def test_another_version_of_the_program_gives_other_uids(folder, first, tmp_path, monkeypatch):
    monkeypatch.setattr(invad_med, "__version__", "99.0")
    assert not set(uids(objects(result(folder), tmp_path)).values()) & set(uids(first).values())


def test_an_object_that_is_written_differently_has_another_uid(folder, first, tmp_path, monkeypatch):
    monkeypatch.setattr(presentation_state, "text_of", lambda prediction: "score: see the report")
    other = objects(result(folder), tmp_path)
    assert {n for n, uid in uids(other).items() if uid != uids(first)[n]} == {"presentation_state.dcm"}


def test_an_object_that_refers_to_another_one_changes_with_it(folder, first, tmp_path, monkeypatch):
    monkeypatch.setattr(parametric_map, "NO_UNITS", common.CodedConcept("{score}", "UCUM", "score"))
    other = objects(result(folder), tmp_path)
    assert {n for n, uid in uids(other).items() if uid != uids(first)[n]} == {"parametric_map.dcm", "blending.dcm"}
    assert other["parametric_map.dcm"].SOPInstanceUID in str(other["blending.dcm"])


def test_digests_tell_datasets_apart_that_a_join_of_their_values_does_not():
    def made(**values):
        ds = pydicom.Dataset()
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return ds

    inner = made(CodeValue="1")
    different = [
        made(),
        made(ImageType=["A", "B"]),
        made(ImageType="AB"),
        made(ImageType=["AB", ""]),
        made(StudyID="1", AccessionNumber="23"),
        made(StudyID="12", AccessionNumber="3"),
        made(ProcedureCodeSequence=[]),
        made(ProcedureCodeSequence=[inner]),
        made(ProcedureCodeSequence=[inner, pydicom.Dataset()]),
        made(ProcedureCodeSequence=[pydicom.Dataset(), inner]),
    ]
    assert len({content_digest(ds) for ds in different}) == len(different)


def test_the_command_gives_the_same_uids_again_and_others_with_another_rate_grid_or_weights(tmp_path):
    (tmp_path / "in").mkdir()
    ds = pydicom.dcmread(named("MR_small.dcm"))
    ds.BodyPartExamined = "HEAD"
    ds.save_as(tmp_path / "in" / "x.dcm")

    def run(name, **options):
        monai.bundle.run(
            config_file=str(Path(root()) / "configs" / "inference.json"),
            dataset_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / name),
            deterministic_uids=True,
            gate=False,
            **options,
        )
        return {p.name: pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / name / "dicom").rglob("*.dcm")}

    base = run("a")
    assert set(base) == {"overlay.dcm", "parametric_map.dcm", "report.dcm"} and run("b") == base
    state = torch.load(Path(root()) / "models" / "model.pt", weights_only=True)
    weights = max((v for v in state.values() if torch.is_tensor(v) and v.is_floating_point()), key=torch.numel)
    weights += 1e-4 * weights.abs().mean()
    torch.save(state, tmp_path / "model.pt")
    changed = [
        run("c", false_positive_rate=0.2),
        run("d", **{"inferer#steps": 2}),
        run("e", ckpt_path=str(tmp_path / "model.pt")),
    ]
    assert len({uid for found in (base, *changed) for uid in found.values()}) == 12
