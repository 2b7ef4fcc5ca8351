"""The promise of a calibrated score, checked on fresh normals."""

import io

import numpy as np
import pytest
import torch
from scipy import stats

from invad_med.diffusion import Walked
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.conformal import halfway_up

GRID = [(0, 333), (333, 666), (666, 999)]
SCALE = torch.tensor([1.0, 5.0, 0.2, 3.0]).view(1, 4, 1, 1)


def normals(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) * SCALE + 0.7


def walked(z: torch.Tensor) -> Walked:
    return Walked(z, z)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration(4).fit(walked(normals(200, 0)), walked(normals(99, 1)), GRID)


def test_the_map_is_whitened_per_channel(calibration):
    z = normals(3, 2)
    expected = torch.zeros(3, 6, 6)
    for c in range(4):
        train = normals(200, 0)[:, c]
        expected += ((z[:, c] - train.mean()) / train.std()) ** 2 / 4
    torch.testing.assert_close(calibration.map(walked(z)), expected.sqrt(), rtol=1e-4, atol=1e-5)


def test_the_score_is_how_far_two_statistics_lie_above_normal(calibration):
    fitted = normals(200, 0)
    mean, std = (f(fitted.transpose(0, 1).flatten(1)) for f in (lambda x: x.mean(1), lambda x: x.std(1)))
    starts, ends = [0, 1, 3, 4], [2, 3, 5, 6]  # of four overlapping cells on a side of six pixels

    def statistics(z):
        rows = []
        for image in z:
            w = ((image - mean[:, None, None]) / std[:, None, None]).double().numpy()
            cells = [w[:, a:b, c:d].mean((1, 2)) for a, b in zip(starts, ends, strict=True)
                     for c, d in zip(starts, ends, strict=True)]  # fmt: skip
            rows.append([np.sqrt((w**2).mean(0)).mean(), max(np.sqrt((c**2).mean()) for c in cells)])
        return np.log(rows)

    train = statistics(fitted)
    z = normals(5, 3)
    shifted, diffuse = z.clone(), z * 1.3
    shifted[:, :, 1:3, 1:3] += 2 * SCALE  # lengths hardly change: they all point one way
    for changed in (z, shifted, diffuse):
        expected = []
        for a, b in (statistics(changed) - train.mean(0)) / train.std(0):
            expected.append(np.hypot(max(a, 0), max(b, 0)) if max(a, b) > 0 else max(a, b))
        np.testing.assert_allclose(calibration.score(changed).numpy(), expected, rtol=1e-4, atol=1e-4)
    # Far out either way: a region of another kind, or a little more of everything.
    assert (calibration.score(shifted) > calibration.references.threshold(0.02)).all()
    assert (calibration.score(diffuse) > calibration.references.threshold(0.02)).all()


def test_p_values_count_the_held_out_normals(calibration):
    reference = sorted(calibration.score(normals(99, 1)).tolist())
    for score in (0.0, reference[0], reference[50], reference[98], 99.0):
        expected = (1 + sum(r >= score for r in reference)) / 100
        assert calibration.references.p_value(np.float32([score])).item() == pytest.approx(expected)


def test_references_lie_halfway_to_the_next_larger_score(calibration):
    np.testing.assert_allclose(halfway_up([3.0, 1.0, 2.5, 1.0]), [1.75, 1.75, 2.75, 3.0 + 1.5e-5], rtol=1e-12)
    for values in (calibration.score(normals(99, 1)).numpy(), np.float32([-2.0, 0.0]), np.float32([0.0])):
        moved = halfway_up(values).astype(np.float32)
        assert (np.diff(moved) >= 0).all() and (moved > np.sort(values)).all()


def test_no_verdict_hangs_on_the_last_digits_of_a_score(calibration):
    z = normals(99, 1)
    scores, tops = calibration.score(z), calibration.map(walked(z)).flatten(1).kthvalue(35, dim=1).values
    for moved in (1 - 1e-6, 1 + 1e-6):
        assert np.array_equal(*(calibration.references.p_value((scores * by).numpy()) for by in (moved, 1)))
        for rate in (0.01, 0.05, 0.2, 0.5):
            limit, of_the_map = calibration.references.threshold(rate), calibration.references.map_threshold(rate)
            assert torch.equal(scores * moved > limit, scores > limit)
            assert torch.equal(tops * moved > of_the_map, tops > of_the_map)
    assert (scores <= calibration.references.threshold(0.01)).all()  # the largest does not exceed itself
    assert calibration.references.p_value(scores.max()[None].numpy()).item() == pytest.approx(0.02)


def test_images_that_are_there_twice_are_one_step_of_the_p_value():
    held_out = normals(30, 1)
    twice = Calibration(4).fit(walked(normals(50, 0)), walked(torch.cat([held_out, held_out])), GRID)
    scores = twice.score(held_out)
    expected = [(1 + 2 * int((scores >= score).sum())) / 61 for score in scores]
    for moved in (1 - 1e-6, 1, 1 + 1e-6):
        assert twice.references.p_value((scores * moved).numpy()).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_fresh_normals_keep_the_promised_rate(rate):
    # Over many calibrations, since one reference set of 99 has a spread of its own.
    alarms = trials = 0
    for seed in range(40):
        fitted = Calibration(4).fit(walked(normals(50, 3 * seed)), walked(normals(99, 3 * seed + 1)), GRID)
        scores = fitted.score(normals(50, 3 * seed + 2))
        threshold = fitted.references.threshold(rate)
        alarms += int((scores > threshold).sum())
        assert np.array_equal(scores.numpy() > threshold, fitted.references.p_value(scores.numpy()) <= rate + 1e-6)
        trials += 50
    # The limits of a two-sided test at 1e-4, widened by the reference sets' own spread.
    spread = (rate * (1 - rate) * (1 / trials + 1 / (40 * 99))) ** 0.5
    assert abs(alarms / trials - rate) < stats.norm.isf(1e-4) * spread


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_fresh_normals_have_little_above_the_threshold_of_the_map(rate):
    beyond = trials = 0
    for seed in range(40):
        fitted = Calibration(4).fit(walked(normals(50, 3 * seed)), walked(normals(99, 3 * seed + 1)), GRID)
        above = (
            (fitted.map(walked(normals(50, 3 * seed + 2))) > fitted.references.map_threshold(rate))
            .flatten(1)
            .double()
            .mean(1)
        )
        beyond += int((above > 0.05).sum())
        trials += 50
    spread = (rate * (1 - rate) * (1 / trials + 1 / (40 * 99))) ** 0.5
    assert abs(beyond / trials - rate) < stats.norm.isf(1e-4) * spread


def test_a_rate_out_of_reach_has_no_threshold(calibration):
    assert calibration.references.threshold(0.011) is not None
    assert calibration.references.threshold(0.009) is calibration.references.map_threshold(0.009) is None
    with pytest.raises(ValueError, match=r"false_positive_rate=1\.5 must lie between 0 and 1"):
        calibration.references.threshold(1.5)


def test_other_images_never_change_a_score(calibration):
    z = normals(8, 5)
    together = calibration.score(z)
    torch.testing.assert_close(together, torch.cat([calibration.score(i[None]) for i in z]))
    torch.testing.assert_close(calibration.score(z.flip(0)).flip(0), together)


def test_it_travels_in_the_state_dict(calibration):
    buffer = io.BytesIO()
    torch.save(calibration.state_dict(), buffer)
    buffer.seek(0)
    loaded = Calibration(4)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    assert loaded.why_not(GRID) is None
    assert loaded.references.threshold(0.05) == calibration.references.threshold(0.05)
    torch.testing.assert_close(loaded.score(normals(2, 6)), calibration.score(normals(2, 6)))


def test_scores_of_another_grid_are_withheld(calibration):
    assert "not calibrated" in Calibration(4).why_not(GRID)
    reason = calibration.why_not([(0, 500), (500, 999), (999, None)])
    assert reason.startswith("calibrated for the timesteps [(0, 333)")
    assert "withheld" in reason
    state = calibration.state_dict()
    state["_extra_state"] = {"score": "other", "timesteps": []}
    with pytest.raises(ValueError, match="there is no rule 'other' for the score; known are whitened_mean_and_cell"):
        Calibration(4).load_state_dict(state)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_calibrates_nothing(which, value):
    parts = [normals(20, 0), normals(9, 1)]
    parts[which][3, 1, 2, 2] = value
    with pytest.raises(ValueError, match=f"{('train', 'held_out')[which]} is not finite"):
        Calibration(4).fit(*map(walked, parts), GRID)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"held_out has shape \(0, 4, 6, 6\)"):
        Calibration(4).fit(walked(normals(5, 0)), walked(normals(5, 0)[:0]), GRID)
    with pytest.raises(ValueError, match=r"train has shape \(5, 4, 6, 6\): expected \(N > 0, 3, h, w\)"):
        Calibration(3).fit(walked(normals(5, 0)), walked(normals(5, 0)), GRID)
