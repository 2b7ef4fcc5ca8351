"""The user's secret behind UIDs that are anonymous and the same in every run: needed, kept, their only key."""

import logging
import pickle
import re
import shutil
from pathlib import Path

import monai.bundle
import numpy as np
import pydicom
import pytest
from dicom_results import make_series, named, result_of

from invad_med.bundle import root
from invad_med.readers.sources import scan
from invad_med.writers.dicom.anonymous import SECRET, Anonymiser
from invad_med.writers.dicom.export import KINDS, DicomWriter

pytestmark = pytest.mark.filterwarnings("ignore")
OWN, ANOTHER = "7c" * 16, "7d" * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CT of four slices."""
    made = tmp_path_factory.mktemp("secret") / "in"
    make_series(made, np.random.default_rng(0).integers(0, 2000, (4, 32, 24)))
    return made


@pytest.fixture
def objects(tmp_path, monkeypatch):
    """Return the anonymous objects of a source, made with a secret, by file name."""

    def made(folder, secret, anonymize=True):
        monkeypatch.setenv(SECRET, secret)
        (source,) = scan(folder).sources
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        outcome = DicomWriter(out, KINDS, anonymize=anonymize, deterministic_uids=True)(result_of(source))
        assert outcome.failed == []
        return {p.name: pydicom.dcmread(p) for p in outcome.written}

    return made


def uids(objects):
    found = {str(e.value) for ds in objects.values() for e in ds.iterall() if e.VR == "UI"}
    return {uid for uid in found if not uid.startswith("1.2.840.10008.")}


def test_the_secret_alone_decides_which_uids_stand_for_the_sources(folder, objects):
    one, again, other = objects(folder, OWN), objects(folder, f" {OWN}\n"), objects(folder, ANOTHER)
    assert uids(one) == uids(again) and not uids(one) & uids(other)
    header = pydicom.dcmread(next(folder.glob("*.dcm")))
    original = [header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID, header.FrameOfReferenceUID]
    assert not {Anonymiser("invad-med").uid(str(uid)) for uid in original} & uids(one)
    assert {Anonymiser(OWN).uid(str(uid)) for uid in original} <= uids(one)


def test_the_anonymous_and_the_named_share_no_uid_whatever_the_secret(folder, objects):
    named = objects(folder, OWN, anonymize=False)
    assert uids(named) == uids(objects(folder, "", anonymize=False)) and not uids(named) & uids(objects(folder, OWN))


def test_an_anonymous_capture_does_not_show_where_the_source_lay_nor_a_digest_of_its_uid(folder, objects, tmp_path):
    shutil.copytree(folder, tmp_path / "moved" / "Smith")
    for path in (tmp_path / "moved" / "Smith").glob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.1"[-64:]
        ds.SeriesInstanceUID = "1.2.3"
        ds.save_as(path)
    one, moved = objects(folder, OWN), objects(tmp_path / "moved", OWN)
    assert one["secondary_capture.dcm"].PixelData == moved["secondary_capture.dcm"].PixelData


@pytest.mark.parametrize("secret", [None, "", "  ", "sesame-4711", "a" * 31])
def test_without_one_the_run_stops_before_anything_is_read_and_says_how_to_make_one(secret, tmp_path, monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    if secret is not None:
        monkeypatch.setenv(SECRET, secret)
    with pytest.raises(RuntimeError, match="DicomWriter") as caught:
        monai.bundle.run(
            config_file=str(Path(root()) / "configs" / "inference.json"),
            dataset_dir="http://127.0.0.1:9/dicom-web/studies/1.2",  # nobody answers there
            output_dir=str(tmp_path / "out"),
            anonymize=True,
            deterministic_uids=True,
        )
    error: BaseException = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error)
    assert isinstance(error, ValueError) and "anonymize with deterministic_uids needs a secret of your own" in message
    found = f"holds {len(secret)} characters, fewer than 32" if (secret or "").strip() else "is not set"
    assert f"the environment variable {SECRET} {found}" in message
    assert not (secret or "").strip() or secret not in message
    assert not (tmp_path / "out").exists()
    (code,) = re.findall(r'python -c "(.*)"', message)
    printed = []
    exec(code, {"print": printed.append})
    monkeypatch.setenv(SECRET, printed[0])
    assert DicomWriter(tmp_path, anonymize=True, deterministic_uids=True).anonymise.secret == printed[0]


@pytest.mark.parametrize("options", [{"anonymize": True}, {"deterministic_uids": True}, {}])
def test_either_alone_needs_none(options, tmp_path, monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    DicomWriter(tmp_path, KINDS, **options)


def test_the_secret_is_in_nothing_that_a_run_says_or_writes(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv(SECRET, OWN)
    ds = pydicom.dcmread(named("MR_small.dcm"))
    ds.BodyPartExamined = "HEAD"
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "x.dcm")
    with caplog.at_level(logging.DEBUG):
        monai.bundle.run(
            config_file=str(Path(root()) / "configs" / "inference.json"),
            dataset_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / "out"),
            anonymize=True,
            deterministic_uids=True,
            gate=False,
        )
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len([p for p in written if p.suffix == ".dcm"]) == 3
    said = capfd.readouterr()
    writer = DicomWriter(tmp_path, anonymize=True, deterministic_uids=True)
    assert OWN not in caplog.text + said.out + said.err + repr(writer) + repr(writer.anonymise)
    assert not any(OWN.encode() in p.read_bytes() or OWN in str(p) for p in written)
    assert OWN.encode() in pickle.dumps(writer)  # it would be seen where it is
