"""The table of modalities and how an input finds its row."""

import pytest

from invad_med.data.modalities import all_modalities, find_modality, modality_for_dicom


def test_names_and_words_are_unambiguous():
    names = [n.casefold() for m in all_modalities().values() for n in {m.name, *m.words}]
    assert len(set(names)) == len(names)
    for modality in all_modalities().values():
        for name in (modality.name, modality.name.upper(), *modality.words):
            assert find_modality(name) is modality
    assert find_modality("knee") is None


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
        ("US", "ABDOMEN", None),
        (None, None, None),
    ],
)
def test_dicom_input_finds_its_modality_or_none(dicom_modality, body_part, expected):
    modality = modality_for_dicom(dicom_modality, body_part)
    assert (modality.name if modality else None) == expected
