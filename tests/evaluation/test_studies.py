"""Patients judged by all their slices, against counting by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from invad_med.detection import AnomalyDetector, FeatureHost
from invad_med.evaluation.judge import Judgement, judge_studies
from invad_med.evaluation.method import Scored
from invad_med.evaluation.studies import find_studies
from invad_med.metrics import auroc, resample_weights
from invad_med.networks import FrozenFeatures
from invad_med.tracking.describe import dataset_run
from tests.evaluation.test_judge import make


@pytest.fixture(scope="module")
def detector():
    """A detector whose 39 normal patients have two slices each, about 0 with a deviation of 1."""
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), torch.nn.Identity(), image_size=64))
    scores = torch.randn(78, generator=torch.Generator().manual_seed(0))
    detector.studies.fit(scores, torch.arange(39).repeat_interleave(2), torch.full((78,), 0.5))
    return detector


def scored(truth, values, threshold=1.7):
    scores = np.array(values, dtype=float)
    return Scored(scores, np.zeros((len(scores), 4, 4), np.float32), threshold)


def test_patients_are_judged_as_a_study_is(tmp_path, detector):
    truth = make(tmp_path / "brain", good=10, ungood=4, masks=False)  # 5 patients; two have two abnormal slices too
    found = find_studies(truth, scored(truth, [0] * 9 + [9] + [5, 6, 0, 0.1]), detector, 0.05)
    assert found is not None and not found.stand_in and not found.placed and found.patients == 39
    assert found.labels.tolist() == [1, 1, 0, 0, 0] and found.groups.tolist() == list(range(5))
    expected = [detector.judge_study(s) for s in ([0, 0, 5, 6], [0, 0, 0, 0.1], *[[0, 0]] * 2, [0, 9])]
    assert found.scores.tolist() == [verdict.score for verdict in expected]
    assert found.p_values.tolist() == [verdict.p_value for verdict in expected]
    assert found.above.tolist() == [verdict.abnormal for verdict in expected] == [True, False, False, False, True]
    assert found.any_above.tolist() == [True, False, False, False, True]
    result, weights = Judgement(groups=5), np.array([[1.0, 1, 1, 1, 1], [3, 0, 0, 0, 2]])
    judge_studies(result, found, weights)
    assert result.values == {
        "study_auroc": pytest.approx(auroc(found.labels, found.scores)),
        "study_sensitivity": 0.5,
        "study_false_positive_rate": pytest.approx(1 / 3),
        "naive_sensitivity": 0.5,
        "naive_false_positive_rate": pytest.approx(1 / 3),
    }
    assert [result.replicates[f"study_{name}"][1] for name in ("sensitivity", "false_positive_rate")] == [1, 1]


def test_slices_are_compared_by_place_where_every_place_is_known(tmp_path, detector):
    truth = make(tmp_path / "brain", good=10, ungood=4, masks=False)
    values = scored(truth, range(14))
    everywhere = replace(truth, positions=np.full(14, 0.5))
    found = find_studies(everywhere, values, detector, 0.05)
    assert found.placed and found.scores[2] == detector.judge_study([4, 5], [0.5, 0.5]).score
    some = replace(truth, positions=np.append(np.full(13, 0.5), np.nan))
    assert not find_studies(some, values, detector, 0.05).placed


def test_where_no_patient_is_normal_the_normal_slices_of_each_stand_in(tmp_path, detector):
    truth = make(tmp_path / "brain", good=6, ungood=8, masks=False)  # 4 patients; the last has no normal slice
    found = find_studies(truth, scored(truth, range(14)), detector, 0.05)
    assert found.stand_in and found.labels.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert found.groups.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert found.scores[5] == detector.judge_study([2, 3]).score
    assert found.scores[1] == detector.judge_study([2, 3, 8, 9]).score


def test_what_is_out_of_reach_is_not_there(tmp_path, detector):
    truth = make(tmp_path / "brain", good=10, ungood=4, masks=False)
    found = find_studies(truth, scored(truth, range(14), None), detector, 0.01)
    assert found.above is None and found.any_above is None
    result = Judgement(groups=5)
    judge_studies(result, found, resample_weights(5, 20))
    assert set(result.values) == {"study_auroc"}
    unknown = make(tmp_path / "b" / "brain", masks=False, patients=False)
    assert find_studies(unknown, scored(unknown, range(16)), detector, 0.05) is None
    bare = AnomalyDetector(detector.host)
    assert find_studies(truth, scored(truth, range(14)), bare, 0.05) is None


def test_a_run_has_them_in_figures_notes_report_and_tracking(measured, measured_folder):
    brain, chest = measured.evaluations
    figures = json.loads((measured_folder / "out/metrics.json").read_text())
    names = {"study_auroc", "study_sensitivity", "study_false_positive_rate"}
    names |= {"naive_sensitivity", "naive_false_positive_rate"}
    assert names <= set(figures["Brain_AD"]) and not names & set(figures["Chest-RSNA"])
    assert not names & set(figures["Brain_AD"]["scores"]["paper"])
    assert brain.studies.stand_in and chest.studies is None
    assert "no patient is without an abnormal image" in " ".join(brain.notes)
    page = (measured_folder / "out/report.html").read_text()
    assert "Studies: all images of a patient judged together, 10 abnormal and 10 normal" in page
    assert "share of normal studies" in page and "any slice above its threshold" in page
    assert "study_calibration.svg" in dataset_run(brain, {}, {}).texts
    assert "study_calibration.svg" not in dataset_run(chest, {}, {}).texts
