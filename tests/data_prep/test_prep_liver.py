"""BTCV and LiTS volumes to the Liver set, by both recipes."""

import numpy as np
import pytest

from data_prep import liver
from data_prep.layout import PrepError
from invad_med.data.masks import read_mask

DEPTH = 12


@pytest.fixture(scope="module")
def volumes():
    """Name of the image file -> (HU, labels) in display orientation."""
    rng = np.random.default_rng(0)
    made = {}
    for i in range(2):
        image = rng.integers(-1000, 1500, (DEPTH, 24, 24)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[3:10, 4:20, 3:18] = 6
        label[:, 0:3, 0:3] = 1  # spleen
        made[f"img{i + 1:04d}"] = image, label
    for i in range(8):
        image = rng.integers(-1000, 1500, (DEPTH, 24, 24)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[2:11, 5:21, 2:16] = 1
        label[5:8, 8:12, 6:11] = 2
        image[label == 2] = 200
        made[f"volume-{i}"] = image, label
    return made


@pytest.fixture
def source(tmp_path, volumes, save_nifti):
    root = tmp_path / "raw"
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    for i, (name, (image, label)) in enumerate(volumes.items()):
        folder, end = ("Training/img", ".nii.gz") if name.startswith("img") else ("Training Batch 1", ".nii")
        other = name.replace("img", "label").replace("volume", "segmentation")
        flip = ((), (1,), (0, 1, 2))[i % 3]
        save_nifti(root / folder / f"{name}{end}", image, affine, flip)
        save_nifti(root / folder.replace("img", "label") / f"{other}{end}", label, affine, flip)
    return root


def raw_name(group):
    return f"img{group[4:]}" if group.startswith("btcv") else f"volume-{int(group[4:])}"


def test_clean(proven, source, volumes, pixels):
    found = proven(liver.prepare, source, recipe="clean")
    assert found.name == "liver"
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
        image, label = volumes[raw_name(item.group)]
        z = int(item.image.stem.rsplit("_")[1])
        expected = np.clip((image[z].astype(float) + 200) / 450, 0, 1) * 255  # one window, whole slice
        assert np.abs(pixels(item.image) - expected).max() <= 0.51
        assert (label[z] == 2).any() == bool(item.label)
        if item.mask:
            np.testing.assert_array_equal(read_mask(item.mask), label[z] == 2)
    assert all(len(splits) == 1 for splits in where.values()) and len(where) == 10
    assert {g[:4] for g, s in where.items() if s == {"train"}} == {"btcv", "lits"}
    assert {g[:4] for g, s in where.items() if s != {"train"}} == {"lits"}
    assert found.splits["valid"] == {"good": {"images": 6, "masks": 0}, "Ungood": {"images": 3, "masks": 3}}


def test_bmad(proven, source, volumes, pixels):
    found = proven(liver.prepare, source, recipe="bmad")
    assert found.splits["train"] == {"good": {"images": 14, "masks": 0}}
    evaluated = [item for item in found.items if item.split != "train"]
    assert len(evaluated) == 8 * 9 and sum(item.split == "valid" for item in evaluated) == 7
    valid = {item.group for item in evaluated if item.split == "valid"}
    assert valid & {item.group for item in evaluated if item.split == "test"}, "patients are shared, as in BMAD"
    for item in found.items:
        picture = pixels(item.image)
        assert picture.shape == (24, 24) and (picture == 0).mean() > 0.4  # black outside the liver
        inside = picture[picture > 0]
        assert inside.min() >= 30  # so dark values are lifted
        if item.mask:
            lesion = picture[read_mask(item.mask)]  # all of 200 HU
            assert lesion.size == 20 and lesion.min() == lesion.max() > 0


def test_equalise_by_hand():
    image = np.array([[0, 0, 10, 10], [20, 30, 30, 30]], dtype=np.uint8)
    # cumulated without black: 2/6, 3/6, 6/6 -> 85, 127, 255; those below 150 to x * 0.8 + 30
    np.testing.assert_array_equal(liver.equalise(image), [[0, 0, 98, 98], [131, 255, 255, 255]])
    assert not liver.equalise(np.zeros((2, 2), np.uint8)).any()


@pytest.mark.parametrize("cmap", ["gray", "bone"])
def test_imsave_is_that_of_matplotlib(tmp_path, pixels, cmap):
    import matplotlib.pyplot as plt

    from data_prep.volumes import imsave

    values = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32)
    plt.imsave(tmp_path / "a.png", values, cmap=cmap)
    np.testing.assert_array_equal(imsave(values, cmap), pixels(tmp_path / "a.png"))


def test_what_is_missing_is_named(tmp_path, source):
    (source / "Training/label/label0002.nii.gz").unlink()
    report = liver.prepare(source, tmp_path / "out", progress=False)
    assert len(report.problems) == 1 and "img0002.nii.gz has no label0002" in report.problems[0]
    with pytest.raises(PrepError, match="not a folder"):
        liver.prepare(tmp_path / "nowhere", tmp_path / "out", progress=False)


def test_label_on_another_grid_is_put_on_the_images(tmp_path, source, volumes, save_nifti):
    """The same anatomy labelled in slices of half the thickness: positions in mm decide, not indices."""
    image, label = volumes["volume-0"]
    affine = np.diag([-2.0, -2.0, 2.5, 1.0])
    affine[2, 3] = -1.25
    path = save_nifti(tmp_path / "fine.nii", np.repeat(label, 2, axis=0), affine)
    coarse = save_nifti(tmp_path / "image.nii", image, np.diag([-2.0, -2.0, 5.0, 1.0]))
    from data_prep.volumes import read_labels

    np.testing.assert_array_equal(read_labels(path, coarse), label)
    far = save_nifti(tmp_path / "far.nii", label[:6], np.diag([-2.0, -2.0, 2.5, 1.0]) + np.eye(4, k=3)[0:4] * 900)
    with pytest.raises(PrepError, match="marks nothing where"):
        read_labels(far, coarse)


def test_pixels_are_made_square(tmp_path, save_nifti):
    """A disc of 20 mm in pixels of 1 x 2 mm is round in the picture, image and mask alike."""
    from data_prep.volumes import read_volume, to_8bit
    from invad_med.data.modalities import find_modality

    y, x = np.mgrid[0:30, 0:60] * np.array([2.0, 1.0]).reshape(2, 1, 1)
    disc = np.stack([np.hypot(y - 29, x - 29.5) < 10] * 2).astype(np.int16)
    affine = np.diag([-1.0, -2.0, 5.0, 1.0])
    image = save_nifti(tmp_path / "i.nii", disc * 250, affine)
    volume = read_volume(image, save_nifti(tmp_path / "l.nii", disc, affine))
    assert volume.slices[0].spacing == (2.0, 1.0) and volume.distance == 5.0
    picture, mask = to_8bit(volume.slices[0], find_modality("liver"), volume.labels[0])
    assert picture.shape == mask.shape == (60, 60)
    assert abs(int(mask.any(0).sum()) - int(mask.any(1).sum())) <= 1
    assert picture[mask].min() > 200 and np.abs(mask.sum() - np.pi * 100) < 15
    assert picture.min() >= 113  # 0 HU everywhere, no black border from beyond the outermost centres


def test_a_label_volume_without_liver_is_named(tmp_path, source, volumes, save_nifti):
    path = next(source.rglob("label0002.nii.gz"))
    save_nifti(path, np.zeros_like(volumes["img0002"][1]), np.diag([-2.0, -2.0, 5.0, 1.0]))
    (problem,) = liver.prepare(source, tmp_path / "out", progress=False).problems
    assert "label0002.nii.gz marks no liver" in problem
