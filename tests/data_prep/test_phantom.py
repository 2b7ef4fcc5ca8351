"""The phantom cohort: its layout, and lesions that are where, and as bright as, the manifest says."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, label

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
        components, _ = label(mask)
        for (r, c), contrast in zip(centres, contrasts, strict=True):
            inside = components == components[round(r), round(c)]
            assert mask[round(r), round(c)] == 255
            np.testing.assert_allclose(np.argwhere(inside).mean(axis=0), (r, c), atol=1.0)
            ring = binary_dilation(inside, iterations=4) & (mask == 0) & (image > 20)
            assert np.sign(np.median(image[inside]) - np.median(image[ring])) == np.sign(contrast)
            lesions += 1
    assert lesions >= 3


def test_a_lesion_changes_nothing_else_and_has_the_stated_contrast():
    z = np.arange(*phantom.Z_RANGE, 4.0)
    patient = phantom.make_patient(17, lesions=3)
    healthy = phantom.make_patient(17)
    assert (len(patient.lesions), healthy.lesions) == (3, ())
    before, after = healthy.render(z), patient.render(z)
    x, y = (
        np.array([phantom.grid_point(*p)[axis] for p in place])
        for axis, place in enumerate(
            ([(0, column) for column in range(before.shape[2])], [(row, 0) for row in range(before.shape[1])])
        )
    )
    touched = np.zeros(before.shape, dtype=bool)
    for lesion in patient.lesions:
        assert 4.0 <= lesion.radius <= 14.0
        distance = lesion.distance(x, y[:, None], z[:, None, None])
        touched |= lesion.profile(x, y[:, None], z[:, None, None]) > 0
        core = after[distance < 0.5].mean()
        shell = before[(distance > 1.25) & (distance < 1.7) & (before > 0.35)].mean()
        # Anatomy shines through a little, and the shell is known by its brightness here, by its tissue there.
        assert core / shell - 1 == pytest.approx(lesion.contrast, abs=0.15)
    np.testing.assert_array_equal(before[~touched], after[~touched])


def test_a_volume_lies_on_the_template(cohort):
    image, mask = phantom.volume(phantom.make_patient(17, lesions=2))
    assert image.shape == mask.shape == (197, 233, 30)
    np.testing.assert_array_equal(image.affine, [[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 2, -10], [0, 0, 0, 1]])
    template, _ = phantom.volume(phantom.template_patient())
    expected = np.round(phantom.template()[:, :, 62:121:2] * 220)
    np.testing.assert_array_equal(np.asarray(template.dataobj), expected)


def test_a_smaller_cohort_leaves_nothing_of_a_larger_one(tmp_path):
    for patients in (2, 1):
        phantom.build(
            tmp_path, train_patients=patients, valid_patients=0, test_patients=0, slices_per_patient=2, progress=False
        )
    assert len(list(tmp_path.rglob("*.png"))) == len(rows(tmp_path)) == 2


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
