"""Rules are measured on what the model has not seen, and a data set that cannot be is named."""

import dataclasses
import shutil

import pytest

from invad_med.__main__ import main
from invad_med.commands.rules import cohort_of
from invad_med.data.provenance import Provenance
from invad_med.detection import read_provenance
from invad_med.training.artefact import SHARED
from invad_med.training.cohort import read_cohort


def test_each_data_set_is_measured_by_its_model_or_named(measured_folder, capsys):
    assert (
        main(["rules", str(measured_folder / "BMAD"), "--models_dir", str(measured_folder / "models"), "--rows", "3"])
        == 3
    )
    said = capsys.readouterr()
    head, _, first, *_ = said.out.splitlines()
    assert head.split(" | ")[5].strip() == "Brain_AD" and "Chest" not in head
    assert float(first.split("|")[5]) == 1.0  # brighter squares are found by some rule
    assert "Liver_AD is left out: images in a folder that no layout has" in said.err
    assert "Chest-RSNA is left out: " in said.err


def test_the_division_is_the_models_own(measured_folder):
    root = measured_folder / "BMAD/Brain_AD"
    stated = read_provenance(measured_folder / "models/brain.pt")
    assert cohort_of(root, stated) == read_cohort(root, held_out_fraction=0.4) != read_cohort(root)
    other = dataclasses.replace(stated, seed=5)
    assert cohort_of(root, other) == read_cohort(root, held_out_fraction=0.4, seed=5) != cohort_of(root, stated)
    with pytest.raises(ValueError, match="states 8 training and 12 held-out normal images, the folder divides into"):
        cohort_of(root, dataclasses.replace(stated, held_out_fraction=None))
    with pytest.raises(ValueError, match="are as many as the model was trained with, and others: give the folder"):
        cohort_of(root, dataclasses.replace(stated, data_digest="0" * 16))


@pytest.mark.parametrize("fraction", [1 / 3, 0.5, 0.0])
def test_held_out_images_may_have_been_divided(tmp_path, fraction):
    root = tmp_path / "brain"
    for split, count in (("train/good", 60), ("valid/good/img", 80), ("valid/Ungood/img", 1)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            (root / split / f"{i}.png").touch()
    cohort = read_cohort(root, selection_fraction=fraction)
    assert cohort.shared == (fraction == 0)
    stated = Provenance(
        modality="brain", seed=0, held_out_fraction=0.15, train_images=len(cohort.train),
        held_out_images=len(cohort.calibration), selection_images=len(cohort.selection),
        note=SHARED if cohort.shared else "",
    )  # fmt: skip
    found = cohort_of(root, stated)
    assert (found.train, found.held_out) == (cohort.train, cohort.held_out)
    pooled = len(cohort.calibration) + len(cohort.train)
    assert cohort_of(root, dataclasses.replace(stated, held_out_images=pooled, cross_fit_folds=3)) == found
    with pytest.raises(ValueError, match="cannot be told from those it has not"):
        cohort_of(root, dataclasses.replace(stated, held_out_images=len(cohort.calibration) - 1))


def test_nothing_to_measure_prints_no_table(measured_folder, tmp_path, capsys):
    shutil.copytree(measured_folder / "BMAD/Chest-RSNA", tmp_path / "Chest-RSNA")
    assert main(["rules", str(tmp_path), "--models_dir", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert said.out == "" and "no model for chest" in said.err
