"""Which images serve what: whole patients, nothing of the test split, each for one thing where there are many."""

import logging

import pytest

from invad_med.data import bmad
from invad_med.data.modalities import find_modality
from invad_med.training.cohort import read_cohort


def plant(root, train, valid=0, slices=4):
    """A data set of patients with so many slices each, in train and valid; files without content."""
    lines = ["split,class,name,patient"]
    for split, folder, patients in (("train", "train/good", train), ("valid", "valid/good/img", valid)):
        for i in range(patients * slices):
            path = root / folder / f"{split[0]}{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            lines.append(f"{split},good,{path.stem},{split}-{i // slices}")
    for name in ("valid/Ungood/img/w.png", "valid/Ungood/label/w.png", "test/good/img/g.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def small(tmp_path):
    return plant(tmp_path / "small" / "brain", 5, 1)


@pytest.fixture
def large(tmp_path):
    return plant(tmp_path / "large" / "brain", 20, 18)


def patients(paths, slices=4):
    return {(path.stem[0], int(path.stem[1:]) // slices) for path in paths}


def test_whole_patients_are_held_out_and_test_is_not_touched(small):
    cohort = read_cohort(small, held_out_fraction=0.2)
    assert patients(cohort.held_out).isdisjoint(patients(cohort.train))
    assert len(cohort.train) == 16 and len(cohort.held_out) == 8
    assert {("v", 0)} < patients(cohort.held_out)
    assert [p.stem for p in cohort.abnormal] == ["w"]
    assert not any("test" in p.parts for p in (*cohort.train, *cohort.held_out, *cohort.abnormal))
    assert read_cohort(small, held_out_fraction=0.2) == cohort
    assert cohort.modality is find_modality("brain")


def test_many_images_choose_the_weights_or_calibrate_by_whole_patients(large, caplog):
    caplog.set_level(logging.INFO)
    cohort = read_cohort(large)
    assert len(cohort.held_out) == 84 and not cohort.shared and not caplog.text
    assert patients(cohort.selection).isdisjoint(patients(cohort.calibration))
    assert (len(cohort.selection), len(cohort.calibration)) == (28, 56)
    assert sorted((*cohort.selection, *cohort.calibration)) == list(cohort.held_out)
    assert read_cohort(large) == cohort
    other = read_cohort(large, seed=1)
    assert other.selection != cohort.selection
    half = read_cohort(large, selection_fraction=0.5)
    assert len(half.selection) == 44 and half.train == cohort.train and half.held_out == cohort.held_out


def test_images_without_a_patient_among_others_are_said(small, caplog):
    manifest = small / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("train,good,t000,train-0\n", ""))
    read_cohort(small)
    assert "manifest.csv names no patient of 1 of 24 normal images" in caplog.text


def test_copies_under_other_names_stay_on_one_side(small, caplog):
    for path in (small / "train/good").iterdir():
        path.write_bytes(path.name.encode())
    copied = (
        ("t000", "t016"),
        ("t004", "t012"),
        ("v000", "t008"),
    )  # patients 0 and 4, 1 and 3, and 2 of train is valid's
    for of, name in copied:
        folder = "valid/good/img" if of[0] == "v" else "train/good"
        (small / folder / f"{of}.png").write_bytes(b"copied from " + of.encode())
        (small / f"train/good/{name}.png").write_bytes(b"copied from " + of.encode())
    for seed in range(8):
        cohort = read_cohort(small, held_out_fraction=0.3, seed=seed)
        assert "t008" not in {p.stem for p in cohort.train}
        learnt = {int(p.stem[1:]) // 4 for p in cohort.train}
        assert len({0, 4} & learnt) != 1 and len({1, 3} & learnt) != 1
    assert "3 of 24 normal images are copies of others under other names" in caplog.text
    assert "1 of train, copies of images of valid, are not learnt from" in caplog.text


def test_few_images_do_both_and_it_is_said(small, large, caplog):
    caplog.set_level(logging.INFO)
    cohort = read_cohort(small)
    assert cohort.shared and cohort.selection == cohort.calibration == cohort.held_out
    assert "8 held-out normal images are too few to divide (at least 10 to choose" in caplog.text
    caplog.clear()
    assert read_cohort(large, selection_fraction=0.6).shared  # too few would calibrate
    assert "too few to divide" in caplog.text
    caplog.clear()
    assert read_cohort(large, selection_fraction=0.0).shared and not caplog.text  # as asked for


def test_folds_calibrate_on_every_image_learnt_from_once_and_patients_whole(small):
    whole = read_cohort(small, held_out_fraction=0.2)
    folds = [read_cohort(small, held_out_fraction=0.2, fold=f"{k}/3") for k in (1, 2, 3)]
    assert sorted(path for fold in folds for path in fold.calibration) == sorted(whole.train)
    assert [len(fold.calibration) for fold in folds] == [8, 4, 4]  # four patients of four slices
    for fold in folds:
        assert sorted((*fold.train, *fold.calibration)) == sorted(whole.train)
        assert patients(fold.train).isdisjoint(patients(fold.calibration))
        assert fold.selection == whole.held_out and fold.abnormal == whole.abnormal
    for wrong in ("0/3", "4/3", "1/1", "2"):
        with pytest.raises(ValueError, match=f"fold='{wrong}' must be k/K"):
            read_cohort(small, fold=wrong)
    with pytest.raises(ValueError, match="fold=1/5: there are only 4 groups of normal training images"):
        read_cohort(small, held_out_fraction=0.2, fold="1/5")


def test_a_patient_of_valid_who_is_learnt_from_is_told(small, caplog):
    manifest = small / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("valid-0", "train-0").replace("train-1", "train-0"))
    cohort = read_cohort(small, held_out_fraction=0.0)
    assert patients(cohort.held_out) == {("v", 0)}
    assert "1 groups of valid/good are learnt from as well" in caplog.text


def test_the_tree_is_searched_once(small, monkeypatch):
    searched = []
    inspect = bmad.inspect_tree
    monkeypatch.setattr(bmad, "inspect_tree", lambda root: searched.append(root) or inspect(root))
    read_cohort(small)
    assert searched == [small]


def test_bad_wishes_are_named(small, tmp_path):
    for key in ("held_out_fraction", "selection_fraction"):
        with pytest.raises(ValueError, match=rf"{key}=1\.0 must be at least 0 and below 1"):
            read_cohort(small, **{key: 1.0})
    with pytest.raises(ValueError, match=r"train_fraction=0 must be above 0 and at most 1"):
        read_cohort(small, train_fraction=0)
    with pytest.raises(ValueError, match="modality 'knee' is none of brain, liver"):
        read_cohort(small, modality="knee")
    (tmp_path / "two").mkdir()
    for name in ("brain", "chest"):
        plant(tmp_path / "two" / name, 2)
    with pytest.raises(ValueError, match="holds 2 data sets, name one"):
        read_cohort(tmp_path / "two")


def test_patients_and_places_of_what_is_not_learnt_from(small):
    lines = [line.split(",") for line in (small / "manifest.csv").read_text().split()]
    rows = [",".join([*line, "0.3" if line[2] != "t019" else ""]) for line in lines[1:]]
    (small / "manifest.csv").write_text("\n".join(["split,class,name,patient,position", *rows]) + "\n")
    cohort = read_cohort(small, held_out_fraction=0.3)
    unlearnt = {*cohort.held_out, *cohort.abnormal}
    assert set(cohort.patients) == set(cohort.positions) == unlearnt
    for path in cohort.held_out:
        split = "train" if path.stem[0] == "t" else "valid"
        assert cohort.patients[path] == f"{split}-{int(path.stem[1:]) // 4}"
        assert cohort.positions[path] == (None if path.stem == "t019" else 0.3)
    (alone,) = cohort.abnormal
    assert cohort.patients[alone] == str(alone) and cohort.positions[alone] is None
