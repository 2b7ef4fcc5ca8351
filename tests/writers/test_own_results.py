"""A run's own results are never read as input, wherever they were copied to and whatever was taken off them."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_results import make_abdomen, make_dx, make_enhanced_mr, result_of
from PIL import Image
from pydicom.uid import generate_uid

from invad_med.readers.sources import read_slice, read_source, scan
from invad_med.writers.dicom.export import KINDS, DicomWriter
from invad_med.writers.heatmap import save_heatmap
from invad_med.writers.maps import write_map
from invad_med.writers.nifti import write_nifti_map
from invad_med.writers.overview import draw_overview

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard


def picture_results(folder, path):
    """Write all that a run writes of a PNG or NIfTI."""
    source = scan(path).sources[0]
    result = result_of(source)
    for prediction in result.predictions:
        save_heatmap(prediction, np.zeros(prediction.map.shape, np.float32), folder)
    write_map(source, read_source(source), np.stack([p.map for p in result.predictions]), folder)
    draw_overview([result.study], result.predictions, [], folder)


def test_pictures_and_maps_are_counted_as_results(tmp_path):
    import nibabel as nib

    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 3), np.float32), np.eye(4)), tmp_path / "v.nii")
    for name in ("a.png", "v.nii"):
        picture_results(tmp_path / "copied" / "elsewhere" / name, tmp_path / name)
    found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["a", "v"]
    files = [p for p in (tmp_path / "copied").rglob("*") if p.is_file()]
    assert found.results == len(files) == 8 and not found.problems
    for file in files:
        with pytest.raises(ValueError, match=r"no image found in .* \(1 result of earlier runs\)"):
            scan(file)


def test_a_nifti_map_of_a_dicom_series_is_a_result(tmp_path):
    source = make_abdomen(tmp_path / "in", slices=3)
    write_map(source, read_source(source), np.ones((3, 512, 512), np.float32), tmp_path / "out")
    (tmp_path / "in" / "map.nii.gz").write_bytes(next((tmp_path / "out").rglob("*.nii.gz")).read_bytes())
    found = scan(tmp_path / "in")
    assert (len(found.sources), found.results) == (1, 1)


def without_identity(ds):
    """Do what PS3.15's Basic Profile does to what could tell our objects."""
    for keyword in ("DerivationDescription", "ContributingEquipmentSequence", "SeriesDescription", "DeviceSerialNumber",
                    "ContentCreatorName", "SourceImageSequence", "PatientName", "PatientID"):  # fmt: skip
        if keyword in ds:
            delattr(ds, keyword)
    for element in ds.iterall():
        if element.VR == "UI" and "Class" not in element.keyword and "Syntax" not in element.keyword:
            element.value = generate_uid()
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x4000) in ds:
            del ds[group, 0x4000]
    ds.remove_private_tags()


@pytest.mark.parametrize("make", [make_dx, make_enhanced_mr, make_abdomen], ids=["DX", "enhanced MR", "CT"])
@pytest.mark.parametrize("change", [lambda ds: None, without_identity], ids=["as written", "without identity"])
def test_dicom_objects_are_results_whatever_is_removed(make, change, tmp_path):
    made = make(tmp_path / ("in" if make is make_abdomen else "in.dcm"), *([2] if make is make_abdomen else []))
    source = made if make is make_abdomen else scan(made).sources[0]
    outcome = DicomWriter(tmp_path / "out", KINDS)(result_of(source))
    images = 0
    for number, path in enumerate(outcome.written):
        ds = pydicom.dcmread(path)
        change(ds)
        ds.save_as(tmp_path / f"{number}.dcm")
        images += "PixelData" in ds
        with pytest.raises(ValueError, match=r"no image found in .* \(1 result of earlier runs\)"):
            scan(tmp_path / f"{number}.dcm")
    assert images >= 2


def test_images_of_others_are_no_results(tmp_path):
    make_abdomen(tmp_path / "in", slices=2)
    for path in (tmp_path / "in").iterdir():
        ds = pydicom.dcmread(path)
        ds.DerivationDescription, ds.Manufacturer = "RESEARCH USE ONLY, not for diagnosis", "invad"
        ds.save_as(path)
    (source,) = scan(tmp_path).sources
    assert source.n_slices == 2
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    shutil.rmtree(tmp_path / "in")
    assert read_slice(scan(tmp_path).sources[0], 0).pixels.shape == (16, 16)


def test_a_map_written_by_itself_is_a_result(tmp_path):
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "v.nii")
    (source,) = scan(tmp_path / "v.nii").sources
    grid = read_slice(source, 0).origin
    for name in ("m.nii", "m.nii.gz"):
        write_nifti_map(grid, np.ones((6, 5, 4), np.float32), tmp_path / name)
    assert scan(tmp_path).results == 2
