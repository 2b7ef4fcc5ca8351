"""The phantom cohort: its layout, and lesions that are where, and as bright as, the manifest says."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, label

from data_prep import phantom
from data_prep.layout import PrepError
from data_prep.synthetic import make_patient, template_patient
from data_prep.synthetic_images import grid_point, volume
from data_prep.template import Z_RANGE, template

pytest.importorskip("nilearn")
FEW = {"train_patients": 2, "valid_patients": 2, "test_patients": 3, "slices_per_patient": 6, "progress": False}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    output = tmp_path_factory.mktemp("phantom")
    assert phantom.prepare(output, **FEW).made == 7
    return output


def rows(cohort):
    with (cohort / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def picture(cohort, row, kind):
    return np.asarray(Image.open(cohort / row["split"] / row["class"] / kind / f"{row['name']}.png"))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_is_built_as_the_six_are(proven):
    found = proven(phantom.prepare, train_patients=1, valid_patients=1, test_patients=1, slices_per_patient=3)
    assert (found.name, found.dialect, found.problems) == ("phantom", "anomalib", ())
    where: dict[str, set[str]] = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    assert where == {"p0000": {"train"}, "p1000": {"valid"}, "p2000": {"test"}}
    assert {(i.split, i.label) for i in found.items} == {("train", 0), ("valid", 0), ("test", 0), ("test", 1)}
    assert all((i.mask is not None) == bool(i.label) for i in found.items)
    assert {i.image.stem: i.position for i in found.items if i.split == "train"} == {
        "p0000_00": 0.1667, "p0000_01": 0.5, "p0000_02": 0.8333,
    }  # fmt: skip


def test_two_workers_write_the_same_bytes(cohort, tmp_path):
    phantom.prepare(tmp_path, workers=2, **FEW)
    assert contents(tmp_path) == contents(cohort)


def test_the_manifest_states_what_it_was_made_from(cohort):
    stated = json.loads((cohort / "manifest.json").read_text())
    assert (stated["dataset"], stated["recipe"]) == ("phantom", "phantom")
    assert stated["parameters"] == {
        "patients": {"train": 2, "valid": 2, "test": 3}, "slices_per_patient": 6, "seed": 0,
        "z_range_mm": [-10.0, 48.0], "size": 256, "min_mask_pixels": 12,
    }  # fmt: skip
    assert set(stated["cases"]["p0000"]["inputs"]) == {"icbm152_t1", "icbm152_gm", "icbm152_wm"}
    assert all(len(digest) == 64 for digest in stated["cases"]["p0000"]["inputs"].values())


def test_lesions_are_where_the_manifest_says(cohort):
    lesions = 0
    for row in rows(cohort):
        assert bool(row["lesion_centre_px"]) == (row["class"] == "Ungood")
        if row["class"] == "good":
            continue
        mask = picture(cohort, row, "label")
        assert mask.shape == (256, 256)
        assert set(np.unique(mask)) == {0, 255}
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
    z = np.arange(*Z_RANGE, 4.0)
    patient = make_patient(17, lesions=3)
    healthy = make_patient(17)
    assert (len(patient.lesions), healthy.lesions) == (3, ())
    before, after = healthy.render(z), patient.render(z)
    x, y = (
        np.array([grid_point(*p)[axis] for p in place])
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
    image, mask = volume(make_patient(17, lesions=2))
    assert image.shape == mask.shape == (197, 233, 30)
    np.testing.assert_array_equal(image.affine, [[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 2, -10], [0, 0, 0, 1]])
    healthy, _ = volume(template_patient())
    np.testing.assert_array_equal(np.asarray(healthy.dataobj), np.round(template()[:, :, 62:121:2] * 220))


def test_a_smaller_cohort_leaves_nothing_of_a_larger_one(tmp_path):
    for patients in (2, 1):
        phantom.prepare(
            tmp_path, train_patients=patients, valid_patients=0, test_patients=0, slices_per_patient=2, progress=False
        )
    assert len(list(tmp_path.rglob("*.png"))) == len(rows(tmp_path)) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_patients": -1}, r"train_patients must be 0\.\.1000, not -1"),
        ({"slices_per_patient": 0}, "slices_per_patient must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_absurd_numbers_are_refused(tmp_path, wrong, message):
    with pytest.raises(PrepError, match=message):
        phantom.prepare(tmp_path, **wrong)
