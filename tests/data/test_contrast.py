"""A picture that shows nothing is told from one that shows something."""

import numpy as np
import pytest

from invad_med.data.contrast import without_contrast
from invad_med.data.modalities import Window, all_modalities, find_modality
from invad_med.data.slices import Slice, Source
from invad_med.data.transforms import to_unit
from invad_med.readers.decoding import value_range


def prepared(pixels, unit="stored", modality="brain"):
    shown = (0.0, 255.0) if unit == "8bit" else value_range([pixels])
    return to_unit(Slice(pixels, Source("raster", (), "case", 1), 0, unit, shown), find_modality(modality))


@pytest.mark.parametrize("modality", list(all_modalities()))
@pytest.mark.parametrize(
    ("pixels", "unit"),
    [
        (np.full((64, 64), 7, np.float32), "stored"),
        (np.full((64, 64), 128, np.float32), "8bit"),
        (np.full((64, 64, 3), 90, np.uint8), "8bit"),
        (np.full((64, 64), -3000, np.float32) + np.eye(64, dtype=np.float32), "HU"),
        (np.zeros((1, 1), np.float32), "8bit"),
    ],
)
def test_pictures_of_one_grey_have_no_contrast(pixels, unit, modality):
    shown = prepared(pixels, unit, modality)
    windowed = isinstance(find_modality(modality).intensity, Window)
    expected = unit != "HU" or windowed
    assert (without_contrast(shown) or "").startswith("no contrast: ") == expected


@pytest.mark.parametrize("shape", [(1, 300), (300, 2), (7, 4000)])
def test_slivers_have_no_contrast(shape):
    shown = prepared(np.random.default_rng(0).random(shape).astype(np.float32))
    assert f"{shape[0]} x {shape[1]} pixels" in without_contrast(shown)


@pytest.mark.parametrize("shape", [(8, 8), (64, 9), (64, 64, 3)])
def test_pictures_of_something_have_contrast(shape):
    pixels = np.zeros(shape, np.uint8)
    pixels[2, 3] = 1  # one grey level in one pixel
    assert (
        without_contrast(prepared(pixels if len(shape) == 3 else pixels.astype(np.float32), "8bit", "histopathology"))
        is None
    )


def test_numbers_that_are_none_have_no_contrast():
    assert without_contrast(np.full((16, 16), np.nan, np.float32)) is not None
