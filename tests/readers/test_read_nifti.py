"""NIfTI slices and the way back: every stored orientation, checked by voxels that know their own place."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from invad_med.data.slices import ReadError, Source
from invad_med.readers import nifti
from invad_med.writers.nifti import write_nifti_map

SHAPE = (5, 7, 9)  # of the RAS volume; all sizes differ


def ras_volume() -> nib.Nifti1Image:
    """Return a volume whose value at a voxel is 100 i + 10 j + k, with 1 x 2 x 3 mm voxels and a shifted origin."""
    i, j, k = np.indices(SHAPE)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-20, 5, 30)
    return nib.Nifti1Image((100 * i + 10 * j + k).astype(np.float32), affine)


def stored_as(codes: tuple[str, ...]) -> nib.Nifti1Image:
    ras = ras_volume()
    return ras.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))


def source_of(image: nib.Nifti1Image, path) -> Source:
    nib.save(image, path)
    return Source("nifti", (path,), "case", nifti.count_slices(path))


ORIENTATIONS = [codes for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)]


@pytest.mark.parametrize("codes", ORIENTATIONS, ids="".join)
def test_every_orientation_displays_alike_and_goes_back_exactly(codes, tmp_path):
    source = source_of(stored_as(codes), tmp_path / "v.nii.gz")
    slices = nifti.read(source)
    # Display: slice k of S, row from anterior (largest j), column from the patient's right (largest i).
    values = ras_volume().get_fdata()
    for k, piece in enumerate(slices):
        np.testing.assert_array_equal(piece.pixels, values[::-1, ::-1, k].T)
        assert piece.spacing == pytest.approx((2.0, 1.0))
        assert (piece.index, piece.unit) == (k, "stored")
    assert len(slices) == source.n_slices == SHAPE[2]

    maps = np.stack([s.pixels for s in slices])
    written = nib.load(write_nifti_map(slices[0].origin, maps, tmp_path / "map.nii.gz"))
    original = nib.load(source.paths[0])
    np.testing.assert_array_equal(written.get_fdata(), original.get_fdata())
    np.testing.assert_array_equal(written.affine, original.affine)
    assert written.shape == original.shape
    assert written.get_data_dtype() == np.float32
    for code in ("qform_code", "sform_code", "xyzt_units"):
        assert written.header[code] == original.header[code]


def test_an_oblique_sagittal_volume_keeps_its_affine(tmp_path):
    sagittal = stored_as(("A", "S", "R"))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    source = source_of(nib.Nifti1Image(np.asarray(sagittal.dataobj), turn @ sagittal.affine), tmp_path / "v.nii")
    slices = nifti.read(source)
    maps = np.stack([s.pixels for s in slices])
    written = nib.load(write_nifti_map(slices[0].origin, maps, tmp_path / "map.nii.gz"))
    np.testing.assert_allclose(written.affine, turn @ sagittal.affine, atol=1e-5)
    np.testing.assert_array_equal(written.get_fdata(), sagittal.get_fdata())


def test_two_dimensions_stay_two(tmp_path):
    flat = nib.Nifti1Image(np.arange(12, dtype=np.float32).reshape(3, 4), np.eye(4))
    source = source_of(flat, tmp_path / "flat.nii")
    (piece,) = nifti.read(source)
    assert piece.pixels.shape == (4, 3)
    written = nib.load(write_nifti_map(piece.origin, piece.pixels[None], tmp_path / "map.nii"))
    assert written.shape == (3, 4)
    np.testing.assert_array_equal(written.get_fdata(), flat.get_fdata())


def test_scaling_is_applied_and_holes_are_filled(tmp_path):
    voxels = np.ones((3, 3, 3), dtype=np.float32)
    voxels[0, 0, 0], voxels[1, 1, 1] = np.nan, -4.0
    source = source_of(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii")
    assert min(s.pixels.min() for s in nifti.read(source)) == -4.0
    scaled = nib.Nifti1Image(np.full((2, 2, 2), 3, dtype=np.int16), np.eye(4))
    scaled.header.set_slope_inter(2.0, 10.0)
    source = source_of(scaled, tmp_path / "s.nii")
    assert nifti.read(source)[0].pixels.max() == 16.0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), r"4-D NIfTI .* split it into 3-D volumes"),
        (nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), np.eye(4)), "complex values"),
    ],
)
def test_what_is_not_a_volume_is_refused(image, message, tmp_path):
    nib.save(image, tmp_path / "v.nii")
    with pytest.raises(ReadError, match=message):
        nifti.count_slices(tmp_path / "v.nii")


def test_damaged_files_give_a_reason_without_a_path(tmp_path):
    path = tmp_path / "smith_john.nii.gz"
    source = source_of(ras_volume(), path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ReadError) as caught:
        nifti.read(source)
    assert "smith" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(ReadError, match="empty file"):
        nifti.count_slices(path)


def test_a_map_of_another_shape_is_refused_and_nothing_is_left(tmp_path):
    source = source_of(ras_volume(), tmp_path / "v.nii")
    with pytest.raises(ValueError, match=r"maps of shape \(9, 5, 7\), but the source has slices, rows, columns \(9, 7"):
        write_nifti_map(nifti.read(source)[0].origin, np.zeros((9, 5, 7)), tmp_path / "map.nii")
    assert [p.name for p in tmp_path.iterdir()] == ["v.nii"]
