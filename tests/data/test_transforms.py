"""A slice to the networks' input and a map back to where it belongs."""

from pathlib import Path

import numpy as np
import pytest

from invad_med.data.modalities import all_modalities
from invad_med.data.slices import Slice, Source
from invad_med.data.transforms import from_image, to_image, to_unit

TABLE = all_modalities()


def piece(pixels, unit="stored", value_range=(0.0, 1.0), spacing=None, kind="raster") -> Slice:
    return Slice(np.asarray(pixels), Source(kind, (Path("x"),), "x", 1), 0, unit, value_range, spacing)


def test_a_ct_slice_is_the_same_through_png_nifti_and_dicom():
    hu = np.random.default_rng(0).uniform(-1000, 1000, (32, 32)).astype(np.float32)
    liver = TABLE["liver"]
    dicom = to_unit(piece(hu, "HU", (-900, 900), kind="dicom"), liver)
    np.testing.assert_array_equal(dicom, to_unit(piece(hu, "stored", (-900, 900), kind="nifti"), liver))
    png = to_unit(piece(np.round(dicom * 255), "8bit", (0, 255)), liver)
    np.testing.assert_allclose(png, dicom, atol=0.5 / 255 + 1e-6)
    assert (dicom[hu < -200] == 0).all() and (dicom[hu > 250] == 1).all()


def test_volumes_share_their_sources_scale_and_constants_are_black():
    unit = to_unit(piece(np.array([[-5.0, 50.0, 200.0]], np.float32), value_range=(0.0, 100.0)), TABLE["brain"])
    np.testing.assert_allclose(unit, [[0.0, 0.5, 1.0]])
    assert to_unit(piece(np.full((2, 2), 7.0), value_range=(7.0, 7.0)), TABLE["brain"]).max() == 0.0


def test_colour_and_grey_are_three_channels():
    colour = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image = to_image(piece(colour, "8bit"), TABLE["histopathology"])
    np.testing.assert_allclose(image.transpose(1, 2, 0) * 255, colour, atol=1e-3)
    assert to_image(piece(np.ones((40, 30), np.float32)), TABLE["chest"]).shape == (3, 256, 256)


@pytest.mark.parametrize("dataset", ["brain", "chest"])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (0.5, 4.0), (3.0, 0.7)])
@pytest.mark.parametrize("shape", [(200, 150), (90, 91), (64, 256)])
def test_a_map_comes_back_to_its_place(dataset, spacing, shape):
    # A smooth blob, off centre: where it peaks in the network's image, the map must peak in the slice.
    rows, columns = np.indices(shape)
    blob = np.exp(-((rows / shape[0] - 0.3) ** 2 + (columns / shape[1] - 0.6) ** 2) / 0.02).astype(np.float32)
    one = piece(blob, spacing=spacing)
    back = from_image(to_image(one, TABLE[dataset])[0], one, TABLE[dataset])
    assert back.shape == shape
    peak = np.unravel_index(int(back.argmax()), shape)
    truth = np.unravel_index(int(blob.argmax()), shape)
    assert np.abs(np.subtract(peak, truth)).max() <= 2
    assert np.abs(back - blob).mean() < 0.02


def test_a_colour_map_over_grey_becomes_grey_again():
    grey = np.linspace(0, 240, 64, dtype=np.uint8).reshape(8, 8)
    tinted = np.stack([grey, grey, np.minimum(grey + 15, 255)], axis=-1)
    unit = to_unit(piece(tinted, "8bit"), TABLE["brain"])
    assert unit.shape == (8, 8) and (np.diff(unit.ravel()) > 0).all()
    assert to_unit(piece(tinted, "8bit"), TABLE["histopathology"]).shape == (8, 8, 3)


def test_padding_keeps_proportions_in_millimetres():
    # 100 x 50 pixels of 1 x 2 mm are a square of 100 mm: nothing to pad. With 1 x 1 mm, half the width is black.
    brain = TABLE["brain"]
    white = np.ones((100, 50), np.float32)
    assert float(to_image(piece(white, spacing=(1.0, 2.0)), brain).min()) == pytest.approx(1.0)
    assert float(to_image(piece(white, spacing=(1.0, 1.0)), brain).mean()) == pytest.approx(0.5, abs=0.01)
    assert float(to_image(piece(white, spacing=(1.0, 1.0)), TABLE["chest"]).min()) == pytest.approx(1.0)
