"""An own cohort, DICOM, NIfTI and PNG, to a set; and one CT slice that is the same whichever file it comes from."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_prep import folder
from data_prep.__main__ import main
from data_prep.layout import PrepError
from data_prep.splits import anonymous
from invad_med.data.bmad import datalist, read_tree
from invad_med.data.masks import read_mask
from invad_med.data.modalities import Window, find_modality
from invad_med.data.transforms import to_image, to_unit
from invad_med.readers.sources import read_slice, scan

SIZE, DEPTH = 24, 10


def hounsfield(seed, bright=None):
    """(N, H, W) HU: air around a body; slices 0 and 1 nearly empty."""
    rng = np.random.default_rng(seed)
    volume = np.full((DEPTH, SIZE, SIZE), -1000, np.int16)
    volume[2:, 4:20, 4:20] = rng.integers(-150, 240, (DEPTH - 2, 16, 16))
    if bright is not None:
        volume[bright] = 300
    return volume


PLACE = np.array([[-0.7, 0, 0, 8], [0, -0.7, 0, 8], [0, 0, 2.5, 0], [0, 0, 0, 1]])  # of `save_series`, RAS


def save_series(path, volume, patient, thickness=2.5, body_part="ABDOMEN"):
    """Save (N, H, W) HU as an axial CT series of 0.7 mm pixels, files in no helpful order."""
    path.mkdir(parents=True, exist_ok=True)
    study = generate_uid(entropy_srcs=[patient, str(path)])
    for i, pixels in enumerate(volume):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[study, str(i)])
        ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, generate_uid(entropy_srcs=[study])
        ds.PatientID, ds.PatientName = patient, f"{patient}^Secret"
        ds.Modality, ds.BodyPartExamined, ds.InstanceNumber = "CT", body_part, DEPTH - i
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-8, -8, thickness * i]
        ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], thickness
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = (pixels + 1024).astype("<u2").tobytes()
        ds.save_as(path / f"{(7 * i) % DEPTH}.dcm", enforce_file_format=True)


def lesion_of(volume):
    mask = np.zeros(volume.shape, np.uint8)
    mask[4:7, 6:12, 5:10] = 1
    mask[7, 6, 6:9] = 1  # fewer than 10 pixels
    return mask


@pytest.fixture
def ct(tmp_path, save_nifti):
    """Ten normal patients, the last with two series; four abnormal ones, one of them also normal (N1)."""
    for i in range(10):
        save_series(tmp_path / f"normal/n{i}", hounsfield(i), f"N{i}")
    save_series(tmp_path / "normal/n9b", hounsfield(99), "N9")
    for i, patient in enumerate(("A0", "A1", "A2", "N1")):
        volume = hounsfield(20 + i)
        save_series(tmp_path / f"abnormal/{i}/ct", volume, patient)
        save_nifti(tmp_path / f"masks/{i}/ct_mask.nii.gz", lesion_of(volume), PLACE, flip=(0, 2) if i % 2 else ())
    return tmp_path


def where_of(found):
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    return where


def test_dicom_with_masks(proven, ct, pixels):
    options = {"masks": ct / "masks", "every_mm": 5, "slices": 4}
    found = proven(folder.prepare, ct / "normal", ct / "abnormal", **options)
    assert found.name == "custom" and found.modality.name == "liver"  # which CT of the abdomen is
    where = where_of(found)
    assert len(where) == 13 and all(len(splits) == 1 for splits in where.values())
    assert all(len(group) == 12 for group in where)
    ungood = [item for item in found.items if item.label]
    # Slices 4, 5 and 6 have mask; 5 mm apart are 4 and 6.
    assert sorted(item.image.stem[-4:] for item in ungood) == ["0004"] * 4 + ["0006"] * 4
    assert where[anonymous("N1")] <= {"valid", "test"} and {i.split for i in ungood} == {"valid", "test"}
    for item in ungood:
        expected = lesion_of(hounsfield(0))[int(item.image.stem[-4:])] > 0
        np.testing.assert_array_equal(read_mask(item.mask), expected)  # also where the mask is stored flipped
    per_series = {}
    for item in found.items:
        per_series.setdefault(item.image.stem[:-5], []).append(int(item.image.stem[-4:]))
    good = [numbers for numbers in per_series.values() if len(numbers) > 2]
    assert len(good) == 11 and all(sorted(numbers) == [2, 4, 6, 8] for numbers in good)  # 0 and 1 show air

    everything = "".join(p.read_text() for p in found.root.iterdir() if p.is_file()) + str(list(found.root.rglob("*")))
    for secret in ("Secret", '"N9"', "N9,", "A0", "n9b", "/ct", ".dcm"):
        assert secret not in everything, f"{secret} is somebody's"


def test_niftis_without_masks_and_pictures(proven, tmp_path, save_nifti, pixels):
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, -2.0, 10.0, 1.0])  # pixels are not square
    for kind, count in (("normal", 5), ("abnormal", 3)):
        for i in range(count):
            volume = np.pad(rng.integers(0, 900, (4, 8, 16)).astype(np.int16), ((i, 1), (0, 0), (0, 0)))
            save_nifti(tmp_path / f"{kind}/{kind}{i}.nii.gz", volume, affine, flip=(1,))
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "abnormal/photo.png")
    (tmp_path / "normal/README.txt").write_text("mine")
    found = proven(folder.prepare, tmp_path / "normal", tmp_path / "abnormal", slices=3)
    assert (found.name, found.modality) == ("custom", None)
    assert found.splits["train"] == {"good": {"images": 9, "masks": 0}}
    assert sum(item.label for item in found.items) == 3 * 3 + 1
    assert all(pixels(i.image).shape == (16, 16) for i in found.items if "photo" not in i.image.name)
    for item in found.items:
        if item.image.stem == "photo":
            assert item.position is None
        else:  # the volume's number is that of empty slices before those that show anything
            volume, z = item.image.stem.split("_")
            assert item.position == pytest.approx((int(z) - int(volume[-1]) + 0.5) / 4, abs=1e-4)
    assert where_of(found)["photo"] <= {"valid", "test"}
    lists = json.loads((found.root / "datalist.json").read_text())
    assert [len(lists[s]) for s in ("train", "valid", "test")] == [
        sum(c["images"] for c in found.splits[s].values()) for s in ("train", "valid", "test")
    ]


def test_masks_that_do_not_fit_are_named(tmp_path, ct, save_nifti):
    (ct / "masks/0/ct_mask.nii.gz").unlink()
    save_nifti(ct / "masks/1/ct_mask.nii.gz", np.ones((3, SIZE, SIZE), np.uint8))
    (ct / "abnormal/2/ct/0.dcm").write_bytes(b"\0" * 128 + b"DICMbroken")
    report = folder.prepare(ct / "normal", ct / "abnormal", ct / "out", masks=ct / "masks", progress=False)
    text = "\n".join(report.problems)
    assert "has no mask below" in text and "abnormal/0/ct" in text
    assert "is of (3, 24, 24), its image" in text and "(10, 24, 24) (slices, rows, columns)" in text
    assert "0.dcm" in text and "masks/2" in text, "a broken file, and the mask that fits no longer"
    assert report.counts["train"]["good"] > 0
    assert {i.group for d in read_tree(ct / "out") for i in d.items if i.label} == {anonymous("N1")}


def test_refusals(ct):
    with pytest.raises(PrepError, match="no such file or folder"):
        folder.prepare(ct / "nowhere", ct / "abnormal", ct / "out", progress=False)
    with pytest.raises(PrepError, match="modality 'knee' is none of brain, liver"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", modality="knee", progress=False)
    with pytest.raises(PrepError, match="must be the higher one"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", window=(5, 5), progress=False)
    save_series(ct / "normal/head", hounsfield(5), "H", body_part="HEAD")
    with pytest.raises(PrepError, match=r"several modalities \(liver, none\): name one by --modality"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", progress=False)
    save_series(ct / "out/train/good", hounsfield(5), "H")
    Image.new("L", (4, 4)).save(ct / "out/train/good/mine.png")
    with pytest.raises(PrepError, match="not written by this command"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", window=(-160, 240), progress=False)
    assert (ct / "out/train/good/mine.png").exists()


@pytest.mark.parametrize("window", [None, (-160.0, 240.0)])
def test_one_ct_slice_through_png_nifti_and_dicom_is_one_tensor(tmp_path, save_nifti, window):
    """Equal within the half step of 1/255 that 8 bit force; DICOM and NIfTI within rounding of float32."""
    from dataclasses import replace

    modality = find_modality("liver")
    if window:
        modality = replace(modality, intensity=Window(*window))
    volume = hounsfield(3)
    save_series(tmp_path / "dicom/normal/a", volume, "A")
    save_series(tmp_path / "dicom/abnormal/b", hounsfield(4), "B")
    affine = np.diag([0.7, 0.7, 2.5, 1.0])  # RAS: reversed both ways on disk
    voxels = volume.transpose(2, 1, 0)[::-1, ::-1]
    (tmp_path / "nifti/liver").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), affine), tmp_path / "nifti/liver/a.nii.gz")
    report = folder.prepare(
        tmp_path / "dicom/normal", tmp_path / "dicom/abnormal", tmp_path / "out", modality="liver", window=window,
        every_mm=0, slices=99, progress=False,
    )  # fmt: skip
    assert not report.problems

    (dicom,), (nifti,) = scan(tmp_path / "dicom/normal").sources, scan(tmp_path / "nifti").sources
    items = [item for split in ("train", "valid") for item in datalist(tmp_path / "out", split, good_only=True)]
    pngs = {int(item["image"][-8:-4]): item["image"] for item in items}
    assert sorted(pngs) == list(range(2, DEPTH))
    for i, path in pngs.items():
        (png,) = scan(path).sources
        tensors = [to_image(read_slice(s, n), modality, 64) for s, n in ((png, 0), (nifti, i), (dicom, i))]
        assert tensors[1].std() > 0.1
        np.testing.assert_allclose(tensors[1], tensors[2], atol=1e-6)
        assert np.abs(tensors[0] - tensors[1]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("option", ["--modality", "--dataset"])
@pytest.mark.parametrize(("modality", "is_colour"), [("histopathology", True), ("chest", False), (None, True)])
def test_colour_is_kept_where_inference_shows_it(tmp_path, pixels, option, modality, is_colour):
    rng = np.random.default_rng(0)
    for kind, count in (("normal", 3), ("abnormal", 1)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / kind / f"{kind}{i}.png")
    folders = [f"--{name}={tmp_path / where}" for name, where in (("normal", "normal"), ("abnormal", "abnormal"))]
    stated = [option, modality] if modality else []
    assert main(["folder", *folders, "--output", str(tmp_path / "out"), *stated, "--quiet", "--workers", "1"]) == 0
    (found,) = read_tree(tmp_path / "out")
    assert (found.name, found.modality.name if found.modality else None) == ("custom", modality)
    assert json.loads((found.root / "manifest.json").read_text())["modality"] == modality
    for item in found.items:
        kind = "abnormal" if item.label else "normal"
        (raw,) = scan(tmp_path / kind / item.image.name).sources
        shown = to_unit(read_slice(raw, 0), find_modality(modality or "histopathology"))
        written = pixels(item.image)
        assert written.shape == ((8, 8, 3) if is_colour else (8, 8))
        np.testing.assert_array_equal(written, np.round(shown * 255))


MASKS = {
    "uint16": np.uint16(65535), "instances": np.uint16(40000), "int32": np.int32(70000), "negative": np.int16(-1),
    "float": np.float32(0.25), "double": np.float64(65535.0), "one": np.uint8(1),
}  # fmt: skip


@pytest.mark.parametrize("grid", ["the image's", "a finer one"])
@pytest.mark.parametrize("label", MASKS)
def test_whatever_is_not_zero_in_a_mask_marks(tmp_path, save_nifti, pixels, label, grid):
    rng = np.random.default_rng(0)
    for i in range(3):
        save_nifti(tmp_path / f"normal/n{i}.nii.gz", rng.integers(0, 900, (4, 8, 8)).astype(np.int16))
    save_nifti(tmp_path / "abnormal/a.nii.gz", rng.integers(0, 900, (4, 8, 8)).astype(np.int16))
    mask = np.zeros((4, 8, 8), MASKS[label].dtype)
    mask[1:3, 2:6, 3:7] = MASKS[label]
    if grid == "the image's":
        save_nifti(tmp_path / "masks/a.nii.gz", mask)
    else:  # twice as fine, its voxels' edges those of the image
        affine = np.diag([-0.5, -0.5, 0.5, 1.0])
        affine[:3, 3] = 0.25, 0.25, -0.25
        save_nifti(tmp_path / "masks/a.nii.gz", mask.repeat(2, 0).repeat(2, 1).repeat(2, 2), affine)
    report = folder.prepare(
        tmp_path / "normal", tmp_path / "abnormal", tmp_path / "out", masks=tmp_path / "masks", every_mm=0,
        progress=False,
    )  # fmt: skip
    assert report.problems == ()
    marked = {i.image.stem: read_mask(i.mask) for d in read_tree(tmp_path / "out") for i in d.items if i.label}
    assert set(marked) == {"a_0001", "a_0002"}
    for found in marked.values():
        np.testing.assert_array_equal(found, mask[1] != 0)


@pytest.mark.parametrize("affine", [np.eye(4), None], ids=["identity", "no codes"])
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_mask_that_states_no_place_is_refused(tmp_path, ct, save_nifti, kind, affine):
    abnormal, masks, name = ct / "abnormal", ct / "masks", "0/ct_mask"
    volume = hounsfield(20)
    if kind == "nifti":
        abnormal, masks, name = tmp_path / "mine", tmp_path / "drawn", "a"
        save_nifti(abnormal / "a.nii.gz", volume, PLACE)
        save_nifti(masks / "a.nii.gz", lesion_of(volume), PLACE)
    options = {"masks": masks, "modality": "liver", "progress": False}
    assert folder.prepare(ct / "normal", abnormal, tmp_path / "before", **options).problems == ()
    nib.save(nib.Nifti1Image(lesion_of(volume).transpose(2, 1, 0), affine), masks / f"{name}.nii.gz")
    (problem,) = folder.prepare(ct / "normal", abnormal, tmp_path / "after", **options).problems
    assert "states no place in space" in problem


@pytest.mark.parametrize("moved", [(0, 0, 5.0), (3.5, 0, 0)], ids=["two slices up", "five pixels aside"])
def test_a_mask_that_lies_elsewhere_than_its_series_is_refused(tmp_path, ct, save_nifti, moved):
    place = PLACE.copy()
    place[:3, 3] += moved
    save_nifti(ct / "masks/0/ct_mask.nii.gz", lesion_of(hounsfield(20)), place)
    (problem,) = folder.prepare(
        ct / "normal", ct / "abnormal", tmp_path / "out", masks=ct / "masks", progress=False
    ).problems
    assert "lies elsewhere than the series" in problem and f"{max(moved)} mm apart" in problem


def test_a_mask_of_which_most_lies_outside_its_image_is_refused(tmp_path, ct, save_nifti):
    place = PLACE.copy()
    place[:3, 3] -= 5.6, 0, 0
    save_nifti(tmp_path / "mine/a.nii.gz", hounsfield(20), PLACE)
    marks = np.zeros((DEPTH, SIZE, SIZE), np.uint8)
    marks[4:7, 6:12, 12:22] = 1  # of whose ten columns two lie in the image
    save_nifti(tmp_path / "drawn/a.nii.gz", marks, place)
    (problem,) = folder.prepare(
        ct / "normal", tmp_path / "mine", tmp_path / "out", masks=tmp_path / "drawn", modality="liver", progress=False
    ).problems
    assert "marks only" in problem and "their positions in space do not match" in problem


def test_an_abnormal_study_that_gives_no_slice_is_named(tmp_path, save_nifti, capsys):
    rng = np.random.default_rng(0)
    for i in range(3):
        save_nifti(tmp_path / f"normal/n{i}.nii.gz", rng.integers(0, 900, (4, 8, 8)).astype(np.int16))
    marks = {name: np.zeros((4, 8, 8), np.float32) for name in ("fits", "empty", "small", "full", "nan")}
    marks["fits"][1, :4, :4] = 1
    marks["small"][1, :3, :3] = 1
    marks["full"][:] = 1
    marks["nan"][1, :4, :4] = np.nan
    for name, mask in marks.items():
        save_nifti(tmp_path / f"abnormal/{name}.nii.gz", rng.integers(0, 900, (4, 8, 8)).astype(np.int16))
        save_nifti(tmp_path / f"masks/{name}.nii.gz", mask)
    for name, size in (("photo", 8), ("larger", 9)):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"abnormal/{name}.png")
        Image.new("L", (size, size)).save(tmp_path / f"masks/{name}_mask.png")
    save_nifti(tmp_path / "normal/dark.nii.gz", np.zeros((4, 8, 8), np.int16))
    options = [f"--{name}={tmp_path / name}" for name in ("normal", "abnormal", "masks")]
    assert main(["folder", *options, "--output", str(tmp_path / "out"), "--quiet", "--workers", "1"]) == 3
    told = capsys.readouterr().err
    for line in (
        "Ungood empty: {}/masks/empty.nii.gz marks nothing",
        "Ungood small: {}/masks/small.nii.gz marks at most 9 pixels of a slice, 10 are needed",
        "Ungood full: {}/masks/full.nii.gz marks everything: what is not marked must be 0 in it",
        "Ungood nan: {}/masks/nan.nii.gz holds NaN or infinite values, which do not say what is marked: set them to 0",
        "Ungood photo: {}/masks/photo_mask.png marks nothing",
        "Ungood larger: {}/masks/larger_mask.png is of (1, 9, 9), its image",
        "good dark: no slice has 5% brighter than a tenth of the range",
    ):
        assert f"problem: {line.format(tmp_path)}" in told, line
    assert told.count("problem:") == 7 and "fits" not in told
    assert {i.image.stem for d in read_tree(tmp_path / "out") for i in d.items if i.label} == {"fits_0001"}


def test_masks_are_found_whatever_form_of_unicode_their_names_have(tmp_path):
    for kind, name in (
        ("normal", "n0"),
        ("normal", "n1"),
        ("abnormal", "fa\u0308lle/u\u0308"),
        ("masks", "f\u00e4lle/\u00fc"),
    ):
        path = tmp_path / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 200).save(path)
    report = folder.prepare(
        tmp_path / "normal", tmp_path / "abnormal", tmp_path / "out", masks=tmp_path / "masks", progress=False
    )
    assert report.problems == () and sum(c.get("Ungood", 0) for c in report.counts.values()) == 1
