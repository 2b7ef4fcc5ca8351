"""A study is judged by patients, whatever the number of its slices."""

import itertools

import numpy as np
import pytest

from invad_med.scoring.studies import StudyCalibration, expected_highest


@pytest.mark.parametrize("m", [1, 2, 3, 5, 9])
def test_the_expected_highest_is_the_mean_over_all_draws(m):
    scores = [3.0, -1.0, 2.0, 5.0, 4.0]
    draws = itertools.combinations(scores, min(m, 5))
    assert expected_highest(scores, m) == pytest.approx(np.mean([max(draw) for draw in draws]))


def test_a_long_stack_is_no_problem():
    scores = np.arange(3000.0)
    assert expected_highest(scores, 1) == pytest.approx(1499.5)
    assert expected_highest(scores, 3000) == pytest.approx(2999)


def patient(generator, slices):
    """Scores of a normal patient: of its own level, higher at the top of the stack."""
    positions = (np.arange(slices) + 0.5) / slices
    scores = generator.normal(scale=0.5) + 3 * (positions > 0.85) + generator.normal(size=slices)
    return scores, positions


def fitted(generator, m, count=60, slices=12, placed=True):
    stacks = [patient(generator, slices) for _ in range(count)]
    scores, positions = (np.concatenate(part) for part in zip(*stacks, strict=True))
    ids = np.repeat(np.arange(count), slices)
    return StudyCalibration(m).fit(scores, ids, positions if placed else None)


@pytest.mark.parametrize(("m", "slices"), [(1, 5), (4, 5), (4, 30), (8, 155), (16, 30)])
def test_fresh_normal_patients_lie_above_as_rarely_as_promised_whatever_the_stack(m, slices):
    generator = np.random.default_rng(m + slices)
    studies = fitted(generator, m)
    found = [studies.judge(*patient(generator, slices)) for _ in range(100)]
    above = sum(study.score > study.threshold for study in found)
    assert above <= 10  # 5 % and two deviations of it, of the patients and of the threshold
    assert all((study.score > study.threshold) == (study.p_value <= 0.05) for study in found)
    assert 0.3 < np.mean([study.p_value for study in found]) < 0.7


def test_a_few_abnormal_slices_are_found_in_a_long_stack_and_the_mean_does_not_see_them():
    generator = np.random.default_rng(0)
    stacks = [patient(generator, 60) for _ in range(20)]
    for scores, _ in stacks:
        scores[20:30] += 4
    found = {
        m: sum(s.p_value <= 0.05 for s in (fitted(generator, m).judge(*stack) for stack in stacks)) for m in (1, 8)
    }
    assert found[8] >= 15 > found[1]


def test_a_slice_is_compared_with_those_of_like_place():
    generator = np.random.default_rng(1)
    studies = fitted(generator, 1)
    top, bottom = [0.95, 0.97], [0.2, 0.3]
    scores = [3.0, 3.0]
    assert studies.judge(scores, top).p_value > 0.2 and studies.judge(scores, bottom).p_value < 0.05
    unplaced = fitted(generator, 1, placed=False)
    assert unplaced.judge(scores, top) == unplaced.judge(scores, bottom) == unplaced.judge(scores)


def deviations(scores, positions, normal, places):
    """Return scores in deviations from normal slices of like place: weights of a Gaussian and of two slices of all."""
    found = []
    for score, position in zip(scores, positions, strict=True):
        weights = np.exp(-((position - places) ** 2) / (2 * 0.07**2)) + 2 / len(normal)
        mean = np.average(normal, weights=weights)
        found.append((score - mean) / np.sqrt(np.average((normal - mean) ** 2, weights=weights)))
    return np.array(found)


@pytest.mark.parametrize("m", [1, 3])
def test_score_and_references_are_those_of_the_formula(m):
    generator = np.random.default_rng(m)
    sizes = [9, 12, 7, 2, 10]  # the fourth patient has too few slices for m = 3
    normal = generator.normal(size=sum(sizes))
    places = generator.permutation((np.arange(sum(sizes)) + 0.5) / sum(sizes))  # not in the order of the slices
    ids = np.repeat(np.arange(5), sizes)
    studies = StudyCalibration(m).fit(normal, ids, places)
    scores, positions = generator.normal(size=6), np.linspace(0.11, 0.93, 6)

    def highest(values):
        return np.mean([max(draw) for draw in itertools.combinations(values, m)])

    meant = highest(deviations(scores, positions, normal, places))
    study = studies.judge(scores, positions, 0.2)
    assert study.score == pytest.approx(meant, rel=1e-5)
    references = []
    for patient in range(5):
        own = np.flatnonzero(ids == patient)
        if len(own) < m:
            continue
        left = list(own)
        own = []
        for place in positions if len(left) > 6 else places[left]:  # the nearest that is left
            own.append(min(left, key=lambda i: abs(places[i] - place)))
            left.remove(own[-1])
        own = np.array(own)
        others = ids != patient
        references.append(highest(deviations(normal[own], places[own], normal[others], places[others])))
    references = np.sort(references)
    found = studies.references(6, positions)
    assert found[:-1] == pytest.approx((references[:-1] + references[1:]) / 2, rel=1e-5)
    assert found[-1] == pytest.approx(references[-1], rel=1e-4) and study.patients == len(references)
    assert study.p_value == pytest.approx((1 + (found >= study.score).sum()) / (1 + len(found)))
    assert studies.references(6, positions) is studies.references(6, positions)


def test_few_patients_support_no_small_rate():
    study = fitted(np.random.default_rng(2), 4, count=10).judge([100.0] * 5)
    assert study.threshold is None and study.p_value == pytest.approx(1 / 11) and study.patients == 10
    assert StudyCalibration().fit([1.0, 2.0], [0, 0]).judge([9.0]).patients == 1


def test_it_travels_in_a_state():
    studies = fitted(np.random.default_rng(3), 2)
    other = StudyCalibration()
    other.take_state(studies.to_state())
    assert other.judge([2.0, 1.0]) == studies.judge([2.0, 1.0])


def test_patients_of_several_calibrations_are_pooled():
    generator = np.random.default_rng(4)
    parts = [fitted(generator, 2, count) for count in (3, 5, 4)]
    pooled = parts[0].pool([StudyCalibration(), *parts[1:]])
    assert pooled is parts[0] and pooled.has_positions
    assert np.unique(pooled.patients, return_counts=True)[1].tolist() == [12] * 12
    own = [part.scores[part.patients == i] for part in parts[1:] for i in np.unique(part.patients)]
    theirs = [pooled.scores[pooled.patients == i] for i in range(3, 12)]
    assert all(np.array_equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert len(pooled.references(12, np.linspace(0, 1, 12))) == 12
    unplaced = fitted(generator, 2, 2, placed=False)
    assert not pooled.pool([unplaced]).has_positions and len(np.unique(pooled.patients)) == 14


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="highest_of=0 must be at least 1"):
        StudyCalibration(0)
    with pytest.raises(ValueError, match="finite"):
        StudyCalibration().fit([float("nan")], [0])
    with pytest.raises(ValueError, match="finite"):
        StudyCalibration().fit([0.0], [0], [float("inf")])
    with pytest.raises(ValueError, match=r"\[2, 2, 1\] scores, patients and positions"):
        StudyCalibration().fit([0.0, 0.0], [0, 0], [0.0])
    with pytest.raises(ValueError, match=r"\[2, 1\] scores, patients and positions"):
        StudyCalibration().fit([0, 0], [0])
    with pytest.raises(ValueError, match="0 to compare them with"):
        StudyCalibration().judge([0.0])
    with pytest.raises(ValueError, match="patients must be whole numbers"):
        StudyCalibration().fit([0.0, 1.0], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"highest_of=2\.7 must be at least 1, and whole"):
        StudyCalibration(2.7)
    studies = fitted(np.random.default_rng(5), 2)
    for scores, positions in (([np.nan, 1.0], [0.0, 1.0]), ([0.0, 1.0], [np.inf, 1.0])):
        with pytest.raises(ValueError, match="scores and positions of a study must be finite"):
            studies.judge(scores, positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"highest_of": 0}, "highest_of=0"),
        ({"scores": [0.0, float("nan")], "patients": [0, 1], "positions": [0.0, 1.0]}, "finite"),
        ({"patients": [0]}, "scores, patients and positions"),
        ({"positions": [0.5]}, "scores, patients and positions"),
    ],
)
def test_a_state_that_fits_no_calibration_is_refused(change, message):
    state = fitted(np.random.default_rng(3), 2).to_state()
    with pytest.raises(ValueError, match=message):
        StudyCalibration().take_state(state | change)
