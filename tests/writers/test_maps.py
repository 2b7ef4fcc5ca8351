"""Maps in the input's geometry: DICOM against SimpleITK's physical points, NIfTI and rasters voxel by voxel."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image, ImageSequence
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from invad_med.data.slices import ReadError, Source
from invad_med.files import write_atomically
from invad_med.readers import nifti, spool
from invad_med.readers.sources import read_slice, read_source, scan
from invad_med.writers.maps import MapWriter, write_map
from invad_med.writers.naming import slice_path

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard

OBLIQUE = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.25, 1.0, 0.4], [0.1, -0.35, 1.0]]))[0].T  # row, column, normal


def series(folder, positions, orientation=OBLIQUE, shape=(12, 9), spacing=(0.7, 1.3), order=None):
    """Write slices at distances (mm) along the normal, each filled with its number along the normal."""
    folder.mkdir(exist_ok=True)
    template = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    template.SeriesInstanceUID = generate_uid()
    row, column = orientation[:2]
    normal = np.cross(row, column)
    for k in order or range(len(positions)):
        ds = template.copy()
        ds.Rows, ds.Columns = shape
        ds.PixelData = np.full(shape, k, np.int16).tobytes()
        ds.PixelSpacing = list(spacing)
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*row, *column)]
        at = np.array([-31.0, 17.5, 8.25]) + normal * positions[k] if np.isscalar(positions[k]) else positions[k]
        ds.ImagePositionPatient = [f"{v:.9f}" for v in at]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(folder / f"{len(list(folder.iterdir())):03d}.dcm")
    (source,) = scan(folder).sources
    return source


def lps(image, voxel):
    """Return a voxel's place as DICOM counts it."""
    x, y, z, _ = image.affine @ (*voxel, 1)
    return np.array([-x, -y, z])


def numbered(n, height, width):
    return np.arange(n * height * width, dtype=np.float32).reshape(n, height, width)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1]])
def test_a_series_is_placed_as_simpleitk_places_it(tmp_path, order):
    source = series(tmp_path / "s", [2.5 * k for k in range(5)], order=order)
    maps = numbered(5, 12, 9)
    written = nib.load(write_map(source, read_source(source), maps, tmp_path))
    reference = sitk.ReadImage([str(p) for p in source.paths])
    assert written.shape == reference.GetSize() == (9, 12, 5)
    assert written.get_data_dtype() == np.float32
    for voxel in [(0, 0, 0), (8, 0, 0), (0, 11, 0), (0, 0, 4), (3, 7, 2), (8, 11, 4)]:
        np.testing.assert_allclose(lps(written, voxel), reference.TransformIndexToPhysicalPoint(voxel), atol=1e-3)
        column, row, k = voxel
        assert written.get_fdata()[voxel] == maps[k, row, column]
        assert reference[voxel] == k == read_slice(source, k).pixels[row, column]
    assert (written.header["sform_code"], written.header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-3)
    assert written.header.get_xyzt_units()[0] == "mm"


def test_itk_opens_the_map_over_the_series(tmp_path):
    source = series(tmp_path / "s", [2.5 * k for k in range(5)])
    written = sitk.ReadImage(str(write_map(source, read_source(source), numbered(5, 12, 9), tmp_path)))
    reference = sitk.ReadImage([str(p) for p in source.paths])
    for voxel in [(0, 0, 0), (8, 11, 4)]:
        places = [image.TransformIndexToPhysicalPoint(voxel) for image in (written, reference)]
        np.testing.assert_allclose(*places, atol=1e-3)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_a_single_file_is_placed_as_simpleitk_places_it(tmp_path, name):
    path = Path(get_testdata_file(name, download=False))
    (source,) = scan(path).sources
    reference = sitk.ReadImage(str(path))
    width, height, _ = reference.GetSize()
    out = write_map(source, read_source(source), numbered(1, height, width), tmp_path)
    assert out == tmp_path / "maps" / f"{source.name}.nii.gz"
    written = nib.load(out)
    for voxel in [(0, 0, 0), (width - 1, 0, 0), (0, height - 1, 0)]:
        np.testing.assert_allclose(lps(written, voxel), reference.TransformIndexToPhysicalPoint(voxel), atol=1e-3)
    thickness = np.linalg.norm(written.affine[:3, 2])
    assert thickness == pytest.approx(float(pydicom.dcmread(path).SliceThickness), rel=1e-4)


@pytest.mark.parametrize("off", [0.009, 0.02])
def test_small_deviations_are_one_volume_and_larger_ones_are_not(tmp_path, off):
    source = series(tmp_path / "s", [0, 1, 2 + off, 3])
    written = write_map(source, read_source(source), numbered(4, 12, 9), tmp_path)
    assert isinstance(written, list) == (off > 0.01)


def test_a_gap_gives_one_file_per_slice(tmp_path):
    source, maps = series(tmp_path / "s", [0.0, 2.0, 7.0]), numbered(3, 12, 9)
    paths = write_map(source, read_source(source), maps, tmp_path)
    assert paths == [tmp_path / "maps" / f"{source.name}_s{k:03d}.nii.gz" for k in range(3)]
    for k, path in enumerate(paths):
        written, reference = nib.load(path), sitk.ReadImage(str(source.paths[k]))
        np.testing.assert_array_equal(written.get_fdata()[..., 0].T, maps[k])
        np.testing.assert_allclose(
            lps(written, (5, 3, 0)), reference.TransformIndexToPhysicalPoint((5, 3, 0)), atol=1e-3
        )


def test_a_tilted_gantry_gives_one_file_per_slice(tmp_path):
    normal = np.cross(OBLIQUE[0], OBLIQUE[1])
    positions = [k * (2.0 * normal + 0.3 * OBLIQUE[1]) for k in range(3)]
    source = series(tmp_path / "s", positions)
    assert len(write_map(source, read_source(source), numbered(3, 12, 9), tmp_path)) == 3


@pytest.mark.parametrize("lost", [0, 2, 4])
@pytest.mark.parametrize("header", [True, False])
def test_a_slice_that_cannot_be_read_keeps_its_place_in_the_volume(tmp_path, lost, header):
    source = series(tmp_path / "s", [2.5 * k for k in range(5)])
    whole = nib.load(write_map(source, read_source(source), numbered(5, 12, 9), tmp_path / "whole"))
    content = source.paths[lost].read_bytes()
    source.paths[lost].write_bytes(content[: content.rindex(b"\xe0\x7f\x10\x00") + 50] if header else b"")
    pieces = read_source(source)
    assert [k for k, piece in enumerate(pieces) if isinstance(piece, ReadError)] == [lost]
    maps = numbered(5, 12, 9)
    maps[lost] = np.nan
    written = nib.load(write_map(source, pieces, maps, tmp_path / "rest"))
    np.testing.assert_allclose(written.affine, whole.affine, atol=1e-4)
    np.testing.assert_array_equal(written.get_fdata(), np.nan_to_num(maps).transpose(2, 1, 0))


def enhanced(path, distances):
    """Write an enhanced object whose frames lie at these distances along z, stored in this order."""
    ds = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, len(distances)
    ds.PixelData = np.concatenate([np.full((4, 6), d, np.int16) for d in distances]).tobytes()
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 9.0
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for d in distances:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [10, 20, d]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.save_as(path)
    (source,) = scan(path).sources
    return source


def test_frames_of_an_enhanced_object_are_placed_in_the_order_they_are_read(tmp_path):
    source = enhanced(tmp_path / "e.dcm", [8, 2, 5])
    assert [read_slice(source, k).pixels[0, 0] for k in range(3)] == [2, 5, 8]
    written = nib.load(write_map(source, read_source(source), numbered(3, 4, 6), tmp_path))
    np.testing.assert_allclose(lps(written, (0, 0, 0)), (10, 20, 2))
    np.testing.assert_allclose(lps(written, (5, 3, 2)), (10 + 5 * 0.25, 20 + 3 * 0.5, 8))


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_dicom_without_geometry_becomes_tiff(tmp_path, missing):
    ds = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    delattr(ds, missing)
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    path = write_map(source, read_source(source), numbered(1, 64, 64), tmp_path)
    assert path == tmp_path / "maps" / "x.tif"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), numbered(1, 64, 64)[0])


def test_pages_of_a_tiff_and_slices_not_scored(tmp_path):
    maps = numbered(3, 5, 7) / 7
    maps[1] = np.nan
    path = write_map(Source("raster", (tmp_path / "in.tif",), "a/b.tif", 3), [], maps, tmp_path)
    assert path == tmp_path / "maps" / "a" / "b.tif.tif"
    pages = [np.array(page) for page in ImageSequence.Iterator(Image.open(path))]
    assert [p.dtype for p in pages] == [np.float32] * 3
    np.testing.assert_array_equal(pages, np.nan_to_num(maps))


def test_nifti_keeps_its_grid(tmp_path):
    affine = np.array([[0, 0, 2.0, -5], [0, 1.5, 0, 9], [-1, 0, 0, 3], [0, 0, 0, 1]])  # stored sagittally
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), affine), tmp_path / "v.nii.gz")
    source = Source("nifti", (tmp_path / "v.nii.gz",), "in/v", nifti.count_slices(tmp_path / "v.nii.gz"))
    maps = numbered(5, 6, 7)
    written = nib.load(write_map(source, read_source(source), maps, tmp_path / "out"))
    assert written.get_filename() == str(tmp_path / "out" / "maps" / "in" / "v.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    assert written.shape == (5, 6, 7)
    # Display slice 1, row 2, column 3 is 1 from inferior, 2 from anterior, 3 from the patient's right.
    right, anterior, inferior = -5 + 2.0 * 6, 9 + 1.5 * 5, 3 - 4
    np.testing.assert_array_equal(
        written.affine @ (*np.argwhere(written.get_fdata() == maps[1, 2, 3])[0], 1),
        (right - 3 * 2.0, anterior - 2 * 1.5, inferior + 1, 1),
    )


def test_nothing_of_the_patient_is_written(tmp_path):
    source = series(tmp_path / "s", [0, 1, 2])
    ds = pydicom.dcmread(source.paths[0])
    header = bytes(nib.load(write_map(source, read_source(source), numbered(3, 12, 9), tmp_path)).header.binaryblock)
    for word in (str(ds.PatientName), str(ds.PatientID)):
        assert word and word.encode() not in header


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for source in (series(tmp_path / "s", [0, 1, 2]), Source("raster", (tmp_path / "x.png",), "x", 3)):
        with pytest.raises(OSError, match="No space"):
            write_map(source, read_source(source), numbered(3, 12, 9), tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_what_does_not_fit_is_refused(tmp_path):
    source = Source("raster", (tmp_path / "x.png",), "x", 3)
    with pytest.raises(ValueError, match=r"maps of shape \(2, 4, 4\), but the source has 3 slice\(s\): \(N, H, W\)"):
        write_map(source, read_source(source), numbered(2, 4, 4), tmp_path)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        write_map(source, [], np.zeros((3, 4)), tmp_path)


def test_a_map_needs_no_file_of_its_source(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    for source in (series(tmp_path / "s", [0, 1, 2]), *scan(tmp_path / "v.nii.gz").sources):
        pieces = read_source(source)
        for path in source.paths:
            path.unlink()
        maps = np.ones((len(pieces), *pieces[0].pixels.shape), np.float32)
        assert write_map(source, pieces, maps, tmp_path / "out").is_file()


def test_a_name_as_long_as_the_file_system_allows_is_shortened_by_a_digest(tmp_path):
    names = [f"a/{'语' * 83}{end}" for end in "12"]  # 250 bytes
    maps = numbered(1, 4, 4)
    paths = [write_map(Source("raster", (), name, 1), [], maps, tmp_path) for name in names]
    assert [path.name for path in paths] == [f"{name[2:]}.tif" for name in names]
    paths = [slice_path(tmp_path, Source("raster", (), name, 2), 1, ".nii.gz") for name in names]
    assert len({path.name for path in paths}) == 2
    for path, name in zip(paths, names, strict=True):
        assert len(path.name.encode()) <= 255 and path.parent == tmp_path / "a"
        assert path.name.endswith("_s001.nii.gz") and path.name[:70] == name[2:72]
        write_atomically(path, b"")


@pytest.mark.parametrize("kind", ["series", "gap", "axial", "sagittal", "backwards", "pages"])
@pytest.mark.parametrize("held", [0, spool.HELD])
def test_slices_may_come_one_by_one_in_any_order_and_some_not_at_all(tmp_path, monkeypatch, kind, held):
    if kind in ("series", "gap"):
        source = series(tmp_path / "s", [0, 1, 2, 3 if kind == "series" else 9])
    elif kind == "pages":
        source = Source("raster", (), "pages", 4)
    else:
        affine = {"axial": np.diag([-2, -2, 3, 1]), "backwards": np.diag([-2, -2, -3, 1])}.get(kind)
        if affine is None:
            affine = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
        stored = (5, 6, 4) if kind != "sagittal" else (6, 4, 5)
        nib.save(nib.Nifti1Image(np.zeros(stored, np.float32), affine), tmp_path / "v.nii")
        (source,) = scan(tmp_path / "v.nii").sources
    pieces = read_source(source) if kind != "pages" else [None] * 4
    shape = pieces[0].pixels.shape if pieces[0] else (5, 6)
    maps = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    maps[3] = np.nan
    expected = write_map(source, pieces, maps, tmp_path / "whole")
    expected = expected if isinstance(expected, list) else [expected]

    monkeypatch.setattr(spool, "HELD", held)
    writer = MapWriter(source, tmp_path / "out")
    for index in (1, 0, 2):
        writer.add(index, pieces[index], maps[index])
    if kind == "gap":
        writer.add(3, pieces[3], None)  # not scored, but it says where it lies
    assert kind == "gap" or not [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".gz", ".tif")]
    written = writer.finish()
    assert [p.name for p in written] == [p.name for p in expected]
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in expected]


def test_maps_that_are_abandoned_leave_nothing(tmp_path):
    for source in (series(tmp_path / "s", [0, 1, 2]), Source("raster", (), "x", 3)):
        pieces = read_source(source) if source.paths else [None] * 3
        writer = MapWriter(source, tmp_path / "out")
        assert writer.finish() == []  # nothing was scored
        writer.add(0, pieces[0], np.ones((12, 9), np.float32))
        assert [p.suffix for p in (tmp_path / "out" / "maps").iterdir()] == [".partial"]
        writer.abandon()
        assert not list((tmp_path / "out" / "maps").iterdir())


def test_a_page_of_several_strips_is_read_as_it_was(tmp_path):
    values = np.random.default_rng(0).random((700, 901), dtype=np.float32)
    path = write_map(Source("raster", (), "large", 1), [], values[None], tmp_path)
    with Image.open(path) as page:
        assert len(page.tag_v2[273]) > 1 and page.tag_v2[270] == "invad-med result, research use only"
        np.testing.assert_array_equal(np.asarray(page), values)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
