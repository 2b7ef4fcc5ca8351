"""The one table of datasets and how an input finds its row."""

import pytest

from invad_med.data.datasets import all_datasets, dataset_for_dicom, find_dataset


def test_names_and_aliases_are_unambiguous():
    names = [n.casefold() for f in all_datasets().values() for n in {f.name, *f.aliases}]
    assert len(set(names)) >= len(all_datasets())
    for facts in all_datasets().values():
        for name in (facts.name, facts.name.upper(), *facts.aliases):
            assert find_dataset(name) is facts
    assert find_dataset("knee") is None


@pytest.mark.parametrize(
    ("modality", "body_part", "expected"),
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
def test_dicom_input_finds_its_dataset_or_none(modality, body_part, expected):
    facts = dataset_for_dicom(modality, body_part)
    assert (facts.name if facts else None) == expected
