"""An own cohort, DICOM, NIfTI and PNG, to a set; and one CT slice that is the same whichever file it comes from."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_prep import folder
from data_prep.layout import PrepError
from data_prep.splits import anonymous
from invad_med.data.bmad import datalist, read_mask, read_tree
from invad_med.data.modalities import Window, find_modality
from invad_med.data.transforms import to_image
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
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    for i in range(10):
        save_series(tmp_path / f"normal/n{i}", hounsfield(i), f"N{i}")
    save_series(tmp_path / "normal/n9b", hounsfield(99), "N9")
    for i, patient in enumerate(("A0", "A1", "A2", "N1")):
        volume = hounsfield(20 + i)
        save_series(tmp_path / f"abnormal/{i}/ct", volume, patient)
        save_nifti(tmp_path / f"masks/{i}/ct_mask.nii.gz", lesion_of(volume), affine, flip=(0, 2) if i % 2 else ())
    return tmp_path


def where_of(found):
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    return where


def test_dicom_with_masks(proven, ct, pixels):
    options = {"masks": ct / "masks", "every_mm": 5, "slices": 4}
    found = proven(folder.prepare, ct / "normal", ct / "abnormal", **options)
    assert found.name == "liver"  # which CT of the abdomen is
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
            volume = rng.integers(0, 900, (4, 8, 16)).astype(np.int16)
            save_nifti(tmp_path / f"{kind}/{kind}{i}.nii.gz", volume, affine, flip=(1,))
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "abnormal/photo.png")
    (tmp_path / "normal/README.txt").write_text("mine")
    found = proven(folder.prepare, tmp_path / "normal", tmp_path / "abnormal", slices=3)
    assert found.name == "custom"
    assert found.splits["train"] == {"good": {"images": 9, "masks": 0}}
    assert sum(item.label for item in found.items) == 3 * 3 + 1
    assert all(pixels(i.image).shape == (16, 16) for i in found.items if "photo" not in i.image.name)
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
    with pytest.raises(PrepError, match="--dataset knee is none of brain, liver"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", dataset="knee", progress=False)
    with pytest.raises(PrepError, match="must be the higher one"):
        folder.prepare(ct / "normal", ct / "abnormal", ct / "out", window=(5, 5), progress=False)
    save_series(ct / "normal/head", hounsfield(5), "H", body_part="HEAD")
    with pytest.raises(PrepError, match=r"several data sets \(liver, none\): name one by --dataset"):
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
        tmp_path / "dicom/normal", tmp_path / "dicom/abnormal", tmp_path / "out", dataset="liver", window=window,
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
        assert float((tensors[0] - tensors[1]).abs().max()) <= 0.5 / 255 + 1e-6
