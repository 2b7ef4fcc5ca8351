"""The table of modalities, how an input finds its row, and a row from outside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_med.data.bmad import read_tree
from invad_med.data.modalities import (
    Modality,
    Percentile,
    Window,
    all_modalities,
    find_modality,
    modality_for_dicom,
    require_modality,
)
from invad_med.data.published_sets import all_published_sets, find_published_set, modality_of_folder
from invad_med.data.slices import Slice, Source
from invad_med.data.transforms import to_image
from invad_med.inference.choose import choose_modality
from invad_med.readers.sources import scan


def test_names_and_words_are_unambiguous():
    names = [n.casefold() for m in all_modalities().values() for n in {m.name, *m.words}]
    assert len(set(names)) == len(names)
    for modality in all_modalities().values():
        for name in (modality.name, modality.name.upper(), *modality.words):
            assert find_modality(name) is modality and modality_of_folder(name) is modality
    assert find_modality("knee") is None


def test_published_sets_are_unambiguous_and_each_has_a_modality():
    names = [n.casefold() for p in all_published_sets().values() for n in {p.name, *p.aliases}]
    assert len({*names}) >= len(all_published_sets())
    for published in all_published_sets().values():
        for name in (published.name, published.name.upper(), *published.aliases):
            assert find_published_set(name) is published
            assert modality_of_folder(name) is all_modalities()[published.modality]
    assert find_published_set("phantom") is None, "a modality, of which nothing was published"


@pytest.mark.parametrize(
    "name", ["Histo_LC25000lung", "AbdomenCT_kidney", "BrainMRI_LGG", "Chest_NIH", "RetinaOCT_seg", "RetinaOCT_cls"]
)
def test_a_set_that_is_not_bmad_is_nobodys_alias(name):
    assert modality_of_folder(name) is None and find_published_set(name) is None


@pytest.mark.parametrize(
    ("said", "near"), [("brian", "brain"), ("Histopatology", "histopathology"), ("oct2018", "oct2017"), ("zzz", None)]
)
def test_a_wrong_name_is_answered_with_the_choices_and_the_nearest(said, near):
    with pytest.raises(ValueError, match=f"modality {said!r} is none of brain, liver, resc, oct2017, chest") as error:
        require_modality(said)
    assert (f"did you mean {near}?" in str(error.value)) if near else ("did you mean" not in str(error.value))


@pytest.mark.parametrize(
    ("dicom_modality", "body_part", "expected"),
    [
        ("MR", "BRAIN", "brain"),
        ("MR", "head", "brain"),
        ("MR", "KNEE", None),
        ("MR", None, None),
        ("CT", "LIVER", "liver"),
        ("CT", "HEAD", None),
        ("CR", "CHEST", "chest"),
        ("DX", "CHEST", "chest"),
        ("OPT", "RETINA", "resc"),
        ("US", "ABDOMEN", None),
        (None, None, None),
    ],
)
def test_dicom_input_finds_its_modality_or_none(dicom_modality, body_part, expected):
    modality = modality_for_dicom(dicom_modality, body_part)
    assert (modality.name if modality else None) == expected


@pytest.mark.parametrize(
    ("available", "expected"),
    [(None, "brain"), (("phantom", "brain"), "brain"), (("phantom", "chest"), "phantom"), (("chest",), "brain")],
)
def test_of_several_that_dicom_names_the_first_with_a_model_in_the_tables_order(available, expected):
    fitting = [m.name for m in all_modalities().values() if m.allows("MR", "BRAIN")]
    assert fitting == ["brain", "phantom"], "the order of the table"
    modality = modality_for_dicom("MR", "BRAIN", available)
    assert modality is not None and modality.name == expected


def test_ranges_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="window 250 to -200: the second must be the higher one"):
        Window(250, -200)
    with pytest.raises(ValueError, match="percentiles 1 and 99: readers measure"):
        Percentile(1, 99)


def test_a_modality_and_a_published_set_from_outside(tmp_path, monkeypatch):
    """A kind of image and a set that the package has never heard of: two rows, put into the tables."""
    ultrasound = Modality(
        "ultrasound", "Breast ultrasound", ("sonography",), ("US",), ("BREAST",), colour=True, fit="stretch"
    )
    published = replace(
        all_published_sets()["chest"], name="busi", modality="ultrasound", aliases=("Dataset_BUSI",),
        counts={"train": {"good": 1}, "test": {"good": 1}},
    )  # fmt: skip
    monkeypatch.setitem(all_modalities(), "ultrasound", ultrasound)
    monkeypatch.setitem(all_published_sets(), "busi", published)
    for split in ("train", "test"):
        (tmp_path / "Dataset_BUSI" / split / "good").mkdir(parents=True)
        Image.fromarray(np.full((6, 4, 3), (9, 99, 199), np.uint8)).save(tmp_path / f"Dataset_BUSI/{split}/good/a.png")
    (dataset,) = read_tree(tmp_path)
    assert (dataset.name, dataset.published, dataset.modality) == ("busi", published, ultrasound)
    assert dataset.is_as_published("test") and not dataset.notes
    assert {s.stated_modality for s in scan(tmp_path).sources} == {"ultrasound"}

    source = Source("dicom", (Path("x"),), "x", 1, "US", "BREAST")
    assert choose_modality(source, available=["ultrasound"]).modality is ultrasound
    assert choose_modality(Source("raster", (Path("x"),), "x", 1), "Sonography").modality is ultrasound
    assert choose_modality(Source("dicom", (Path("x"),), "x", 1, "CR", "CHEST"), "ultrasound").chosen_by == "dicom"
    piece = Slice(np.full((6, 4, 3), (0, 0, 255), np.uint8), source, 0, "8bit", (0.0, 255.0))
    assert to_image(piece, ultrasound, 8)[:, 4, 4].tolist() == [0.0, 0.0, 1.0]
