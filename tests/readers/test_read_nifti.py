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


def grid(shape, sizes=(1.0, 2.0, 3.0)):
    """Return a RAS volume of given shape whose voxels know their place."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return nib.Nifti1Image(values, np.diag([*sizes, 1.0]))


def turned(image, codes):
    return image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5], ids="".join)
@pytest.mark.parametrize("more", [(), (1,), (1, 1)])
def test_one_slice_is_shown_as_it_is_inside_its_volume(codes, more, tmp_path):
    volume = grid((6, 8, 5))
    whole = nifti.read(source_of(volume, tmp_path / "v.nii"))
    stored = turned(volume.slicer[:, :, 2:3], codes)
    data = np.asarray(stored.dataobj).reshape(*stored.shape, *more)
    source = source_of(nib.Nifti1Image(data, stored.affine), tmp_path / "one.nii")
    (piece,) = nifti.read(source)
    np.testing.assert_array_equal(piece.pixels, whole[2].pixels)
    assert piece.spacing == whole[2].spacing
    written = nib.load(write_nifti_map(piece.origin, piece.pixels[None], tmp_path / "map.nii"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


def test_one_slice_without_thickness_is_oriented_too(tmp_path):
    affine = np.diag([1.0, 2.0, 0.0, 1.0])
    image = nib.Nifti1Image(np.arange(12, dtype=np.float32).reshape(3, 4, 1), np.eye(4))
    image.set_sform(affine, code=1, update_affine=False)
    image.set_qform(None, code=0, update_affine=False)
    for axis, row in zip("xyz", affine, strict=False):
        image.header[f"srow_{axis}"] = row
    image.header["vox_offset"] = 352
    (tmp_path / "v.nii").write_bytes(
        image.header.binaryblock + bytes(4) + np.arange(12, dtype=np.float32).reshape(3, 4, 1).tobytes(order="F")
    )
    (piece,) = nifti.read(Source("nifti", (tmp_path / "v.nii",), "v", 1))
    np.testing.assert_array_equal(piece.pixels, np.arange(12).reshape(3, 4)[::-1, ::-1].T)


@pytest.mark.parametrize("codes", ORIENTATIONS[::3], ids="".join)
@pytest.mark.parametrize(
    ("shape", "sizes", "plane", "show"),
    [
        ((6, 4, 8), (1, 9, 1), "coronal", lambda v, k: v[::-1, v.shape[1] - 1 - k, ::-1].T),
        ((4, 6, 8), (5, 1, 2), "sagittal", lambda v, k: v[v.shape[0] - 1 - k, ::-1, ::-1].T),
        ((6, 1, 8), (1, 1, 1), "coronal", lambda v, k: v[::-1, 0, ::-1].T),
        ((1, 6, 8), (1, 1, 3), "sagittal", lambda v, k: v[0, ::-1, ::-1].T),
        ((6, 4, 8), (1, 1.5, 1), "axial", lambda v, k: v[::-1, ::-1, k].T),
        ((6, 4, 8), (1, 1, 9), "axial", lambda v, k: v[::-1, ::-1, k].T),
    ],
)
def test_a_thick_stack_is_cut_as_it_was_scanned(shape, sizes, plane, show, codes, tmp_path):
    volume = grid(shape, sizes)
    source = source_of(turned(volume, codes), tmp_path / "v.nii")
    pieces = nifti.read(source)
    values = volume.get_fdata()
    for k, piece in enumerate(pieces):
        np.testing.assert_array_equal(piece.pixels, show(values, k))
    image = nib.load(source.paths[0])
    assert nifti.plane_of(image) == plane
    assert nifti.ascends(image) == (plane == "axial")
    assert [plane in note for note in nifti.notes_of(image)] == ([] if plane == "axial" else [True])
    written = nib.load(write_nifti_map(pieces[0].origin, np.stack([p.pixels for p in pieces]), tmp_path / "map.nii"))
    np.testing.assert_array_equal(written.get_fdata(), image.get_fdata())


def test_a_file_without_orientation_is_read_by_a_stated_convention(tmp_path):
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(values, None, header)
    image.header["qform_code"] = image.header["sform_code"] = 0
    source = source_of(image, tmp_path / "v.nii")
    for k, piece in enumerate(nifti.read(source)):
        np.testing.assert_array_equal(piece.pixels, values[:, ::-1, k].T)  # columns to the left, rows to the back
    (note,) = nifti.notes_of(nifti.load(source.paths[0]))
    assert note.startswith("the file states no orientation (qform_code and sform_code are 0)")
    assert nifti.notes_of(ras_volume()) == ()


def test_values_beyond_float32_are_refused_and_infinite_ones_filled(tmp_path):
    huge = np.full((3, 3, 3), 5.0)
    huge[1, 1, 1] = 1e300
    with pytest.raises(ReadError, match=r"values beyond 3\.4e38"):
        nifti.read(source_of(nib.Nifti1Image(huge, np.eye(4)), tmp_path / "v.nii"))
    huge[1, 1, 1] = np.inf
    pieces = nifti.read(source_of(nib.Nifti1Image(huge, np.eye(4)), tmp_path / "v.nii"))
    assert {float(p.pixels.max()) for p in pieces} == {5.0}


def stored(tmp_path, q=None, s=None, **fields):
    """Return the notes of a RAS volume whose header was changed, read back from its file."""
    image = nib.Nifti1Image(np.arange(480, dtype=np.int16).reshape(6, 8, 10), np.eye(4))
    if q is not None or s is not None:
        image.set_qform(q, int(q is not None))
        image.set_sform(s, int(s is not None))
    nib.save(image, tmp_path / "v.nii")
    content = bytearray((tmp_path / "v.nii").read_bytes())
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)
    for field, value in fields.items():
        header[field][0] = value
    (tmp_path / "v.nii").write_bytes(content)
    return nifti.notes_of(nifti.load(tmp_path / "v.nii"))


def turning(axis, degrees):
    """Return the affine of voxels of 1 mm turned about an axis of the patient."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine, (a, b) = np.eye(4), [k for k in range(3) if k != axis]
    affine[a, a], affine[a, b], affine[b, a], affine[b, b] = cos, -sin, sin, cos
    return affine


@pytest.mark.parametrize(
    ("q", "s", "disagree"),
    [
        (np.eye(4), np.eye(4), False),
        (np.eye(4), turning(2, 20), False),
        (np.eye(4), np.diag([1.2, 1.2, 1.2, 1]), False),  # registered
        (np.diag([-1, 1, 1, 1]), np.eye(4), True),
        (np.eye(4), turning(0, 90), True),
        (None, turning(0, 20), False),
        (turning(0, 20), None, False),
    ],
)
def test_two_orientations_that_disagree_are_noted(q, s, disagree, tmp_path):
    notes = stored(tmp_path, q=q, s=s)
    assert [note.startswith("qform and sform disagree") for note in notes] == [True] * disagree


@pytest.mark.parametrize(
    ("axis", "degrees", "said"),
    [(0, 30, None), (0, 42, "oblique slices"), (2, 30, None), (2, 42, "turned or mirrored: rows"), (2, 90, None)],
)
def test_slices_that_no_whole_axis_turns_right_are_noted(axis, degrees, said, tmp_path):
    notes = stored(tmp_path, q=None, s=turning(axis, degrees))
    assert len(notes) == (said is not None) and all(note.startswith(said) for note in notes)


def test_negative_voxel_sizes_are_refused_where_they_count(tmp_path):
    sizes = np.array([1, -1, 1, 1, 0, 0, 0, 0], np.float32)
    with pytest.raises(ReadError, match=r"voxel sizes \(pixdim\) are negative"):
        stored(tmp_path, q=np.eye(4), pixdim=sizes)
    assert stored(tmp_path, s=np.eye(4), pixdim=sizes) == ()  # the sform does not use them


def test_contents_that_are_no_image_are_noted(tmp_path):
    (note,) = stored(tmp_path, intent_code=1002)
    assert note.endswith("(intent code 1002, label)")
    (note,) = stored(tmp_path, intent_code=77)
    assert note.endswith("(intent code 77, unknown)")


@pytest.mark.parametrize("offset", [0, 16, 347])
def test_values_that_begin_inside_the_header_are_refused(offset, tmp_path):
    with pytest.raises(ReadError, match=rf"begin at byte {offset} \(vox_offset\), inside the header|too low"):
        stored(tmp_path, vox_offset=offset)
