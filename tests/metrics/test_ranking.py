"""Image figures against scikit-learn; what is absent is None."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from invad_med.metrics import auroc, average_precision, bmad9, by_group, f1_max, mad7

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 400)
SCORES = {
    "random": RNG.normal(size=400) + LABELS,
    "tied": RNG.integers(0, 5, 400) + LABELS,
    "constant": np.full(400, 3.0),
    "huge": (RNG.normal(size=400) + LABELS) * 1e300,
    "tiny": (RNG.normal(size=400) + LABELS) * 1e-300,
    "negative": -np.abs(RNG.normal(size=400)),
    "separated": LABELS * 2.0 + RNG.uniform(size=400),
    "inverted": -LABELS * 2.0 + RNG.uniform(size=400),
}


def reference_f1(labels, scores):
    precision, recall, _thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return f1.max()


@pytest.mark.parametrize("name", SCORES)
def test_against_scikit_learn(name):
    scores = SCORES[name]
    assert auroc(LABELS, scores) == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12)
    assert average_precision(LABELS, scores) == pytest.approx(average_precision_score(LABELS, scores), abs=1e-12)
    best, threshold = f1_max(LABELS, scores)
    assert best == pytest.approx(reference_f1(LABELS, scores), abs=1e-12)
    called = scores >= threshold
    assert best == pytest.approx(2 * (called & (LABELS == 1)).sum() / (called.sum() + LABELS.sum()))


@pytest.mark.parametrize("labels", [np.zeros(5, int), np.ones(5, int), np.zeros(0, int)])
def test_one_class_has_no_figure(labels):
    scores = np.arange(len(labels), dtype=float)
    assert auroc(labels, scores) is None and average_precision(labels, scores) is None
    assert f1_max(labels, scores) is None


def test_two_images_are_enough():
    assert auroc([0, 1], [1.0, 2.0]) == 1.0 and f1_max([0, 1], [1.0, 2.0]) == (1.0, 2.0)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auroc([0, 1], [1.0, np.nan])
    with pytest.raises(ValueError, match=r"labels must be 0 \(normal\) or 1 \(abnormal\), found \[0, 255\]"):
        auroc([0, 255], [1.0, 2.0])
    with pytest.raises(ValueError, match="two vectors of one length"):
        auroc([0, 1, 1], [1.0, 2.0])


def test_the_two_means_are_not_mixed():
    seven = dict.fromkeys(("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max"), 0.5)
    assert mad7(seven) is None
    assert mad7(seven | {"aupro": 0.85}) == pytest.approx(0.55)
    # PatchCore as BMAD published it: 86.4 in the literature
    patchcore = {
        "brain": {"image_auroc": 0.9165, "pixel_auroc": 0.9697},
        "liver": {"image_auroc": 0.6028, "pixel_auroc": 0.9643},
        "resc": {"image_auroc": 0.9155, "pixel_auroc": 0.9648},
        "oct2017": {"image_auroc": 0.9857},
        "chest": {"image_auroc": 0.7614},
        "histopathology": {"image_auroc": 0.6934},
    }
    assert bmad9(patchcore) == pytest.approx(0.864, abs=5e-4)
    assert bmad9({k: v for k, v in patchcore.items() if k != "chest"}) is None


def test_a_patient_is_as_abnormal_as_the_worst_slice():
    ids, labels, scores = by_group(["b", "a", "b", "a"], np.array([0, 0, 1, 0]), np.array([1.0, 5.0, 3.0, 2.0]))
    assert ids == ["b", "a"] and labels.tolist() == [1, 0] and scores.tolist() == [3.0, 5.0]
