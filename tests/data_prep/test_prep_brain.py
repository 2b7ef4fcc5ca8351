"""BraTS volumes to the Brain set, by both recipes."""

import numpy as np
import pytest

from data_prep import brain
from data_prep.layout import PrepError
from invad_med.data.bmad import read_tree
from invad_med.data.masks import read_mask

FIRST, LAST, DEPTH = 6, 17, 24
BELOW, ABOVE = 3, 2  # empty slices that fill up the volumes, as BraTS's are


def tumour(i: int) -> slice:
    """Axial slices with tumour: patient by patient fewer, the first three in every slice considered."""
    return slice(0, DEPTH) if i < 3 else slice(FIRST + (i - 3) % 7, LAST)


@pytest.fixture(scope="module")
def volumes():
    rng = np.random.default_rng(0)
    made = {}
    for i in range(14):
        flair = rng.integers(1, 900, (DEPTH, 20, 16)).astype(np.int16)
        flair[:BELOW], flair[DEPTH - ABOVE :] = 0, 0
        seg = np.zeros_like(flair, dtype=np.uint8)
        seg[tumour(i), 4:9, 2:6] = 1
        seg[tumour(i), 5:7, 3:5] = (2, 4)
        made[f"BraTS2021_{i:05d}"] = flair, seg
    return made


@pytest.fixture
def source(tmp_path, volumes, save_nifti):
    root = tmp_path / "raw"
    for i, (name, (flair, seg)) in enumerate(volumes.items()):
        flip = (0, 1) if i % 2 else ()  # half of them stored right-left and front-back reversed, and say so
        save_nifti(root / name / f"{name}_flair.nii.gz", flair, flip=flip)
        save_nifti(root / name / f"{name}_seg.nii.gz", seg, flip=flip)
        save_nifti(root / name / f"{name}_t1.nii.gz", flair[:2])
    return root


def splits_of(found):
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    return where


def test_clean_has_checked_slices_and_patients_in_one_split(proven, source, volumes, pixels):
    found = proven(brain.prepare, source, recipe="clean", first=FIRST, last=LAST)
    assert found.name == "brain" and found.dialect == "anomalib"
    where = splits_of(found)
    assert len(where) >= 12 and all(len(splits) == 1 for splits in where.values())
    assert set(found.splits) == {"train", "valid", "test"} and found.splits["test"]["Ungood"]["masks"] > 0
    for item in found.items:
        name, z = item.image.stem.rsplit("_", 1)
        flair, seg = volumes[name]
        assert item.position == pytest.approx((int(z) - BELOW + 0.5) / (DEPTH - BELOW - ABOVE), abs=1e-4)
        # Display orientation, whatever the file's: the scale is one for the volume.
        low, high = np.percentile(flair, [0.5, 99.5])
        expected = np.clip((flair[int(z)] - low) / (high - low), 0, 1) * 255
        assert np.abs(pixels(item.image) - expected).max() <= 0.51
        if item.label:
            assert read_mask(item.mask).sum() >= brain.MIN_PIXELS
            np.testing.assert_array_equal(read_mask(item.mask), seg[int(z)] > 0)
            assert set(np.unique(pixels(item.mask))) <= {0, 255}
        else:
            assert not seg[int(z) - 1 : int(z) + 2].any()
    per_patient = {}
    for item in found.items:
        if item.split != "train":
            per_patient.setdefault((item.group, item.label), []).append(item)
    assert all(len(items) <= (5 if label else 4) for (_, label), items in per_patient.items())


def test_bmad_does_as_the_benchmark_did(proven, source, volumes, pixels):
    found = proven(brain.prepare, source, recipe="bmad", first=FIRST, last=LAST)
    assert pixels(found.items[0].image).shape == (16, 20, 4)  # as stored: x down, y right; bluish RGBA
    for item in found.items:
        z = int(item.image.stem.split("_")[1])
        assert item.position == pytest.approx((z - BELOW + 0.5) / (DEPTH - BELOW - ABOVE), abs=1e-4)
    ungood = [item for item in found.items if item.label]
    masks = [read_mask(item.mask) for item in ungood]
    assert not all(mask.any() for mask in masks), "bmad does not look at the segmentation"
    assert any(mask.any() for mask in masks)
    for item, mask in zip(ungood, masks, strict=True):
        number, z = item.image.stem.split("_")
        stored = volumes[f"BraTS2021_{number}"][1][int(z)].T > 0
        flipped = stored[::-1, ::-1] if int(number) % 2 else stored
        np.testing.assert_array_equal(mask, flipped)  # every label is kept, 1 as well as 4
    # 424 of 1,251 patients train, 162 test, 39 valid good; 11 valid, the rest test Ungood: here 5, 2, 1, 1, 5
    assert {s: len({i.group for i in found.items if i.split == s}) for s in ("train", "valid", "test")} == {
        "train": 5, "valid": 2, "test": 7,
    }  # fmt: skip
    # Empty masks are BMAD's fault here; its Brain lists are disjoint by patient, those of Liver and RESC are not.
    assert all(len(splits) == 1 for splits in splits_of(found).values())
    # Patients are ranked by free slices, most to train (and named in the order of the rank where equal).
    free = {g: sum(i.group == g for i in found.items) for g in splits_of(found)}
    train = {g for g, s in splits_of(found).items() if s == {"train"}}
    assert min(free[g] for g in train) >= max(free[i.group] for i in found.items if i.split == "test" and not i.label)


def test_incomplete_patients_are_named_and_the_rest_is_made(tmp_path, source):
    (source / "BraTS2021_00003/BraTS2021_00003_seg.nii.gz").unlink()
    (source / "BraTS2021_00004/BraTS2021_00004_flair.nii.gz").write_bytes(b"broken")
    report = brain.prepare(source, tmp_path / "out", first=FIRST, last=LAST, progress=False)
    assert len(report.problems) == 2
    assert "BraTS2021_00003" in report.problems[0] and "BraTS2021_00004" in report.problems[1]
    assert report.made >= 11
    with pytest.raises(PrepError, match=r"no <id>_flair\.nii\.gz"):
        brain.prepare(tmp_path / "out", tmp_path / "out2", progress=False)


def test_a_segmentation_of_nothing_is_named_and_one_of_sixteen_bit_is_read(tmp_path, source, volumes, save_nifti):
    empty, deep = "BraTS2021_00003", "BraTS2021_00005"
    save_nifti(source / empty / f"{empty}_seg.nii.gz", np.zeros_like(volumes[empty][1]), flip=(0, 1))
    marked = np.where(volumes[deep][1] > 0, 65535, 0).astype(np.uint16)
    save_nifti(source / deep / f"{deep}_seg.nii.gz", marked, flip=(0, 1))
    options = {"first": FIRST, "last": LAST, "progress": False}
    report = brain.prepare(source, tmp_path / "out", **options)
    (problem,) = report.problems
    assert f"{empty}_seg.nii.gz marks nothing" in problem
    names = {i.image.stem.rsplit("_", 1)[0]: i for d in read_tree(tmp_path / "out") for i in d.items}
    assert empty not in names and deep in names
    save_nifti(source / deep / f"{deep}_seg.nii.gz", volumes[deep][1], flip=(0, 1))
    assert brain.prepare(source, tmp_path / "as labels", **options).counts == report.counts


def test_two_different_files_of_one_name_are_refused(tmp_path, source, save_nifti):
    again = tmp_path / "raw/again/BraTS2021_00003_seg.nii.gz"
    again.parent.mkdir()
    again.write_bytes((source / "BraTS2021_00003/BraTS2021_00003_seg.nii.gz").read_bytes())
    assert len(brain.find(source)[0]) == 14  # a copy is the same
    save_nifti(again, np.ones((DEPTH, 20, 16), np.uint8))  # another's tumour would be taken for this patient's
    with pytest.raises(PrepError, match=r"00003_seg\.nii\.gz and .*00003_seg\.nii\.gz have one name and differ"):
        brain.prepare(source, tmp_path / "out", progress=False)
