"""The phantom cohort: its layout, and lesions that are where, and as bright as, the manifest says."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from data_prep import phantom

pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    output = tmp_path_factory.mktemp("phantom")
    return phantom.build(
        output, train_patients=2, valid_patients=2, test_patients=3, slices_per_patient=6, progress=False
    )


def rows(cohort):
    with (cohort / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def picture(cohort, row, kind):
    return np.asarray(Image.open(cohort / row["split"] / row["class"] / kind / row["name"]))


def test_layout_matches_the_manifest(cohort):
    found = {p.relative_to(cohort).as_posix() for p in cohort.rglob("*.png")}
    expected = set()
    for row in rows(cohort):
        folder = f"{row['split']}/{row['class']}"
        if row["split"] == "train":
            expected.add(f"{folder}/{row['name']}")
        else:
            expected |= {f"{folder}/img/{row['name']}", f"{folder}/label/{row['name']}"}
    assert found == expected
    assert {r["class"] for r in rows(cohort) if r["split"] == "train"} == {"good"}
    assert {r["class"] for r in rows(cohort) if r["split"] == "test"} == {"good", "Ungood"}


def test_no_patient_is_in_two_splits(cohort):
    splits: dict[str, set[str]] = {}
    for row in rows(cohort):
        splits.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(s) == 1 for s in splits.values())
    assert len(splits) == 7


def test_lesions_are_where_the_manifest_says(cohort):
    lesions = 0
    for row in rows(cohort):
        if row["split"] == "train":
            continue
        mask = picture(cohort, row, "label")
        assert mask.shape == (256, 256)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask.max() > 0) == (row["class"] == "Ungood")
        if row["class"] == "good":
            continue
        image = picture(cohort, row, "img").astype(float)
        centres = [tuple(float(v) for v in c.split()) for c in row["lesion_centre_px"].split(";")]
        contrasts = [float(c) for c in row["lesion_contrast"].split(";")]
        rows_, columns = np.indices(mask.shape)
        nearest = np.argmin([(rows_ - r) ** 2 + (columns - c) ** 2 for r, c in centres], axis=0)
        for index, ((r, c), contrast) in enumerate(zip(centres, contrasts, strict=True)):
            inside = (mask > 0) & (nearest == index)
            assert inside.any()
            # A section of an ellipsoid shifts with its tilt, by less than its own size.
            reach = np.sqrt(inside.sum() / np.pi)
            assert np.hypot(rows_[inside].mean() - r, columns[inside].mean() - c) < max(1.5, 0.5 * reach)
            ring = binary_dilation(inside, iterations=4) & (mask == 0) & (image > 20)
            assert np.sign(np.median(image[inside]) - np.median(image[ring])) == np.sign(contrast)
            lesions += 1
    assert lesions >= 3


def test_the_same_arguments_give_the_same_bytes(cohort, tmp_path):
    again = phantom.build(
        tmp_path / "again", train_patients=2, valid_patients=2, test_patients=3, slices_per_patient=6, progress=False
    )
    files = sorted(p.relative_to(cohort) for p in cohort.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((cohort / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_absurd_counts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train_patients must be 0\.\.1000, not -1"):
        phantom.build(tmp_path, train_patients=-1)
    with pytest.raises(ValueError, match="slices_per_patient must be at least 1, not 0"):
        phantom.build(tmp_path, slices_per_patient=0)
