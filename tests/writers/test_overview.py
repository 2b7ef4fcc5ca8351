"""The overview: which studies it shows, in which order and frame, and what it says of the rest."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Problem, Source
from invad_med.data.study import Study, ranked
from invad_med.writers import canvas, overview
from invad_med.writers.heatmap import save_heatmap
from invad_med.writers.overview import draw_overview


def scored(name="a", index=0, slices=1, score=1.0, p=0.5, threshold=1.25, **others):
    source = Source("nifti", (Path("/secret/DOE/x.nii"),), name, slices)
    return Prediction(
        source, index, Status.SCORED, modality="brain", chosen_by=ChosenBy.OPTION, map=np.zeros((8, 8), np.float32),
        score=score, p_value=p, threshold=threshold, map_threshold=2.0, paper_score=others.pop("paper", 0.1), **others,
    )  # fmt: skip


def withheld(name, paper):
    return replace(scored(name, paper=paper), score=None, p_value=None, threshold=None, reason="other timesteps")


def study(first, **numbers):
    """Return the study that a slice stands for; without a verdict unless numbers give one."""
    known = {
        "slices": first.source.n_slices,
        "scored": first.source.n_slices,
        "first_slice": (first.source, first.index),
    }
    return Study(name=first.source.name, sources=(first.source,), **(known | numbers))


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


def names(words, count):
    """Return the names below the tiles, which stand behind two lines of heading."""
    shown = iter(words[2:])
    return [next(word for word in shown if word.startswith("s:")) for _ in range(count)]


def test_studies_with_a_p_value_come_first_and_in_order_the_others_as_their_slice_ranks(tmp_path, words):
    firsts = [
        scored("s:normal", p=0.9), withheld("s:low", 0.1), scored("s:high", score=9.0, p=0.01),
        withheld("s:high paper", 0.4), scored("s:steeper", score=1.0, threshold=0.1, p=0.01), scored("s:middle", p=0.2),
    ]  # fmt: skip
    judged = [scored("s:one", p=1.0), scored("s:two", p=0.001)]
    studies = [study(p, score=2.0 - i, p_value=0.3 + i / 10) for i, p in enumerate(judged)]
    slices = [*firsts, *judged]
    draw_overview(ranked([*map(study, firsts), *studies], slices), slices, [], tmp_path)
    assert names(words, 8) == [
        "s:one", "s:two", "s:steeper", "s:high", "s:middle", "s:normal", "s:high paper", "s:low",
    ]  # fmt: skip


def test_the_number_of_tiles_is_bounded(tmp_path, words):
    firsts = [scored(f"s:{i:02d}", p=(i + 1) / 101) for i in np.random.default_rng(0).permutation(100)]
    draw_overview(ranked(map(study, firsts), firsts), firsts, [], tmp_path, max_tiles=3)
    assert names(words, 3) == ["s:00", "s:01", "s:02"]
    assert words[0] == "invad-med: 100 slices scored, 0 above threshold, research use only"
    assert words[1] == "3 of 100 studies shown, most abnormal first; of each the slice with the highest score"
    with pytest.raises(ValueError, match="max_tiles=0 must be at least 1"):
        draw_overview([], [], [], tmp_path, max_tiles=0)


@pytest.mark.parametrize(
    ("study_says", "slice_says", "colour"),
    [
        ({"score": 3.0, "threshold": 2.0, "p_value": 0.02}, {"score": 1.0}, canvas.ABOVE),
        ({"score": 1.0, "threshold": 2.0, "p_value": 0.4}, {"score": 1.5}, canvas.BELOW),
        ({"score": 3.0, "p_value": 0.02}, {"score": 1.5}, canvas.UNKNOWN),
        ({}, {"score": 1.5}, canvas.ABOVE),
        ({}, {"score": 1.0}, canvas.BELOW),
        ({}, {"score": None}, canvas.UNKNOWN),
    ],
)
def test_the_frame_is_the_study_s_and_the_picture_its_highest_slice(tmp_path, study_says, slice_says, colour):
    first = replace(scored(index=1, slices=3, **slice_says), map=np.zeros((64, 48), np.float32))
    for index, grey in enumerate((0.1, 0.5, 0.9)):
        save_heatmap(replace(first, index=index), np.full((64, 48), grey, np.float32), tmp_path)
    drawn = np.asarray(Image.open(draw_overview([study(first, **study_says)], [first], [], tmp_path)))
    assert tuple(drawn[150, overview._MARGIN + 1]) == colour
    middle = drawn[180, overview._MARGIN + overview._TILE // 2]
    assert (abs(middle.astype(int) - 128) <= 1).all()
    assert tuple(drawn[180, overview._MARGIN + 10]) == (0, 0, 0)  # narrower than high: black beside it


def test_what_is_said(tmp_path, words):
    firsts = [scored("a/x", 3, 9, score=1.5, p=0.012), scored("y"), withheld("z", 0.1), scored("v", 2, 155)]
    counted = {"scored": 155, "above": 8, "expected_above": 7.75}
    studies = [
        study(firsts[3], score=3.1, threshold=2.2, p_value=0.02, **counted),
        study(firsts[0], score=1.0, p_value=0.2, above=2),
        *map(study, firsts[1:3]),
    ]
    film = Source("dicom", (Path("/secret/DOE.dcm"),), "us", 2)
    predictions = [*firsts, *(Prediction(film, i, Status.NO_MODEL, "no model for DICOM modality US") for i in range(2))]
    predictions += [Prediction(scored("y", slices=3).source, 1, Status.UNREADABLE, "file is cut off or damaged")]
    studies.append(Study(name="us", sources=(film,), slices=2, withheld="no model for DICOM modality US"))
    problems = [Problem(Path("/secret/DOE.png"), "empty file") for _ in range(2)]
    problems += [Problem(Path("/secret/JANE.png"), f"odd {i}") for i in range(8)]
    draw_overview(studies, predictions, problems, tmp_path)
    assert words[0] == "invad-med: 1 of 1 study above threshold, research use only"
    assert words[1] == (
        "4 slices scored, 1 above threshold, 1 without threshold; 4 studies, most abnormal first; of each the slice "
        "with the highest score"
    )
    assert words[2:13] == [
        "v#2", "study above: 3.1 / 2.2   p = 0.02", "8 of 155 slices above, 7.75 expected",
        "a/x#3", "study score 1, no threshold   p = 0.2", "2 of 9 slices above",
        "y", "below: 1 / 1.25   p = 0.5", "z", "calibrated score withheld", "2 ×",
    ]  # fmt: skip
    assert words[13:15] == ["threshold", "0"]
    assert words[15:19] == [
        "No model for 1 input:", "    1 ×  no model for DICOM modality US", "10 files not read:", "    2 ×  empty file",
    ]  # fmt: skip
    assert words[19:] == [
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
    draw_overview([], predictions, [], tmp_path)
    assert words[2:] == [
        "3 slices unfamiliar:",
        "    2 ×  unlike the images that the model was trained on; it resembles Chest X-ray",
        "    1 ×  unlike the images that the model was trained on; it resembles those of no other model",
    ]


@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_any_number_of_tiles_fits(tmp_path, count):
    firsts = [scored(f"long/name/{'x' * 80}{i}\udce4", p=(i + 1) / 30) for i in range(count)]
    drawn = Image.open(draw_overview(map(study, firsts), firsts, [], tmp_path / "new"))
    assert 800 < drawn.width < 1700 and drawn.height < 1500


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        draw_overview([], [], [], tmp_path)
    assert not list(tmp_path.iterdir())
