"""The shipped sample images are what their README and lesions.json say."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from data_prep.sample import CHEST, COPIED, shipped_dicom

SAMPLE = Path(__file__).parents[2] / "bundles" / "invad" / "sample"
STATED = json.loads((SAMPLE / "phantom" / "lesions.json").read_text())


def shade(image, centre):
    """How much brighter a disc of 3 pixels is than the tissue 12 to 20 pixels from its centre."""
    image = image.astype(float)
    rows, columns = np.indices(image.shape)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return np.median(image[distance <= 3]) - np.median(image[(distance >= 12) & (distance <= 20) & (image > 0)])


def test_every_phantom_file_is_stated_and_none_else():
    assert {p.name for p in (SAMPLE / "phantom").iterdir()} == {*STATED, "lesions.json"}
    for name, lesions in STATED.items():
        assert bool(lesions) == name.startswith("lesion")


def test_slices_show_the_stated_lesions():
    for path in sorted((SAMPLE / "phantom").glob("*.png")):
        image = np.asarray(Image.open(path))
        assert (image.shape, image.dtype) == ((256, 256), np.uint8)
        for lesion in STATED[path.name]:
            assert np.sign(shade(image, lesion["centre_row_column"])) == np.sign(lesion["contrast"]), path.name


def test_both_signs_of_contrast_are_there():
    for name in ("lesions_t1.nii.gz", "*.png"):
        found = [k["contrast"] for f in (SAMPLE / "phantom").glob(name) for k in STATED[f.name]]
        assert min(found) < 0 < max(found)


def test_it_stays_small():
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*") if p.is_file()) < 6 * 2**20


@pytest.mark.parametrize(
    ("name", "copy"), [(CHEST, "chest/chest_cr.dcm"), *((k, f"dicom/{v}") for k, v in COPIED.items())]
)
def test_clinical_files_are_the_packages_own(name, copy):
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert digest(SAMPLE / copy) == digest(shipped_dicom(name))
    assert pydicom.dcmread(SAMPLE / copy).pixel_array.ndim == 2


def test_the_chest_film_is_drawn_bone_bright():
    film = pydicom.dcmread(SAMPLE / "chest" / "chest_cr.dcm")
    assert film.PhotometricInterpretation == "MONOCHROME1"
    drawn = np.asarray(Image.open(SAMPLE / "chest" / "chest_cr.png")).astype(float)
    stored = np.asarray(Image.fromarray(film.pixel_array.astype(np.float32)).resize(drawn.shape[::-1]))
    assert np.corrcoef(drawn.ravel(), stored.ravel())[0, 1] < -0.9


def test_volumes_hold_the_stated_lesions():
    healthy = nib.load(SAMPLE / "phantom" / "healthy_t1.nii.gz")
    abnormal = nib.load(SAMPLE / "phantom" / "lesions_t1.nii.gz")
    assert healthy.shape == abnormal.shape
    np.testing.assert_array_equal(healthy.affine, abnormal.affine)
    assert STATED["healthy_t1.nii.gz"] == []
    assert len(STATED["lesions_t1.nii.gz"]) == 2
    for lesion in STATED["lesions_t1.nii.gz"]:
        voxel = np.linalg.inv(abnormal.affine) @ [*lesion["centre_ras_mm"], 1.0]
        np.testing.assert_allclose(voxel[:3], lesion["centre_voxel"], atol=0.02)
        assert all(-0.5 <= v < n for v, n in zip(voxel[:3], abnormal.shape, strict=True))


def test_the_made_dicom_has_geometry_and_no_patient():
    made = pydicom.dcmread(SAMPLE / "phantom" / "lesion_mr.dcm")
    assert str(made.PatientName) == "SYNTHETIC"
    assert (made.Modality, made.BodyPartExamined) == ("MR", "BRAIN")
    (lesion,) = STATED["lesion_mr.dcm"]
    darkness = shade(made.pixel_array, lesion["centre_row_column"])
    assert np.sign(darkness) == np.sign(lesion["contrast"])
    row, column = lesion["centre_row_column"]
    x, y, _ = made.ImagePositionPatient
    assert (-(x + column), -(y + row)) == pytest.approx(tuple(lesion["centre_ras_mm"][:2]), abs=0.02)
