"""Which cells of abnormal images are abnormal, of masks made by hand."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from invad_med.data.modalities import find_modality
from invad_med.training.cohort import Cohort, read_cohort
from invad_med.training.features import divide_features, lesion_cells
from tests.conftest import save


def mask(path, *boxes, size=(64, 64)):
    """Write a mask of boxes (top, bottom, left, right)."""
    pixels = np.zeros(size, np.uint8)
    for top, bottom, left, right in boxes:
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def cohort(tmp_path):
    def make(*masks):
        images = tuple(save(tmp_path / f"{i}.png", i) for i in range(len(masks)))
        return Cohort(find_modality("brain"), (), (), (), images, masks)

    return make


def test_a_cell_counts_of_which_half_is_marked(cohort, tmp_path):
    one = mask(tmp_path / "m" / "one.png", (0, 16, 32, 48), (16, 24, 0, 16), (48, 54, 48, 64))
    found = lesion_cells(cohort(one, mask(tmp_path / "m" / "none.png")), 4)
    expected = np.zeros((2, 4, 4), bool)
    expected[0, 0, 2] = True  # whole
    expected[0, 1, 0] = True  # half; six rows of sixteen at the lower right are less
    assert np.array_equal(found.numpy(), expected)


def test_cells_are_of_the_square_that_the_network_sees(cohort, tmp_path):
    wide = tmp_path / "wide.png"
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(wide)
    whole = mask(tmp_path / "m" / "wide.png", (0, 32, 0, 64), size=(32, 64))
    padded = Cohort(find_modality("brain"), (), (), (), (wide,), (whole,))
    assert find_modality("brain").fit != "stretch"
    assert lesion_cells(padded, 4).numpy()[0].tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_patients_are_told_apart_by_numbers(tmp_path):
    a, b, c, d = (tmp_path / name for name in "abcd")
    patients = {a: "P1", b: "P2", c: "P1", d: "P1"}
    cohort = Cohort(find_modality("brain"), (), (a, b), (a, b), (c, d), (None, None), patients)
    found = divide_features(torch.zeros(4, 2, 4, 4), cohort, 4).patients
    assert found == ([0, 1], [0, 0])


def test_without_every_mask_there_are_none(cohort, tmp_path):
    one = mask(tmp_path / "m" / "one.png", (0, 16, 0, 16))
    assert lesion_cells(cohort(one, None), 4) is None
    assert lesion_cells(cohort(), 4) is None


@pytest.mark.parametrize("kind", ["damaged", "other size", "gone"])
def test_a_mask_that_is_of_no_use_is_warned_of_without_its_name(cohort, tmp_path, caplog, kind):
    bad = mask(tmp_path / "m" / "SECRET.png", (0, 16, 0, 16), size=(64, 64) if kind == "damaged" else (32, 64))
    if kind == "damaged":
        bad.write_bytes(bad.read_bytes()[:60])
    elif kind == "gone":
        bad.unlink()
    with caplog.at_level(logging.WARNING):
        assert lesion_cells(cohort(mask(tmp_path / "m" / "one.png"), bad), 4) is None
    assert "masks of valid are not used" in caplog.text and "SECRET" not in caplog.text


def test_a_cohort_has_the_masks_of_its_abnormal_images(noise_set):
    cohort = read_cohort(noise_set)
    label = noise_set / "valid" / "Ungood" / "label"
    assert cohort.masks == (label / "u0.png", label / "u1.png")
    assert [path.name for path in cohort.abnormal] == ["u0.png", "u1.png"]
