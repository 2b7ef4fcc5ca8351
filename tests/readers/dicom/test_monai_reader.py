"""`LoadImaged` with our reader, against SimpleITK's pixels and physical points."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImaged
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from invad_med.data.slices import ReadError
from invad_med.readers.dicom.monai_reader import DicomReader

pytestmark = pytest.mark.filterwarnings("ignore")


def write_series(folder, count=4, series=None):
    folder.mkdir(exist_ok=True)
    series = series or generate_uid()
    for k in range(count):
        ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        ds.SeriesInstanceUID, ds.SOPInstanceUID = series, generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.ImagePositionPatient = [-158, -179, 5 * k]
        ds.InstanceNumber = (3 * k) % 4  # not the spatial order
        ds.PixelData = (ds.pixel_array + k).tobytes()
        ds.save_as(folder / f"{series[-4:]}-{(3 * k) % 4}.dcm")
    return series


@pytest.mark.parametrize("give", [lambda folder: folder, lambda folder: sorted(folder.iterdir())])
def test_a_series_is_a_volume_in_its_place(tmp_path, give):
    write_series(tmp_path / "a")
    item = LoadImaged("image", reader=DicomReader(), ensure_channel_first=True)({"image": give(tmp_path / "a")})
    paths = sorted((tmp_path / "a").iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    reference = sitk.ReadImage([str(p) for p in paths])
    image = item["image"]
    assert image.shape == (1, *reference.GetSize())
    inside = sitk.GetArrayFromImage(reference).transpose(2, 1, 0)
    padding = inside == inside.min()
    np.testing.assert_array_equal(image[0].numpy()[~padding], inside[~padding])
    for voxel in [(0, 0, 0), (127, 5, 3), (3, 99, 2)]:
        x, y, z, _ = image.affine.numpy() @ (*voxel, 1)
        np.testing.assert_allclose((-x, -y, z), reference.TransformIndexToPhysicalPoint(voxel), atol=1e-3)


def test_one_file_and_colour_are_read(tmp_path):
    load = LoadImaged("image", reader=DicomReader(), ensure_channel_first=True)
    assert load({"image": get_testdata_file("CT_small.dcm", download=False)})["image"].shape == (1, 128, 128)
    assert load({"image": get_testdata_file("SC_rgb.dcm", download=False)})["image"].shape == (3, 100, 100)


def test_two_series_are_not_stacked(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a")
    load = LoadImaged("image", reader=DicomReader())
    with pytest.raises(ReadError, match=r"^2 DICOM series where one is expected"):
        load({"image": tmp_path / "a"})
