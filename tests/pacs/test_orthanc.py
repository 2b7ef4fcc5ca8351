"""Results through a real PACS: Orthanc on loopback, DICOMweb only; what comes back is what was sent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_results import make_series, result_of
from orthanc import MISSING, get, orthanc, retrieve, stow
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import DigitalXRayImageStorageForPresentation, RLELossless, generate_uid

from invad_med.archive.dicomweb import Destination
from invad_med.bundle import root
from invad_med.readers.sources import scan
from invad_med.writers.dicom.export import KINDS, DicomWriter

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.pacs,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """The DICOMweb root of an empty Orthanc."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as root:
        yield root


def ct(folder):
    volume = np.random.default_rng(0).integers(0, 2000, (28, 64, 48))
    return make_series(folder, volume)[0].paths


def dx(folder):
    ds = pydicom.dcmread(get_testdata_file("RG1_UNCI.dcm", download=False))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    ds.Modality = "DX"
    folder.mkdir()
    ds.save_as(folder / "dx.dcm")
    return [folder / "dx.dcm"]


@pytest.mark.parametrize("make", [ct, dx])
def test_a_study_is_fetched_scored_stored_and_comes_back_unchanged(make, pacs, tmp_path):
    sent = make(tmp_path / "in")
    stow(pacs, sent)
    study = str(pydicom.dcmread(sent[0], stop_before_pixels=True).StudyInstanceUID)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for number, ds in enumerate(retrieve(pacs, study).values()):
        ds.save_as(fetched / f"{number}.dcm", enforce_file_format=True)
    (source,) = scan(fetched).sources
    assert source.n_slices == len(sent)

    outcome = DicomWriter(tmp_path / "out", KINDS)(result_of(source))
    assert [k for k, _ in outcome.failed] == ([] if make is ct else ["blending"])
    stow(pacs, outcome.written)

    series = json.loads(get(f"{pacs}/studies/{study}/series")[1])
    modalities = sorted(s["00080060"]["Value"][0] for s in series)
    assert {"OT", "SEG", "PR", "SR"} <= set(modalities)
    back = retrieve(pacs, study)
    assert len(back) == len(sent) + len(outcome.written)
    for path in outcome.written:
        meant = pydicom.dcmread(path)
        found = back[str(meant.SOPInstanceUID)]
        for keyword in ("PixelData", "FloatPixelData", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
            assert found.get(keyword) == meant.get(keyword), (path.name, keyword)


def test_what_orthanc_discards_is_not_called_stored(pacs, tmp_path):
    """It lists a discarded instance under Referenced SOP Sequence (0008,1199), as it does a stored one."""
    (source,) = scan(ct(tmp_path / "in")[0].parent).sources
    written = DicomWriter(tmp_path / "out", KINDS)(result_of(source)).written
    first, again, other = (Destination(pacs) for _ in range(3))
    first.store(written)
    again.store(written)
    assert (first.stored, first.failed) == (again.stored, again.failed) == (len(written), {})
    changed = []
    for path in written:
        ds = pydicom.dcmread(path)
        ds.DerivationDescription += " Once more."
        changed.append(tmp_path / path.name)
        ds.save_as(changed[-1], enforce_file_format=True)
    other.store([*changed[:-1], written[-1]])
    ((reason, count),) = other.failed.items()
    assert other.stored == 1 and count == len(written) - 1 and "keeps another object that it held" in reason


def mr(folder):
    """A brain of three compressed slices, in a study of its own."""
    study, series, paths = generate_uid(), generate_uid(), []
    folder.mkdir()
    for number in range(3):
        ds = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.BodyPartExamined = study, series, "HEAD"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ImagePositionPatient = [0, 0, 5 * number]
        ds.compress(RLELossless, generate_instance_uid=False)
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1])
    return paths


def film(folder):
    """A DX of the chest in a study of its own."""
    (path,) = dx(folder)
    ds = pydicom.dcmread(path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.BodyPartExamined = generate_uid(), generate_uid(), "CHEST"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.save_as(path)
    return [path]


@pytest.mark.parametrize(("make", "kinds"), [(mr, KINDS), (film, [k for k in KINDS if k != "blending"])])
def test_one_command_takes_a_study_from_the_archive_and_its_results_there(make, kinds, pacs, tmp_path):
    sent = make(tmp_path / "in")
    stow(pacs, sent)
    study = str(pydicom.dcmread(sent[0], stop_before_pixels=True).StudyInstanceUID)
    private = tmp_path / "tmp"
    private.mkdir()

    def command(output):
        words = [
            sys.executable, "-m", "monai.bundle", "run", "--config_file", str(Path(root()) / "configs/inference.json"),
            "--dataset_dir", f"{pacs}/studies/{study}", "--dicom_destination", pacs, "--output_dir", str(output),
            "--dicom_out", str([str(kind) for kind in kinds]),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(private)}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(private.glob("invad-med-*"))
        return done.stdout + done.stderr

    said = command(tmp_path / "out")
    written = list((tmp_path / "out" / "dicom").rglob("*.dcm"))
    assert f"{len(sent)} slices scored" in said and f"({len(written)} objects, {len(written)} stored on 127.0" in said
    found = json.loads(get(f"{pacs}/studies/{study}/instances")[1])
    uids = {row["00080018"]["Value"][0] for row in found}
    back = retrieve(pacs, study)
    assert set(back) == uids and len(uids) == len(sent) + len(written)
    names = {path.stem.split("_s00")[0] for path in written}
    assert {"overlay", "parametric_map", "segmentation_binary", "secondary_capture", "report"} <= names
    for path in written:
        meant = pydicom.dcmread(path)
        assert back[str(meant.SOPInstanceUID)] == meant, path.name
    (values,) = (ds.FloatPixelData for ds in back.values() if "FloatPixelData" in ds)
    maps = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out" / "maps").rglob("*.tif"))]
    volumes = [nib.load(p).get_fdata(dtype=np.float32) for p in (tmp_path / "out" / "maps").rglob("*.nii.gz")]
    shown = np.sort(np.concatenate([m.ravel() for m in [*maps, *volumes]]))
    np.testing.assert_array_equal(np.sort(np.frombuffer(values, "<f4")), shown)

    again = command(tmp_path / "again")  # the results that are in the study by now are no images to be scored
    assert f"{len(sent)} slices scored" in again and f"{len(written)} file(s) are results of earlier" in again
