"""Damaged headers cost their own file alone: it is listed once, quotes nothing of a patient and asks for no memory."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_made import write_frames, write_series
from dicom_results import named
from PIL import Image

from invad_med.data.contrast import NoContrast, judged
from invad_med.data.modalities import require_modality
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.readers import sources
from invad_med.readers.decoding import one_line
from invad_med.readers.dicom.apart import apart
from invad_med.readers.dicom.stored import planes_of
from invad_med.readers.sources import read_source, scan
from invad_med.writers.maps import write_map

pytestmark = pytest.mark.filterwarnings("ignore")


def nifti(path, shape=(20, 20, 2), **fields):
    """Write a volume of noise, then numbers over the bytes of its header: name -> (place, kind, value)."""
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    content = bytearray(nib.Nifti1Image(volume, np.eye(4)).to_bytes())
    for place, kind, value in fields.values():
        struct.pack_into(f"<{kind}", content, place, value)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def test_a_nifti_unit_that_no_one_defined_is_millimetres(tmp_path):
    nifti(tmp_path / "a.nii", units=(123, "B", 31))
    (source,) = scan(tmp_path).sources
    assert all(isinstance(p, Slice) and p.spacing == (1.0, 1.0) for p in read_source(source))


@pytest.mark.parametrize("value", [0, -1])
def test_a_nifti_file_without_voxels_is_listed(value, tmp_path):
    nifti(tmp_path / "a.nii", slices=(46, "h", value))
    (problem,) = scan(tmp_path).problems
    assert "in which there is no voxel" in problem.reason


def test_a_place_that_is_no_number_is_listed(tmp_path):
    nifti(tmp_path / "a.nii", shape=(20, 20), place=(280, "f", float("nan")), code=(254, "h", 1))
    (problem,) = scan(tmp_path).problems
    assert "affine of the NIfTI header is not finite" in problem.reason


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_more_slices_than_the_file_has_room_for_are_one_row(name, tmp_path):
    nifti(tmp_path / name, slices=(46, "h", 32767))
    (problem,) = scan(tmp_path).problems
    assert "for which the file is too short" in problem.reason


@pytest.mark.parametrize("frames", ["500", "99999999", "99999999999"])
def test_more_frames_than_the_file_has_room_for_are_one_row(frames, tmp_path):
    write_frames(tmp_path / "a.dcm", [(1, pydicom.Dataset()), (2, pydicom.Dataset())])
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    tag = pydicom.tag.Tag("NumberOfFrames")
    raw = (frames + " " * (len(frames) % 2)).encode()
    ds[tag] = pydicom.dataelem.RawDataElement(tag, "IS", len(raw), raw, 0, False, True)
    ds.save_as(tmp_path / "a.dcm")
    (problem,) = scan(tmp_path).problems
    assert problem.reason.startswith(f"header says {frames} frames, for which the file is too short")


def test_what_a_library_raises_costs_the_one_file(tmp_path, monkeypatch):
    nifti(tmp_path / "a.nii")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "b.png")

    def broken(*_):
        raise KeyError("Quixbury")

    with monkeypatch.context() as patch:
        patch.setattr(sources.nifti, "display_shape", broken)
        found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["b"]
    assert [p.reason for p in found.problems] == ["file cannot be read (KeyError)"]
    monkeypatch.setitem(sources._READERS, "raster", broken)
    (piece,) = read_source(found.sources[0])
    assert isinstance(piece, ReadError) and str(piece) == "file cannot be read (KeyError)"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Instead received b'Doe^Jane' with length 9", "Instead received ... with length 9"),
        ("could not convert string to float: 'Doe^Jane", "could not convert string to float: ..."),
        ("'ascii' codec can't decode byte 0xe4", "... codec can't decode byte 0xe4"),
        ("Expected 12 bytes, got 7", "Expected 12 bytes, got 7"),
    ],
)
def test_errors_of_libraries_are_shown_without_what_they_quote(said, shown):
    assert one_line(ValueError(said)) == shown


def identified(path, old, new):
    """Write a file of a patient called Quixbury with some bytes exchanged, and return what a run says of the folder."""
    ds = pydicom.dcmread(named("MR_small.dcm"))
    ds.PatientName, ds.PatientID = "Quixbury^Zephyrine", "771-039"
    ds.save_as(path)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    found = scan(path.parent)
    said = [p.reason for p in found.problems] + [f"{s.modality} {s.body_part} {s.name}" for s in found.sources]
    return " ".join([*said, *(str(p) for s in found.sources for p in read_source(s) if isinstance(p, ReadError))])


def test_a_name_under_a_damaged_type_is_not_quoted(tmp_path):
    said = identified(tmp_path / "a.dcm", b"\x10\0\x10\0PN\x12\0", b"\x10\0\x10\0FD\x12\0")
    assert "quixbury" not in said.casefold()


def test_a_code_whose_length_is_damaged_does_not_carry_the_name_along(tmp_path):
    ds = pydicom.dcmread(named("MR_small.dcm"), stop_before_pixels=True)
    assert ds.Modality == "MR"
    said = identified(tmp_path / "a.dcm", b"\x08\0\x60\0CS\x02\0MR", b"\x08\0\x60\0CS\0\x02MR")
    assert "quixbury" not in said.casefold() and "771-039" not in said


def test_a_dicomdir_under_another_name_is_counted(tmp_path):
    write_series(tmp_path, [(0, 1, {})])
    (tmp_path / "index").write_bytes(named("DICOMDIR").read_bytes())
    found = scan(tmp_path)
    assert (len(found.sources), dict(found.ignored)) == (1, {"DICOMDIR": 1})


@pytest.mark.parametrize(
    ("shape", "spacing", "reads"),
    [
        ((30000, 16), None, False),
        ((64, 64), (1e-5, 1.0), False),
        ((600, 16), None, True),
        ((64, 64), (0.5, 2.0), True),
    ],
)
def test_a_sliver_asks_for_no_more_memory_than_a_large_picture(shape, spacing, reads):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    piece = Slice(pixels, Source("raster", (), "a", 1), 0, "8bit", (0.0, 255.0), spacing)
    found = judged(piece, require_modality("brain"))
    assert (found is piece) == reads
    assert reads or (not isinstance(found, NoContrast) and "more than is read at once" in str(found))


def test_absurd_distances_count_as_unknown(tmp_path):
    write_series(tmp_path, [(0, 1, dict(SliceThickness="1e-300"))])
    (source,) = scan(tmp_path).sources
    pieces = read_source(source)
    (plane,) = planes_of(pieces)
    assert plane.thickness == 1.0
    assert write_map(source, pieces, np.ones((1, 16, 16), np.float32), tmp_path / "out").name.endswith(".nii.gz")
    (path,) = source.paths
    ds = pydicom.dcmread(path)
    ds.PixelSpacing = ["1e300", "1e-300"]
    ds.save_as(path)
    (piece,) = read_source(source)
    assert piece.spacing is None and planes_of([piece]) is None


def test_a_codec_that_ends_its_process_costs_its_file_alone(tmp_path, monkeypatch):
    from invad_med.readers.dicom import pixels

    for name in ("MR_small_RLE.dcm", "MR_small.dcm"):
        (tmp_path / name).write_bytes(named(name).read_bytes())
    decode = pixels.pixel_array
    monkeypatch.setattr(
        pixels,
        "pixel_array",
        lambda ds, **k: os.abort() if ds.file_meta.TransferSyntaxUID.is_compressed else decode(ds, **k),
    )
    pieces = {s.name: read_source(s)[0] for s in scan(tmp_path).sources}
    assert isinstance(pieces["MR_small"], Slice)
    assert str(pieces["MR_small_RLE"]) == "pixel data (RLE Lossless) is damaged or cut off"


def test_what_a_call_apart_returns_and_raises_comes_back():
    assert apart(lambda: np.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(NotImplementedError, match="none"):
        apart(lambda: (_ for _ in ()).throw(NotImplementedError("none")))
    with pytest.raises(RuntimeError, match="broke off"):
        apart(os.abort)
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        apart(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
