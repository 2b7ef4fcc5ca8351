"""Heatmaps: the right pixel in the right colour, one scale for all, nothing of the patient, whole files only."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_med.data.prediction import Prediction, Status
from invad_med.data.slices import Source
from invad_med.writers import heatmap
from invad_med.writers.canvas import font, shorten, wrap
from invad_med.writers.heatmap import draw_heatmap, save_heatmap


def prediction(map_, slices=1, index=0, name="case/head", **others):
    source = Source("nifti", (Path("/secret/DOE^JANE/head.nii"),), name, slices)
    values = dict(modality="brain", score=1.5, p_value=0.02, threshold=1.25, map_threshold=2.0, paper_score=0.3)
    return Prediction(source, index, Status.SCORED, map=np.asarray(map_, np.float32), **(values | others))


def panel(picture):
    return np.asarray(picture.crop(picture.info["panel"])).astype(int)


def words(monkeypatch, *args):
    """Return what is written on a picture, line by line."""
    lines = []
    monkeypatch.setattr(heatmap.canvas, "write", lambda draw, xy, text, *rest, **options: lines.append(text))
    draw_heatmap(*args)
    return lines


@pytest.mark.parametrize("shape", [(64, 64), (64, 48), (200, 256), (512, 400), (1955, 1841), (2304, 1600), (3000, 40)])
def test_a_bright_spot_lands_at_its_place(shape):
    height, width = shape
    row, column, extent = height // 4, 2 * width // 3, max(1, min(shape) // 50)
    map_ = np.zeros(shape)
    map_[row - extent : row + extent + 1, column - extent : column + extent + 1] = 4.0
    picture = draw_heatmap(prediction(map_), np.zeros(shape, np.float32))
    drawn = panel(picture)[..., 0]
    rows, columns = np.nonzero(drawn > 0.8 * drawn.max())
    scale = drawn.shape[0] / height
    assert rows.mean() == pytest.approx((row + 0.5) * scale - 0.5, abs=1.0)
    assert columns.mean() == pytest.approx((column + 0.5) * drawn.shape[1] / width - 0.5, abs=1.0)
    assert drawn.shape[1] == pytest.approx(width * scale, abs=0.5)
    assert max(drawn.shape) <= 768 and max(drawn.shape) >= 384


def test_the_image_itself_keeps_its_geometry_and_is_untouched_where_the_map_is_low():
    image = np.zeros((96, 96), np.float32)
    image[10:20, 70:90] = 0.6
    drawn = panel(draw_heatmap(prediction(np.full((96, 96), 1.9)), image))  # 0.95 of the threshold
    assert drawn.shape == (384, 384, 3)
    assert (drawn[52:68, 292:348] == 153).all()
    assert (drawn[92:] == 0).all()


def test_one_scale_for_all_pictures():
    image = np.full((384, 384), 0.4, np.float32)
    low, high = np.full((384, 384), 1.0), np.full((384, 384), 1.0)
    low[:, 200:], high[:, 200:] = 1.8, 9.0  # different largest values
    a, b = (panel(draw_heatmap(prediction(m), image)) for m in (low, high))
    np.testing.assert_array_equal(a[:, :190], b[:, :190])
    twice = panel(draw_heatmap(prediction(2 * low, map_threshold=4.0), image))  # only multiples of the threshold count
    np.testing.assert_array_equal(a, twice)
    top = panel(draw_heatmap(prediction(np.full((384, 384), 4.0)), image))
    np.testing.assert_array_equal(b[:, 210:], top[:, 210:])  # beyond the scale's end as at its end
    np.testing.assert_array_equal(top[0, 0], panel(draw_heatmap(prediction(np.full((384, 384), 9.0)), image))[0, 0])


def test_a_peak_of_one_pixel_shows_in_a_reduced_picture():
    map_ = np.zeros((2400, 2400))
    map_[1200, 1200] = 6.0
    assert panel(draw_heatmap(prediction(map_), np.zeros((2400, 2400), np.float32))).max() > 100


def test_colours_are_those_of_the_bar():
    ratios = np.repeat(np.linspace(0, 2, 65)[:, None], 384, axis=1)
    image = np.full((65, 384), 110 / 255, np.float32)  # the grey the bar is drawn on
    picture = draw_heatmap(prediction(2.0 * ratios), image)
    _, top, right, bottom = picture.info["panel"]
    bar = np.asarray(picture)[top:bottom, right + 12 + 8].astype(int)
    drawn = panel(picture)
    for i in (5, 20, 45, 60):
        np.testing.assert_allclose(drawn[i, 10], bar[len(bar) - 1 - round(i * (len(bar) - 1) / 64)], atol=12)


def test_opacity_grows_and_the_image_stays_visible():
    stripes = np.tile(np.array([0.2, 0.8], np.float32), (384, 192))
    contrast = []
    for value in (0.0, 2.0, 2.3, 2.6, 3.0, 100.0):
        drawn = panel(draw_heatmap(prediction(np.full((384, 384), value)), stripes))
        contrast.append(int(drawn[9, 9].sum() - drawn[9, 8].sum()))
    assert contrast[0] == contrast[1] == 3 * 153
    assert all(a > b for a, b in itertools.pairwise(contrast[1:5]))
    assert contrast[-1] == contrast[-2] > 0.25 * contrast[0]


def test_the_contour_runs_where_the_map_crosses_the_threshold():
    map_ = np.zeros((400, 400))
    map_[100:200, 150:300] = 2.5
    drawn = panel(draw_heatmap(prediction(map_), np.zeros((400, 400), np.float32)))
    rows, columns = np.nonzero((drawn == heatmap._CONTOUR).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (99, 200, 149, 300)
    assert not ((rows > 100) & (rows < 199) & (columns > 150) & (columns < 299)).any()
    flat = panel(draw_heatmap(prediction(np.full((400, 400), 9.0)), np.zeros((400, 400), np.float32)))
    assert not (flat == heatmap._CONTOUR).all(-1).any()


def test_colour_images_and_values_that_are_not_finite():
    image = np.zeros((384, 400, 3), np.float32)
    image[..., 1] = 1.0
    map_ = np.full((384, 400), np.nan)
    map_[0, 0] = np.inf
    assert (panel(draw_heatmap(prediction(map_), image)) == (0, 255, 0)).all()


def test_the_caption(monkeypatch):
    image = np.zeros((400, 400), np.float32)
    lines = words(monkeypatch, prediction(image, slices=40, index=7), image)
    assert lines == [
        "4", "threshold", "0", "2", "case/head#7",
        "Brain MRI · score 1.5 (threshold 1.25) · p = 0.02 · above threshold", "research use only",
    ]  # fmt: skip
    assert "case/head" in words(monkeypatch, prediction(image), image)  # one slice needs no number
    assert "below threshold" in " ".join(words(monkeypatch, prediction(image, score=1.25), image))


def test_a_withheld_calibration_is_said(monkeypatch):
    image = np.zeros((400, 400), np.float32)
    reason = "calibrated for the timesteps [(0, 333)], not [(0, 200)]: score, p-value and threshold are withheld"
    withheld = prediction(image, score=None, threshold=None, p_value=None, reason=reason)
    text = " ".join(words(monkeypatch, withheld, image))
    assert f"Brain MRI · calibrated score withheld: {reason} · paper score 0.3 research use only" in text
    assert "prior norm" in text and "threshold 0" not in text
    assert "(no threshold)" in " ".join(words(monkeypatch, prediction(image, threshold=None), image))


def test_nothing_of_the_path_is_shown_or_stored(monkeypatch, tmp_path):
    image = np.zeros((64, 64), np.float32)
    path = save_heatmap(prediction(image), image, tmp_path)
    with Image.open(path) as written:
        assert written.info == {"Software": "invad-med result, research use only", "panel": "12 12 396 396"}
    assert b"DOE" not in path.read_bytes()
    assert not any("DOE" in line or "secret" in line for line in words(monkeypatch, prediction(image), image))


@pytest.mark.parametrize("name", ["x" * 300, "scan\n\udce4\x00/b", "naïve/肝臓"])
def test_odd_names_are_drawn(name):
    image = np.zeros((64, 64), np.float32)
    assert draw_heatmap(prediction(image, name=name), image).width < 600


def test_files_are_named_by_source_and_slice(tmp_path):
    image = np.zeros((64, 64), np.float32)
    for options, name in (
        (dict(), "case/head.png"),
        (dict(name="a/b.c", slices=12, index=3), "a/b.c_s003.png"),
        (dict(name="n", slices=1200, index=3), "n_s0003.png"),
    ):
        path = save_heatmap(prediction(image, **options), image, tmp_path)
        assert path == tmp_path / "heatmaps" / name
        assert Image.open(path).mode == "RGB"
    drawn = draw_heatmap(prediction(image), image)
    written = Image.open(save_heatmap(prediction(image), image, tmp_path / "2"))
    np.testing.assert_array_equal(np.asarray(written), np.asarray(drawn))


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    image = np.zeros((64, 64), np.float32)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_heatmap(prediction(image), image, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_cannot_be_drawn_is_refused():
    image = np.zeros((64, 64), np.float32)
    with pytest.raises(ValueError, match=r"needs a map and a map_threshold > 0, not None \(status: scored\)"):
        draw_heatmap(prediction(image, map_threshold=None), image)
    with pytest.raises(ValueError, match=r"map_threshold > 0, not 0\.0"):
        draw_heatmap(prediction(image, map_threshold=0.0), image)
    with pytest.raises(ValueError, match="needs a map"):
        draw_heatmap(replace(prediction(image), map=None), image)
    with pytest.raises(ValueError, match=r"image of shape \(64, 32\), but the map has \(64, 64\)"):
        draw_heatmap(prediction(image), image[:, :32])
    with pytest.raises(IndexError, match="slice 4 of a source with 4"):
        save_heatmap(prediction(image, slices=4, index=4), image, Path("never"))


def test_text_is_made_to_fit():
    short = shorten("a/very/long/name/of/a/file", 13, 80)
    assert short.startswith("a/v") and short.endswith("ile") and "…" in short
    assert font(13).getlength(short) <= 80
    assert shorten("fits", 13, 80) == "fits"
    lines = wrap("one two three four five six seven", 13, 80, 3)
    assert len(lines) == 3 and all(font(13).getlength(line) <= 80 for line in lines)
    assert wrap("one two", 13, 500, 3) == ["one two"] and wrap("", 13, 80, 3) == []
