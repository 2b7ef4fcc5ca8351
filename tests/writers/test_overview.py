"""The overview: which slices it keeps, in which order and frame, and what it says of the rest."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Problem, Source
from invad_med.writers import canvas, overview
from invad_med.writers.heatmap import draw_heatmap
from invad_med.writers.overview import Overview, draw_overview


def scored(name="a", index=0, slices=1, score=1.0, p=0.5, threshold=1.25, **others):
    source = Source("nifti", (Path("/secret/DOE/x.nii"),), name, slices)
    return Prediction(
        source, index, Status.SCORED, modality="brain", chosen_by=ChosenBy.OPTION, map=np.zeros((8, 8), np.float32),
        score=score, p_value=p, threshold=threshold, map_threshold=2.0, paper_score=others.pop("paper", 0.1), **others,
    )  # fmt: skip


def withheld(name, paper):
    return replace(scored(name, paper=paper), score=None, p_value=None, threshold=None, reason="other timesteps")


PICTURE = Image.new("RGB", (400, 300), (200, 10, 10))


@pytest.fixture
def words(monkeypatch):
    """What is written on the picture."""
    lines = []
    write = canvas.write

    def record(draw, xy, text, *rest, **options):
        lines.append(text)
        write(draw, xy, text, *rest, **options)

    monkeypatch.setattr(overview.canvas, "write", record)
    return lines


def names(gathered):
    return [p.source.name for p, _ in gathered.tiles]


def test_the_best_slice_of_each_source_is_kept_small_and_without_its_map():
    gathered = Overview()
    for i, (p, score) in enumerate([(0.5, 1.0), (0.1, 1.4), (0.1, 1.5), (0.4, 1.1)]):
        gathered.add(scored(index=i, slices=4, score=score, p=p), PICTURE)
    ((kept, thumb),) = gathered.tiles
    assert (kept.index, kept.map) == (2, None)
    assert thumb.size == (224, 168)


def test_the_most_abnormal_come_first_and_those_without_calibration_last():
    gathered = Overview()
    for prediction in (
        scored("normal", p=0.9), withheld("low", 0.1), scored("high", score=9.0, p=0.01), withheld("high paper", 0.4),
        scored("steeper", score=1.0, threshold=0.1, p=0.01), scored("middle", p=0.2),
    ):  # fmt: skip
        gathered.add(prediction, PICTURE)
    assert names(gathered) == ["steeper", "high", "middle", "normal", "high paper", "low"]


def test_the_number_of_tiles_is_bounded():
    gathered = Overview(max_tiles=3)
    rng = np.random.default_rng(0)
    values = rng.permutation(100)
    for value in values:
        gathered.add(scored(f"s{value:02d}", p=(value + 1) / 101), PICTURE)
        assert len(gathered.tiles) <= 3
    assert names(gathered) == ["s00", "s01", "s02"]
    gathered.add(scored("s77", p=0.001), PICTURE)  # dropped before, and back with a better slice
    assert names(gathered) == ["s77", "s00", "s01"]
    with pytest.raises(ValueError, match="max_tiles=0 must be at least 1"):
        Overview(0)


def test_the_slice_is_cut_out_of_its_heatmap():
    map_ = np.zeros((64, 64), np.float32)
    prediction = replace(scored(), map=map_)
    gathered = Overview()
    gathered.add(prediction, draw_heatmap(prediction, np.full((64, 64), 0.5, np.float32)))
    thumb = np.asarray(gathered.tiles[0][1])
    assert thumb.shape == (224, 224, 3) and (abs(thumb.astype(int) - 128) <= 1).all()


def test_frames_tell_the_finding(tmp_path):
    tiles = [
        (scored("x", score=1.5, p=0.01), PICTURE.resize((224, 168))),
        (scored("y", score=1.0), PICTURE.resize((224, 168))),
        (withheld("z", 0.1), PICTURE.resize((224, 168))),
    ]
    path = draw_overview(tiles, [p for p, _ in tiles], [], tmp_path / "new" / "overview.png")
    assert path == tmp_path / "new" / "overview.png"
    drawn = np.asarray(Image.open(path))
    where = overview._MARGIN + (overview._TILE + overview._MARGIN) * np.arange(3)
    for left, colour in zip(where, (canvas.ABOVE, canvas.BELOW, canvas.UNKNOWN), strict=True):
        assert tuple(drawn[150, left + 1]) == colour
        assert tuple(drawn[150, left + overview._TILE // 2]) == (200, 10, 10)


def test_what_is_said(tmp_path, words):
    gathered, predictions = Overview(), []
    for prediction in (scored("a/x", 3, 9, score=1.5, p=0.012), scored("y"), withheld("z", 0.1)):
        gathered.add(prediction, PICTURE)
        predictions.append(replace(prediction, map=None))
    film = Source("dicom", (Path("/secret/DOE.dcm"),), "us", 2)
    predictions += [Prediction(film, i, Status.NO_MODEL, "no model for DICOM modality US") for i in range(2)]
    predictions += [Prediction(scored("y", slices=3).source, 1, Status.UNREADABLE, "file is cut off or damaged")]
    problems = [Problem(Path("/secret/DOE.png"), "empty file") for _ in range(2)]
    problems += [Problem(Path("/secret/JANE.png"), f"odd {i}") for i in range(8)]
    gathered.save(tmp_path / "o.png", predictions, problems)
    assert words[0] == "invad-med: 3 slices scored, 1 above threshold, 1 without threshold, research use only"
    assert words[1] == "3 inputs, most abnormal first; of each the most abnormal slice"
    assert words[2:8] == [
        "a/x#3", "above: 1.5 / 1.25   p = 0.012", "y", "below: 1 / 1.25   p = 0.5", "z", "calibrated score withheld",
    ]  # fmt: skip
    assert words[8:11] == ["2 ×", "threshold", "0"]
    assert words[11:15] == [
        "No model for 1 input:", "    1 ×  no model for DICOM modality US", "10 files not read:", "    2 ×  empty file",
    ]  # fmt: skip
    assert words[15:] == [
        *(f"    1 ×  odd {i}" for i in range(5)), "    3 more, for other reasons",
        "1 slice not read:", "    1 ×  file is cut off or damaged",
    ]  # fmt: skip
    assert not any("DOE" in w or "JANE" in w or "secret" in w for w in words)


def test_unfamiliar_slices_are_counted_by_what_they_resemble(tmp_path, words):
    said = "unlike the images that the model was trained on (distance {} of a limit of 1); it resembles {}"
    seen = [("1.20", "Chest X-ray"), ("3.00", "Chest X-ray"), ("2.00", "those of no other model")]
    predictions = [
        Prediction(scored(f"s{i}").source, 0, Status.UNFAMILIAR, said.format(*seen[i])) for i in range(len(seen))
    ]
    draw_overview([], predictions, [], tmp_path / "o.png")
    assert words[2:] == [
        "3 slices unfamiliar:",
        "    2 ×  unlike the images that the model was trained on; it resembles Chest X-ray",
        "    1 ×  unlike the images that the model was trained on; it resembles those of no other model",
    ]


def test_tiles_left_out_are_counted(tmp_path, words):
    gathered = Overview(max_tiles=2)
    predictions = [scored(f"s{i}") for i in range(5)]
    for prediction in predictions:
        gathered.add(prediction, PICTURE)
    gathered.save(tmp_path / "o.png", predictions, [])
    assert words[1].startswith("2 of 5 inputs shown")


@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_any_number_of_tiles_fits(tmp_path, count):
    gathered = Overview()
    for i in range(count):
        gathered.add(scored(f"long/name/{'x' * 80}{i}\udce4", p=(i + 1) / 30), PICTURE)
    drawn = Image.open(gathered.save(tmp_path / "o.png", [], []))
    assert 800 < drawn.width < 1700 and drawn.height < 1500


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        Overview().save(tmp_path / "o.png", [], [])
    assert not list(tmp_path.iterdir())
