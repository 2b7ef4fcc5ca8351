"""Which model an input goes to."""

from pathlib import Path

import pytest

from invad_med.data.slices import Source
from invad_med.inference.choose import choose_modality


def source(modality=None, body_part=None, stated=None) -> Source:
    kind = "dicom" if modality else "raster"
    return Source(kind, (Path("x"),), "x", 1, modality, body_part, stated)


@pytest.mark.parametrize(
    ("found", "option", "expected", "by"),
    [
        # What a file says nothing about goes to the option, the folder, the default, in this order.
        (source(), None, "brain", "default"),
        (source(), "chest", "chest", "option"),
        (source(stated="resc"), None, "resc", "folder"),
        (source(stated="resc"), "chest", "chest", "option"),
        # DICOM decides ...
        (source("CR", "CHEST"), None, "chest", "dicom"),
        (source("MR", "BRAIN"), None, "brain", "dicom"),
        # ... against a statement that it contradicts ...
        (source("CR", "CHEST"), "brain", "chest", "dicom"),
        (source("CR", "CHEST", "brain"), None, "chest", "dicom"),
        # ... but leaves room for one that it does not.
        (source("MR", "BRAIN", "phantom"), None, "phantom", "folder"),
        (source("MR", None), "brain", "brain", "option"),
        # Nothing fits: never another model.
        (source("US", "ABDOMEN"), "brain", None, None),
        (source("MR", "KNEE"), "brain", None, None),
        (source("MR", None), None, None, None),
        (source("CT", "HEAD", "liver"), None, None, None),
        # A body part contradicts as well where DICOM Modality is missing.
        (source(None, "KNEE"), None, None, None),
        (source(None, "KNEE", "brain"), None, None, None),
        (source(None, "KNEE"), "brain", None, None),
        (source(None, "CHEST"), "chest", "chest", "option"),
        (source(None, "HEAD"), None, "brain", "default"),
    ],
)
def test_an_input_finds_its_model_or_none(found, option, expected, by):
    choice = choose_modality(found, option, default="brain")
    assert (choice.modality.name if choice.modality else None, choice.chosen_by) == (expected, by)
    assert (choice.reason is None) == (expected is not None)


def test_the_models_there_are_decide_where_dicom_leaves_several():
    assert choose_modality(source("MR", "BRAIN"), available=("phantom",)).modality.name == "phantom"
    assert choose_modality(source("MR", "BRAIN"), available=("phantom", "brain")).modality.name == "brain"
    assert choose_modality(source("MR", "BRAIN"), "brain", available=("phantom",)).modality.name == "brain", "as stated"
    assert choose_modality(source("CT", "LIVER"), available=("phantom",)).modality.name == "liver", "never another"
    assert choose_modality(source("OPT", "EYE"), "oct2017").chosen_by == "option", "one of two retinal modalities"
    assert choose_modality(source("OPT", "EYE"), available=("oct2017",)).modality.name == "oct2017"


def test_reasons_name_the_tags():
    assert choose_modality(source("US", "ABDOMEN")).reason == "no model for DICOM modality US, body part ABDOMEN"
    assert choose_modality(source("MR")).reason == "no model for DICOM modality MR, no body part stated"
    assert choose_modality(source()).reason == "nothing says what the image shows: give --modality"
    assert choose_modality(source(None, "KNEE"), default="brain").reason == (
        "body part KNEE contradicts Brain MRI, and no DICOM modality is stated"
    )
    with pytest.raises(ValueError, match="modality 'knee' is none of brain, liver"):
        choose_modality(source(), "knee")
