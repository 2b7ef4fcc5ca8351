"""RESC, OCT2017 and RSNA: sources that are single pictures, each by both recipes."""

import csv
import hashlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from data_prep import chest, oct2017, resc
from data_prep.layout import PrepError
from data_prep.splits import anonymous
from invad_med.data.masks import read_mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def where_of(found):
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    return where


# RESC ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def edema(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "RESC raw"
    for top, volumes in (("Edema_trainingset", 2), ("Edema_validationset", 4)):
        for v in range(volumes):
            name = f"P{v:03d}_MacularEdema"
            for n in range(1, 13):
                save(root / top / f"original_images/{name}.img/{n}.bmp", rng.integers(0, 255, (32, 16), np.uint8))
                label = np.zeros((32, 16), np.uint8)
                if 5 <= n <= 8:
                    label[10:14, 3:8] = (255, 191, 128, 128)[n - 5]
                if n == 9:
                    label[0, :5] = 255  # fewer than 10 pixels
                save(root / top / f"label_images/{name}_labelMark/{n}.bmp", label)
    return root


def test_resc_bmad(proven, edema, pixels):
    found = proven(resc.prepare, edema, recipe="bmad")
    assert found.name == "resc"
    assert found.splits["train"] == {"good": {"images": 2 * 7, "masks": 0}}
    # 45 of 1,086 good and 70 of 834 Ungood slices to valid: here 1 of 28 and 2 of 20
    assert found.splits["valid"] == {"good": {"images": 1, "masks": 0}, "Ungood": {"images": 2, "masks": 2}}
    assert found.splits["test"] == {"good": {"images": 27, "masks": 0}, "Ungood": {"images": 18, "masks": 18}}
    assert any(len(splits) > 1 for splits in where_of(found).values()), "patients are shared, as in BMAD"
    for item in found.items:
        volume, n = item.image.stem.rsplit("_", 1)
        split, volume = volume.split("_", 1)
        top = {"train": "Edema_trainingset", "valid": "Edema_validationset"}[split]
        np.testing.assert_array_equal(
            pixels(item.image), pixels(edema / top / f"original_images/{volume}.img/{int(n)}.bmp")
        )
        if item.mask:
            label = pixels(edema / top / f"label_images/{volume}_labelMark/{int(n)}.bmp")
            np.testing.assert_array_equal(read_mask(item.mask), label > 0)  # 128 as well as 255
            assert set(np.unique(pixels(item.mask))) == {0, 255}


def test_resc_clean(proven, edema):
    found = proven(resc.prepare, edema, recipe="clean")
    assert all(len(splits) == 1 for splits in where_of(found).values())
    assert all(read_mask(item.mask).sum() >= resc.MIN_PIXELS for item in found.items if item.label)
    good = {int(item.image.stem[-3:]) for item in found.items if not item.label}
    assert good == {1, 2, 3, 11, 12}  # neither labelled nor next to a labelled slice
    assert found.splits["train"]["good"]["images"] == 10
    assert found.splits["valid"] == {"good": {"images": 5, "masks": 0}, "Ungood": {"images": 4, "masks": 4}}


def test_resc_names_what_is_missing(tmp_path, edema):
    (edema / "Edema_trainingset/label_images/P000_MacularEdema_labelMark/3.bmp").unlink()
    report = resc.prepare(edema, tmp_path / "out", progress=False)
    assert len(report.problems) == 1 and "3.bmp has no label" in report.problems[0]
    with pytest.raises(PrepError, match="original_images and label_images"):
        resc.prepare(tmp_path / "out", tmp_path / "out2", progress=False)


# OCT2017 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kermany(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "raw/OCT2017"
    pictures = [("train", "NORMAL", 100 + i) for i in range(6)] + [("train", "CNV", 1)]
    for split, shift in (("val", 0), ("test", 20)):
        pictures += [(split, c, 200 + shift + i) for i, c in enumerate(("NORMAL", "CNV", "DME", "DRUSEN"))]
    pictures += [("test", "NORMAL", 103), ("test", "CNV", 201), ("val", "NORMAL", 104)]  # seen in other splits
    for split, finding, patient in pictures:
        save(root / f"{split}/{finding}/{finding}-{patient}-1.jpeg", rng.integers(0, 255, (20, 24), np.uint8))
    (root / "train/NORMAL/.DS_Store").write_bytes(b"x")
    return root


def test_oct2017_bmad_is_as_released(proven, kermany, pixels):
    found = proven(oct2017.prepare, kermany, recipe="bmad")
    assert found.name == "oct2017"
    assert found.splits == {
        "train": {"good": {"images": 6, "masks": 0}},
        "valid": {"good": {"images": 2, "masks": 0}, "Ungood": {"images": 3, "masks": 0}},
        "test": {"good": {"images": 2, "masks": 0}, "Ungood": {"images": 4, "masks": 0}},
    }
    assert any(len(splits) > 1 for splits in where_of(found).values())
    image = found.root / "train/good/NORMAL-100-1.png"
    np.testing.assert_array_equal(pixels(image), pixels(kermany / "train/NORMAL/NORMAL-100-1.jpeg"))


def test_oct2017_clean_has_patients_in_one_split(proven, kermany):
    found = proven(oct2017.prepare, kermany, recipe="clean")
    assert all(len(splits) == 1 for splits in where_of(found).values())
    assert found.splits["train"]["good"]["images"] == 4  # 103 is in test, 104 in valid
    assert found.splits["valid"]["Ungood"]["images"] == 2  # 201 is in test
    assert found.splits["test"] == {"good": {"images": 2, "masks": 0}, "Ungood": {"images": 4, "masks": 0}}
    with (found.root / "manifest.csv").open() as file:
        assert {row["finding"] for row in csv.DictReader(file)} == {"NORMAL", "CNV", "DME", "DRUSEN"}


# RSNA ---------------------------------------------------------------------------------------------------------------


def dicom(path, pixels, patient, photometric="MONOCHROME2"):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = ComputedRadiographyImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.{int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16)}"
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = ds.SeriesInstanceUID = ds.SOPInstanceUID + ".1"
    ds.PatientID = ds.PatientName = patient
    ds.Modality, ds.BodyPartExamined = "CR", "CHEST"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, photometric, 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def rsna(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "rsna"
    rows = []
    for i in range(36):
        patient = f"{i:08x}-aaaa-4bbb"
        finding = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal")[i % 3]
        rows += [(patient, finding)] * (2 if finding == "Lung Opacity" else 1)  # one row per box
        photometric = "MONOCHROME1" if i == 0 else "MONOCHROME2"
        dicom(
            root / f"stage_2_train_images/{patient}.dcm", rng.integers(0, 256, (16, 16), np.uint8), patient, photometric
        )
    with (root / chest.TABLE).open("w", newline="") as file:
        csv.writer(file).writerows([("patientId", "class"), *rows])
    return root


@pytest.mark.parametrize("recipe", ["bmad", "clean"])
def test_chest(proven, rsna, pixels, recipe):
    found = proven(chest.prepare, rsna, recipe=recipe)
    assert found.name == "chest"
    # 12 normal: 904, 8 and 88 of a thousand; 24 others: 80 and 920
    assert {s: {c: n["images"] for c, n in v.items()} for s, v in found.splits.items()} == {
        "train": {"good": 10}, "valid": {"good": 1, "Ungood": 2}, "test": {"good": 1, "Ungood": 22},
    }  # fmt: skip
    assert len(where_of(found)) == 36 and all(len(splits) == 1 for splits in where_of(found).values())
    prefixes = {item.image.name[:-16] for item in found.items}
    assert prefixes == {"Normal-", "Lung_Opacity_", "No-Not-Normal_"}
    by_group = {item.group: item for item in found.items}
    for path in rsna.rglob("*.dcm"):
        stored = pydicom.dcmread(path).pixel_array
        inverted = recipe == "clean" and path.stem.startswith("00000000-")
        shown = pixels(by_group[anonymous(path.stem)].image).astype(int)
        np.testing.assert_array_equal(shown, stored.max() + stored.min() - stored.astype(int) if inverted else stored)
    written = "".join((found.root / f"manifest.{kind}").read_text() for kind in ("csv", "json"))
    assert "aaaa-4bbb" not in written, "no patient is named"


def test_chest_salt_and_seed(tmp_path, rsna):
    def names(**options):
        report = chest.prepare(rsna, tmp_path / "out", progress=False, **options)
        assert not report.problems
        return sorted(p.name for p in (tmp_path / "out/train/good").iterdir())

    plain = names()
    assert names(seed=1) != plain and names(salt="s") != plain
    assert names() == plain  # what other builds left has been removed


def test_chest_refuses_wrong_tables(tmp_path, rsna):
    (next(iter(sorted(rsna.rglob("*.dcm"))))).unlink()
    report = chest.prepare(rsna, tmp_path / "out", progress=False)
    assert len(report.problems) == 1 and "00000000-aaaa-4bbb.dcm" in report.problems[0]
    table = rsna / chest.TABLE
    table.write_text(table.read_text() + "00000001-aaaa-4bbb,Normal\n")
    with pytest.raises(PrepError, match="unknown or second class 'Normal'"):
        chest.prepare(rsna, tmp_path / "out", progress=False)
    table.write_text("a,b\n")
    with pytest.raises(PrepError, match="lacks the columns"):
        chest.prepare(rsna, tmp_path / "out", progress=False)
    table.unlink()
    with pytest.raises(PrepError, match=f"no {chest.TABLE}"):
        chest.prepare(rsna, tmp_path / "out", progress=False)
