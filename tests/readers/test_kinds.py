"""Every file is read, listed with a reason, or counted by its kind, whatever its name."""

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_results import named
from PIL import Image

from invad_med.readers.sources import read_slice, scan

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard


def contents():
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    result = {}
    for name in ("PNG", "JPEG", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, format=name)
        result[name] = buffer.getvalue()
    result["DICOM"] = named("CT_small.dcm").read_bytes()
    result["NIfTI"] = nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)).to_bytes()
    result["NIfTI-2"] = nib.Nifti2Image(np.ones((9, 9, 9), np.float32), np.eye(4)).to_bytes()
    return result


CONTENTS = contents()


def scanned(folder, name, content):
    (folder / "beside.png").write_bytes(CONTENTS["PNG"])
    (folder / name).write_bytes(content)
    found = scan(folder)
    sources = [s for s in found.sources if s.paths[0].name == name]
    reasons = [p.reason for p in found.problems if p.path.name == name]
    assert len(sources) + len(reasons) + sum(found.ignored.values()) == 1
    return (sources or [None])[0], (reasons or [None])[0], dict(found.ignored)


NAMES = (
    "scan scan.001 scan.bak scan.db scan.gz scan.lock scan.log scan.nii scan.nrrd scan.png scan.pt scan.tif scan.zip"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_dicom_is_read_under_any_name(name, tmp_path):
    source, _, _ = scanned(tmp_path, name, CONTENTS["DICOM"])
    assert source is not None and source.kind == "dicom"
    assert read_slice(source, 0).unit == "HU"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("name", ["x.txt", "x.dat", "x", "x.dcm", "x.log", "x.0001", "x.bin"])
def test_pictures_are_read_under_any_name(format, name, tmp_path):
    source, reason, _ = scanned(tmp_path, name, CONTENTS[format])
    if format == "TIFF" and name in ("x.dat", "x.bin"):  # many raw and slide formats are TIFF inside
        assert reason.endswith(
            "files are not read; convert it to one of PNG, JPEG, TIFF, NIfTI (.nii, .nii.gz) and DICOM"
        )
    else:
        assert source.kind == "raster" and read_slice(source, 0).pixels.shape == (16, 16)


@pytest.mark.parametrize("format", ["NIfTI", "NIfTI-2"])
@pytest.mark.parametrize("name", ["T1.nii (1)", "T1.dat", "T1", "T1.img", "T1.txt", "T1.dcm"])
def test_nifti_under_another_name_is_listed(format, name, tmp_path):
    _, reason, _ = scanned(tmp_path, name, CONTENTS[format])
    assert reason == "NIfTI under a name that ends in neither .nii nor .nii.gz; rename it"


@pytest.mark.parametrize("name", ["T1.nii (1).gz", "T1.gz", "T1", "T1.nii.gz.bak", "T1.zip", "T1.dcm"])
@pytest.mark.parametrize("format", ["NIfTI", "DICOM", "PNG", "TIFF"])
def test_compressed_images_are_listed(format, name, tmp_path):
    _, reason, _ = scanned(tmp_path, name, gzip.compress(CONTENTS[format], mtime=0))
    assert reason.startswith(f"{format} compressed with gzip; ")


def test_a_pair_of_header_and_image_is_listed(tmp_path):
    nib.save(nib.Nifti1Pair(np.ones((9, 9, 9), np.float32), np.eye(4)), tmp_path / "a.hdr")
    found = scan(tmp_path)
    assert {p.path.name: p.reason[:25] for p in found.problems} == {
        "a.hdr": "NIfTI as a pair of files ",
        "a.img": "IMG files are not read; c",
    }


def packed(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.dcm", CONTENTS["DICOM"])
    else:
        with tarfile.open(
            fileobj=buffer, mode="w:gz" if kind == "tgz" else "w:xz" if kind == "txz" else "w"
        ) as archive:
            info = tarfile.TarInfo("a.dcm")
            info.size = len(CONTENTS["DICOM"])
            archive.addfile(info, io.BytesIO(CONTENTS["DICOM"]))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("a.zip", "zip", "ZIP"), ("scan.nii.gz.zip", "zip", "ZIP"), ("a", "zip", "ZIP"), ("a.tar", "tar", "TAR"),
        ("a.tar.gz", "tgz", "TAR"), ("a.tgz", "tgz", "TAR"), ("a.tar.xz", "txz", "xz"), ("export.study", "zip", "ZIP"),
    ],
)  # fmt: skip
def test_archives_are_counted_as_not_opened(name, kind, said, tmp_path):
    assert scanned(tmp_path, name, packed(kind)) == (None, None, {f"{said} archive, not opened": 1})


@pytest.mark.parametrize("name", ["study.dcm", "study.png"])
def test_an_archive_under_the_name_of_an_image_is_listed(name, tmp_path):
    _, reason, _ = scanned(tmp_path, name, packed("zip"))
    assert reason == "ZIP archive under the name of an image; unpack it first"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", b"words", ".txt file"), ("README", b"words", "file without ending"), ("a.csv", b"", ".csv file"),
        ("a.npz", b"PK\x03\x04....", ".npz file"),
        ("notes.txt.gz", gzip.compress(b"words", mtime=0), "gzip archive, not opened"),
        (".hidden.png", b"words", "hidden file or folder"), ("a.7z", b"7z\xbc\xaf\x27\x1c", "7z archive, not opened"),
        ("broken.gz", b"\x1f\x8b\x08 no more", "gzip archive, not opened"), ("a.rar", b"", ".rar archive, not opened"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_counted_by_kind(name, content, kind, tmp_path):
    assert scanned(tmp_path, name, content) == (None, None, {kind: 1})
    assert scan(tmp_path).passed_over == f"1 {kind}"


def test_what_is_counted_is_said_where_nothing_else_is_there(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed("zip"))
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"\(1 \.txt file; 1 ZIP archive, not opened\)"):
        scan(tmp_path)


def test_a_shipped_volume_as_a_browser_saves_it(tmp_path):
    (phantom,) = (Path(__file__).parents[2] / "bundles/invad/sample").rglob("healthy_t1.nii.gz")
    shutil.copy(phantom, tmp_path / "T1.nii (1).gz")
    (problem,) = scan(tmp_path).problems
    assert problem.reason == "NIfTI compressed with gzip; rename it so that it ends in .nii.gz"
