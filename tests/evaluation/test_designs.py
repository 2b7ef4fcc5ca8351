"""Designs are measured as scikit-learn would, resampled by patient, and averaged over seeds, folds and kinds."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from invad_med.data.bmad import read_dataset
from invad_med.detection import load_detector
from invad_med.evaluation.design_tables import (
    MEAN,
    Run,
    average,
    by_kind,
    difference,
    mean_of_kinds,
    report,
    table_of,
)
from invad_med.evaluation.designs import (
    Draws,
    Measured,
    Quantity,
    Sample,
    draws_of,
    kind_of,
    measure,
    read_measured,
    units,
)
from invad_med.evaluation.truth import read_truth
from tests.conftest import save

AUROC = Quantity.VALID_AUROC


def sample(value, *replicates):
    return Sample(value, np.array(replicates or (value, value), float))


def measured(*values, images="i", **others):
    """Make what a model reaches: the AUROC on valid with two replicates, and other figures by name."""
    samples = {AUROC: sample(*values)} if values else {}
    samples |= {Quantity[name]: value for name, value in others.items()}
    return Measured("t", "m", "d", True, images, (5, 4), samples)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("oct_fold0", "oct"),
        ("oct_fold12", "oct"),
        ("oct_cls_fold1", "oct_cls"),
        ("fold1", "fold1"),
        ("_fold1", "_fold1"),
    ],
)
def test_folds_are_told_by_the_ends_of_their_names(name, kind):
    assert kind_of(name) == kind


def test_seeds_then_folds_then_kinds_count_the_same():
    results = {
        Run("a", "brain", 0): measured(0.9, 0.8, 1.0),
        Run("a", "brain", 1): measured(0.7, 0.6, 0.8),
        Run("a", "oct_fold0", 0): measured(0.5, 0.5, 0.3),
        Run("a", "oct_fold0", 1): measured(0.7, 0.7, 0.5),
        Run("a", "oct_fold1", 0): measured(0.3, 0.2, 0.2),
        Run("a", "oct_fold1", 1): measured(0.1, 0.2, 0.4),
    }
    kinds = by_kind(results, ["a"], AUROC)
    assert list(kinds) == ["brain", "oct"]
    assert kinds["brain"]["a"].value == pytest.approx(0.8) and kinds["oct"]["a"].value == pytest.approx(0.4)
    assert kinds["brain"]["a"].replicates == pytest.approx([0.7, 0.9])
    assert kinds["oct"]["a"].replicates == pytest.approx([0.4, 0.35])
    pooled = mean_of_kinds(kinds, ["a"])["a"]  # oct has twice as many trainings and weighs no more
    assert pooled.value == pytest.approx(0.6) and pooled.replicates == pytest.approx([0.55, 0.625])


def test_a_replicate_that_does_not_exist_is_left_out_of_its_fold_and_ends_the_mean_of_kinds():
    within = average([sample(0.5, np.nan, 0.4, np.nan), sample(0.7, 0.6, 0.8, np.nan)])
    assert within.value == pytest.approx(0.6)
    np.testing.assert_allclose(within.replicates, [0.6, 0.6, np.nan])
    np.testing.assert_allclose(average([within, sample(1, 1, 1, 1)], every=True).replicates, [0.8, 0.8, np.nan])


def test_the_mean_is_over_kinds_that_every_design_has_whole():
    results = {Run(d, s, k): measured(0.5) for d in "ab" for s in ("brain", "chest", "liver") for k in (0, 1)}
    del results[Run("b", "chest", 1)]  # one seed of two is not the same thing
    results[Run("b", "liver", 0)] = measured()  # a figure that does not exist
    results[Run("a", "brain", 0)] = measured(0.9)
    kinds = by_kind(results, ["a", "b"], AUROC)
    assert {kind: set(found) for kind, found in kinds.items()} == {"brain": {"a", "b"}, "chest": {"a"}, "liver": {"a"}}
    assert {d: s.value for d, s in mean_of_kinds(kinds, ["a", "b"]).items()} == pytest.approx({"a": 0.7, "b": 0.5})
    assert mean_of_kinds({"chest": kinds["chest"]}, ["a", "b"]) == {}


def test_differences_are_paired_by_replicate():
    draws = np.random.default_rng(0).normal(0.8, 0.1, 500)
    same = difference(Sample(0.8, draws), Sample(0.8, draws))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    rounding = difference(Sample(0.8, draws + 1e-15), Sample(0.8, draws))
    assert abs(rounding.low) == abs(rounding.high) == 0.0
    better = difference(Sample(0.81, draws + 0.01), Sample(0.8, draws))  # far within either's interval
    assert (better.value, better.low, better.high) == pytest.approx((0.01, 0.01, 0.01))


def test_the_table_says_which_is_better_and_false_alarms_are_not():
    rates = {"today": (0.05, 0.04, 0.06), "new": (0.09, 0.08, 0.1)}
    results = {
        Run(d, s, 0): measured(
            *values, TEST_FALSE_POSITIVES=sample(*rates[d]), TEST_AUROC=sample(0.4), VALID_PIXEL_AP=sample(0.3)
        )
        for d, values in (("today", (0.7, 0.6, 0.8)), ("new", (0.75, 0.65, 0.85)))
        for s in ("brain", "chest")
    }
    table = table_of(results, ["today", "new"], True).set_index(["figure", "kind", "design"])
    row = table.loc[str(AUROC), MEAN, "new"]
    assert row[["value", "difference", "difference_low"]].tolist() == pytest.approx([0.75, 0.05, 0.05])
    assert row["verdict"] == "better" and (row["low"], row["high"]) == pytest.approx((0.655, 0.845))
    assert table.loc["test_false_positive_rate", "brain", "new"]["verdict"] == "worse"
    assert table.loc["valid_pixel_ap", "chest", "new"]["verdict"] == "not distinguishable"
    first = table.loc[str(AUROC), MEAN, "today"]
    assert np.isnan(first["difference"]) and first["verdict"] == ""
    assert not [f for f in table_of(results, ["today", "new"], False)["figure"] if f.startswith("test")]
    text = report(results, {"today": "", "new": "--steps 9"}, "", False)
    assert "| mean of kinds | 0.700 | 0.750, +0.050 [+0.050, +0.050] better |" in text
    assert "By the mean of kinds on valid, compared with today: new is better." in text
    assert "chest 5 and 4" in text and "on test" not in text and "held out different images" not in text
    assert "Image AUROC on test" in report(results, {"today": "", "new": ""}, "", True)
    assert "By seed" not in text
    more = {Run(d, s, 1): measured({"today": 0.8, "new": 0.7}[d]) for d in rates for s in ("brain", "chest")}
    assert "seed 0: new +0.050; seed 1: new -0.100." in report({**results, **more}, {"today": "", "new": ""}, "", False)
    results[Run("new", "chest", 0)] = measured(0.7, images="others")
    assert "held out different images of chest, seed 0" in report(results, {"today": "", "new": ""}, "", False)


def test_a_patient_of_two_folds_and_two_cohorts_is_drawn_once(tmp_path):
    lines = "split,class,name,patient\ntrain,good,0,A\ntrain,good,1,B\nvalid,Ungood,2,C\ntest,good,3,D\n"
    for fold in range(2):
        root = tmp_path / f"brain_fold{fold}"
        for i, place in enumerate(("train/good", "train/good", "valid/Ungood/img", "test/good/img")):
            save(root / place / f"{i}.png", 10 * fold + i)
        save(root / "valid/good/img/4.png", 4)  # of no known patient, and the same image in both
        (root / "manifest.csv").write_text(lines.replace(",B", ",E") if fold else lines)
    datasets = [read_dataset(tmp_path / f"brain_fold{fold}") for fold in range(2)]
    unit = [units(dataset) for dataset in datasets]
    draws = draws_of("brain", list(zip(datasets, unit, strict=True)))
    assert len(draws["valid"].names) == 5 and draws["test"].names == ("group D",)  # A, B, C, E and the image
    groups, weights = draws["valid"].among(["group C", "group A", "group C"])
    other, others = draws["valid"].among(["group A", "group E"])
    assert groups.tolist() == [1, 0, 1] and (weights[:, 0] == others[:, other[0]]).all()
    assert (draws["valid"].weights.sum(1) == 5).all()
    only = [item for item in datasets[0].items if item.split != "test"]
    assert list(draws_of("brain", [(dataclasses.replace(datasets[0], items=tuple(only)), unit[0])])) == ["valid"]
    again = Draws.of(reversed(draws["valid"].names), "brain valid")
    assert (again.weights == draws["valid"].weights).all() and again.digest() == draws["valid"].digest()
    assert (Draws.of(again.names, "chest valid").weights != again.weights).any()  # kinds are independent


def test_figures_and_replicates_are_scikit_learns(measured_folder):
    dataset = read_dataset(measured_folder / "BMAD/Brain_AD")
    detector = load_detector(measured_folder / "models/brain.pt")
    images = [i.image for i in dataset.items if i.split == "valid"]
    unit = units(dataset)
    draws = draws_of("brain", [(dataset, unit)])["valid"]
    found = measure(detector, dataset, dataset.modality, images, draws, unit, None)
    truth = read_truth(dataset, "valid", dataset.modality)
    assert images == list(truth.images)
    import torch

    from invad_med.data.transforms import to_image

    batch = torch.from_numpy(np.stack([to_image(truth.read(i), dataset.modality, 64) for i in range(len(images))]))
    detected = detector.detect(batch)
    scores, maps = [d.score for d in detected], detector.map(detector.walk(batch), (256, 256)).detach().numpy()
    assert found["image_auroc"].value == pytest.approx(roc_auc_score(truth.labels, scores))
    masks = np.stack([truth.mask(i)[0] for i in range(len(images))])
    expected = average_precision_score(masks.ravel(), maps.ravel())
    assert found["pixel_ap"].value == pytest.approx(expected, abs=2e-3)  # features are kept in half precision
    for k in range(20):
        weight = [draws.weights[k, draws.names.index(unit[path])] for path in images]
        if len({label for label, w in zip(truth.labels, weight, strict=True) if w}) < 2:
            assert np.isnan(found["image_auroc"].replicates[k])
        else:
            drawn = roc_auc_score(truth.labels, scores, sample_weight=weight)
            assert found["image_auroc"].replicates[k] == pytest.approx(drawn)


def test_what_is_written_is_read_again_and_damage_is_measured_anew(tmp_path):
    result = measured(0.5, 0.4, np.nan, TEST_AUROC=sample(0.25, 0.2, 0.3))
    result.write(tmp_path / "a" / "seed0.npz")
    again = read_measured(tmp_path / "a" / "seed0.npz")
    assert (again.trained, again.tested, again.units) == ("t", True, (5, 4)) and set(again.samples) == set(
        result.samples
    )
    np.testing.assert_array_equal(again.samples[AUROC].replicates, [0.4, np.nan])
    assert again.samples[Quantity.TEST_AUROC].value == 0.25
    content = (tmp_path / "a" / "seed0.npz").read_bytes()
    for damaged in (b"", content[:-40], content[:60] + b"xx" + content[62:]):
        (tmp_path / "b.npz").write_bytes(damaged)
        assert read_measured(tmp_path / "b.npz") is None
    assert read_measured(tmp_path / "none.npz") is None
