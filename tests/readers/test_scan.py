"""From folders of anything to sources and slices: order, names, reasons."""

import os
import pickle
import re
import shutil
import threading
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from invad_med.data.slices import ReadError
from invad_med.readers import sources
from invad_med.readers.decoding import without_warnings
from invad_med.readers.sources import SourceReader, read_slice, read_source, scan, whole_source
from invad_med.writers.naming import slice_path

pytestmark = pytest.mark.filterwarnings("ignore")  # the clinical files break small rules of the standard
SHARED = Path(os.environ.get("INVAD_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "data" / "raw"


def named(name):
    return Path(get_testdata_file(name, download=False))


def png(path, value=100, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def dicom(path, name="CT_small.dcm", **elements):
    """Save a copy of a pydicom test file with a UID of its own and other values; None deletes an element."""
    ds = pydicom.dcmread(named(name))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return ds


def series(folder, positions, uid, prefix="s", orientation=(1, 0, 0, 0, 1, 0), numbers=None):
    """Save a series whose slices hold their own place: value = rank of the position."""
    for i, z in enumerate(positions):
        pixels = np.full((128, 128), sorted(positions).index(z), np.int16)
        dicom(
            folder / f"{prefix}{i}",
            SeriesInstanceUID=uid,
            ImagePositionPatient=list(np.cross(orientation[:3], orientation[3:]) * z),
            ImageOrientationPatient=list(orientation),
            InstanceNumber=numbers[i] if numbers else i + 1,
            PixelData=pixels.tobytes(),
        )


def test_no_source_is_called_as_a_slice_of_another(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 20)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    for name in ("scan_s001", "scan_s002", "SCAN_s000", "other_s001"):
        png(tmp_path / f"{name}.png")
    names = [source.name for source in scan(tmp_path).sources]
    assert sorted(names) == ["SCAN_s000.png", "other_s001", "scan", "scan_s001.png", "scan_s002.png"]


def test_a_series_is_ordered_by_position_whatever_its_instance_numbers(tmp_path):
    uid = generate_uid()
    series(tmp_path, [5.0, 0.0, 17.5, 10.0], uid, numbers=[9, 3, 1, 3])
    (source,) = scan(tmp_path).sources
    assert re.fullmatch(r"series-[0-9a-f]{8}", source.name)
    assert (source.kind, source.n_slices, source.modality) == ("dicom", 4, "CT")
    values = [float(read_slice(source, i).pixels[0, 0]) + 1024 for i in range(4)]
    assert values == [0, 1, 2, 3]
    expected = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path), uid)
    assert [str(p) for p in source.paths] == list(expected)
    assert read_slice(source, 0).value_range == read_slice(source, 3).value_range == (-1024.0, -1021.0)


def test_two_series_and_a_localiser_are_not_stacked(tmp_path):
    first, second = generate_uid(), generate_uid()
    series(tmp_path / "p", [0.0, 5.0, 10.0], first, "a")
    series(tmp_path / "p", [0.0, 5.0], second, "b")
    series(tmp_path / "p", [0.0], first, "scout", orientation=(0, 1, 0, 0, 0, -1))
    found = scan(tmp_path)
    assert sorted(s.n_slices for s in found.sources if s.name.startswith("p/series-")) == [2, 3]
    assert [s.name for s in found.sources if s.n_slices == 1] == ["p/scout0"]
    assert not found.problems


def test_slices_at_one_position_and_files_without_geometry_stand_apart(tmp_path):
    uid = generate_uid()
    series(tmp_path, [0.0, 5.0, 10.0], uid, "a", numbers=[1, 2, 3])
    series(tmp_path, [0.0, 5.0, 10.0], uid, "b", numbers=[4, 5, 6])
    for name in ("x", "y"):
        dicom(tmp_path / f"{name}.dcm", SeriesInstanceUID=uid, ImagePositionPatient=None)
    found = scan(tmp_path).sources
    assert [(s.n_slices, s.name[-2:]) for s in found if s.n_slices > 1] == [(3, found[0].name[-2:]), (3, "-2")]
    assert [p.name for p in found[0].paths] == ["a0", "a1", "a2"]
    assert [s.name for s in found if s.n_slices == 1] == ["x", "y"]


def test_labels_in_folders_keep_the_slices_of_one_series_apart(tmp_path):
    uid = generate_uid()
    series(tmp_path / "good", [0.0, 5.0], uid)
    series(tmp_path / "Ungood", [10.0, 15.0], uid)
    assert [s.name.split("/")[0] for s in scan(tmp_path).sources] == ["Ungood", "good"]


def test_names_are_relative_and_unique(tmp_path):
    for name in ("a.png", "a.jpg", "b/a.png", "b/A.tif", "c.d.png"):
        png(tmp_path / name)
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    found = scan(tmp_path).sources
    assert [s.name for s in found] == ["a.jpg", "a.png", "b/A.tif", "b/a.png", "c.d", "v"]
    assert found[-1].n_slices == 5
    assert scan(tmp_path).sources == found
    (single,) = scan(tmp_path / "b" / "a.png").sources
    assert single.name == "a"


def test_no_two_slices_of_a_run_share_the_name_of_a_picture(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    for name in ("v_s000.png", "V_s001.png", "v_s1.png", "w_s000.png", "v_s000.png.jpg", "\u00e9.png", "e\u0301.png"):
        png(tmp_path / name)
    found = scan(tmp_path).sources
    assert len(found) == 8 and {"v", "v_s1", "w_s000"} <= {s.name for s in found}
    paths = [slice_path(tmp_path, s, i, ".png").name for s in found for i in range(s.n_slices)]
    assert len({unicodedata.normalize("NFC", path).casefold() for path in paths}) == 12


def test_names_do_not_give_the_patient_away(tmp_path):
    who = dict(PatientName="Smith^Jo", PatientID="4711")
    dicom(tmp_path / "SMITH_Jo" / "day1" / "scan-4711.dcm", **who)
    dicom(tmp_path / "jo" / "plain.dcm", **who)
    names = sorted(s.name for s in scan(tmp_path).sources)
    assert re.fullmatch(r"anon-[0-9a-f]{8}/day1/anon-[0-9a-f]{8}", names[0])
    assert names[1] == "jo/plain"  # two letters are no identity: they are in every word


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("chest", "chest"), ("x/Liver_AD/test/good", "liver"), ("chest/brain/x", "brain"), ("x", None)],
)
def test_a_folder_can_state_the_dataset(folder, expected, tmp_path):
    png(tmp_path / "root" / folder / "i.png")
    assert scan(tmp_path / "root").sources[0].stated_modality == expected
    assert scan(tmp_path / "root" / folder / "i.png").sources[0].stated_modality in (expected, None)
    (own,) = scan(tmp_path / "root" / folder).sources
    assert own.stated_modality == {"chest": "chest", "x": None}.get(folder)


def test_a_manifest_states_what_a_folder_shows_and_wins_over_its_name(tmp_path):
    png(tmp_path / "brain" / "test" / "i.png")
    png(tmp_path / "mine" / "test" / "i.png")
    (tmp_path / "brain" / "manifest.json").write_text('{"modality": "chest"}')
    (tmp_path / "mine" / "manifest.json").write_text('{"modality": "brain", "dataset": "mine"}')
    (tmp_path / "manifest.json").write_text('{"modality": "liver"}')
    assert [s.stated_modality for s in scan(tmp_path).sources] == ["chest", "brain"]
    assert [s.stated_modality for s in scan(tmp_path / "mine" / "test").sources] == [None]


def test_a_manifest_that_names_no_modality_there_is_is_listed_once(tmp_path):
    for name in "ab":
        png(tmp_path / name / "i.png")
    (tmp_path / "manifest.json").write_text('{"modality": "brian"}')
    found = scan(tmp_path)
    assert [s.stated_modality for s in found.sources] == [None, None]
    assert [(p.path.name, "did you mean brain?" in p.reason) for p in found.problems] == [("manifest.json", True)]


def test_dicom_states_modality_and_body_part(tmp_path):
    dicom(tmp_path / "i", Modality="MR", BodyPartExamined="head")
    (source,) = scan(tmp_path).sources
    assert (source.modality, source.body_part) == ("MR", "HEAD")


def test_what_is_no_image_is_counted_and_what_is_not_read_is_named(tmp_path):
    png(tmp_path / "i.png")
    for name in ("t.txt", "t.csv", "README", "LICENSE"):
        (tmp_path / name).write_text("words " * 100)
    for name in (".DS_Store", "Thumbs.db", ".hidden.png", "__MACOSX/._i.png", "DICOMDIR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    shutil.copy(named("DICOMDIR"), tmp_path / "DICOMDIR")
    for name in ("reportsi.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "liver.dcm"):
        shutil.copy(named(name), tmp_path)
    (tmp_path / "v.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "words.dcm").write_text("these are words, and quite a few of them")
    found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["i"]
    assert found.ignored == {
        ".txt file": 1,
        ".csv file": 1,
        "file without ending": 2,
        "DICOMDIR": 1,
        "hidden file or folder": 4,
    }
    assert {p.path.name: p.reason for p in found.problems} == {
        "reportsi.dcm": "DICOM object without an image (Basic Text SR Storage)",
        "rtstruct.dcm": "DICOM object without an image (RT Structure Set Storage)",
        "waveform_ecg.dcm": "DICOM object without an image (12-lead ECG Waveform Storage)",
        "liver.dcm": "DICOM object without an image (Segmentation Storage)",
        "v.nrrd": "NRRD files are not read; convert it to one of PNG, JPEG, TIFF, NIfTI (.nii, .nii.gz) and DICOM",
        "words.dcm": "not a DICOM file, or its header is damaged",
    }


def test_masks_of_a_data_set_are_no_images(tmp_path):
    for name in ("test/Ungood/img/a.png", "test/Ungood/label/a.png", "valid/img/good/b.png", "valid/label/good/b.png"):
        png(tmp_path / name)
    png(tmp_path / "x" / "label" / "c.png")  # beside no img it is a folder like any other
    found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["test/Ungood/img/a", "valid/img/good/b", "x/label/c"]
    assert found.passed_over == "2 folder of masks beside img"
    assert len(scan(tmp_path / "test" / "Ungood" / "label").sources) == 1


def test_dicom_is_told_by_content(tmp_path):
    shutil.copy(named("CT_small.dcm"), tmp_path / "IM0001")
    shutil.copy(named("MR_small.dcm"), tmp_path / "MR.1.2.840.99")
    shutil.copy(named("rtstruct.dcm"), tmp_path / "noext")  # neither preamble nor image: cannot be told from a text
    found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["IM0001", "MR.1.2.840.99"]
    assert [s.modality for s in found.sources] == ["CT", "MR"]


def test_nothing_to_read_is_an_error_that_says_what_was_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*; a folder or file of PNG, JPEG, TIFF, N"):
        scan(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no image found in .* \(1 \.txt file\); looked for PNG, JPEG, TIFF, NIfTI"):
        scan(tmp_path)


def test_links_in_a_circle_do_not_hang(tmp_path):
    png(tmp_path / "a" / "i.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = scan(tmp_path)
    assert [s.name for s in found.sources] == ["a/i"]
    assert [p.reason for p in found.problems] == ["symbolic link to a file that does not exist"]


def test_twenty_files_five_of_them_broken_in_different_ways(tmp_path):
    for i in range(6):
        png(tmp_path / f"good{i}.png", 10 * i)
    for i in range(5):
        dicom(tmp_path / f"ct{i}.dcm", SeriesInstanceUID=generate_uid())
    for i in range(4):
        nib.save(nib.Nifti1Image(np.full((4, 4), i, np.float32), np.eye(4)), tmp_path / f"n{i}.nii.gz")

    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "truncated.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "truncated.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("these are words")
    (tmp_path / "cut.dcm").write_bytes(named("MR_small.dcm").read_bytes()[:5000])
    nib.save(nib.Nifti1Image(noise.astype(np.float32), np.eye(4)), tmp_path / "corrupt.nii.gz")
    (tmp_path / "corrupt.nii.gz").write_bytes((tmp_path / "corrupt.nii.gz").read_bytes()[:2000])

    found = scan(tmp_path)
    reasons = {p.path.name: p.reason for p in found.problems}
    read = 0
    for source in found.sources:
        try:
            read += read_slice(source, 0).pixels.size > 0
        except ReadError as error:
            reasons[source.paths[0].name] = str(error)
    assert read == 15
    assert sorted(reasons) == ["corrupt.nii.gz", "cut.dcm", "empty.png", "text.png", "truncated.png"]
    assert len(set(reasons.values())) == 5
    for name, start in {
        "empty.png": "empty file",
        "text.png": "not a PNG, JPEG or TIFF image",
        "truncated.png": "image data cannot be read (",
        "cut.dcm": "pixel data ",
        "corrupt.nii.gz": "NIfTI data cannot be read (",
    }.items():
        assert reasons[name].startswith(start), reasons[name]
        assert "\n" not in reasons[name] and name not in reasons[name] and str(tmp_path) not in reasons[name]


def test_a_volume_is_decoded_once_by_all_threads_of_a_reader_and_shared_read_only(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 9), np.float32), np.eye(4)), tmp_path / "v.nii")
    (source,) = scan(tmp_path).sources
    calls = []
    monkeypatch.setitem(sources._READERS, "nifti", lambda s: calls.append(s) or sources.nifti.read(s))
    reader = SourceReader()
    with ThreadPoolExecutor(9) as pool:
        pieces = list(pool.map(lambda i: reader.read(source, i), range(9)))
    assert len(calls) == 1 and [piece.index for piece in pieces] == list(range(9))
    with pytest.raises(ValueError, match="read-only"):
        pieces[0].pixels[0, 0] = 1
    with pytest.raises(IndexError, match="slice 9 of a source with 9"):
        reader.read(source, 9)
    copied = pickle.loads(pickle.dumps(reader))
    assert copied.read(source, 0).pixels.shape == (4, 4) and len(calls) == 2  # another process decodes for itself


def test_different_sources_are_decoded_side_by_side_and_one_is_held(tmp_path, monkeypatch):
    for i in range(3):
        png(tmp_path / f"{i}.png", i)
    images = scan(tmp_path).sources
    both, calls = threading.Barrier(2, timeout=30), []

    def together(source):
        both.wait()  # passed only if two threads are here at once
        return sources.rasters.read(source)

    reader = SourceReader()
    monkeypatch.setitem(sources._READERS, "raster", together)
    with ThreadPoolExecutor(2) as pool:
        values = list(pool.map(lambda s: float(reader.read(s, 0).pixels[0, 0]), images[:2]))
    assert values == [0, 1]
    monkeypatch.setitem(sources._READERS, "raster", lambda s: calls.append(s) or sources.rasters.read(s))
    for image in (images[2], images[2], images[0], images[2]):
        reader.read(image, 0)
    assert calls == [images[2], images[0], images[2]]


def test_nothing_is_kept_of_a_file_that_changes(tmp_path):
    png(tmp_path / "5.png", 5)
    (image,) = scan(tmp_path).sources
    assert read_slice(image, 0).pixels[0, 0] == 5
    png(tmp_path / "5.png", 77, size=(9, 9))
    assert read_slice(image, 0).pixels[0, 0] == 77
    (tmp_path / "5.png").unlink()
    with pytest.raises(ReadError, match=r"^file cannot be read \(No such file"):
        read_slice(image, 0)


def test_warnings_are_back_after_threads_have_decoded(tmp_path):
    inside, leave = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
    before = list(warnings.filters)

    def decode(first):
        with without_warnings():
            inside.wait()
            if first:
                return
            leave.wait()

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(decode, True), pool.submit(decode, False)
        one.result()
        leave.wait()
        two.result()
    assert list(warnings.filters) == before


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="INVAD_SHARED names no folder with data/raw")
def test_every_real_file_is_read_or_gives_a_reason():
    found = scan(SHARED)
    reasons = [p.reason for p in found.problems]
    read = set()
    for source in found.sources:
        for piece in read_source(source):
            if isinstance(piece, ReadError):
                reasons.append(str(piece))
                continue
            read.update(source.paths)
            low, high = piece.value_range
            assert piece.pixels.size and np.isfinite(piece.pixels).all() and low <= high
    assert len(read) > 130
    for reason in reasons:
        assert reason and "\n" not in reason and len(reason) < 320 and str(SHARED) not in reason


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="INVAD_SHARED names no folder with data/raw")
@pytest.mark.parametrize("folder", ["ct_series_ge", "dicom_series_torchio"])
def test_real_series_equal_simpleitk(folder):
    (source,) = scan(SHARED / folder).sources
    (uid,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(SHARED / folder))
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(SHARED / folder), uid)
    assert [p.name for p in source.paths] == [Path(f).name for f in files]
    for file, piece in zip(files, whole_source(source), strict=True):
        expected = sitk.GetArrayFromImage(sitk.ReadImage(file))[0].astype(np.float32)
        ds = pydicom.dcmread(file)
        inside = ds.pixel_array != ds.get("PixelPaddingValue", 10**9)
        np.testing.assert_array_equal(piece.pixels[inside], expected[inside])
