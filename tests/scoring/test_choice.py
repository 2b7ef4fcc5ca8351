"""The score is chosen where candidates can be told apart, and stays the default where they cannot."""

import numpy as np
import pytest
import torch

from invad_med.diffusion import Walked
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.choice import EndPoints, _told_from_the_first, as_walk, choose, choose_highest_of
from invad_med.scoring.rules import DEFAULT_RULE, MENU
from invad_med.scoring.studies import HIGHEST_OF, Slices
from invad_med.scoring.studies import MENU as HIGHEST_OF_MENU

WALK, OTHER = as_walk([[200, None]]), as_walk([[300, None]])


def noise(count, seed, channels=8):
    return torch.randn(count, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def walked(z):
    return Walked(z, z)


def end_points(abnormal, seed=0, normal=30):
    return EndPoints(*map(walked, (noise(60, 3 * seed), noise(normal, 3 * seed + 1), abnormal)))


def spots(count, seed, shift, size=1):
    """Noise with a shift in a square of each image, and where that is."""
    z, cells = noise(count, 1000 + seed), torch.zeros(count, 16, 16, dtype=torch.bool)
    for i, (row, column) in enumerate(np.random.default_rng(seed).integers(0, 17 - size, (count, 2))):
        cells[i, row : row + size, column : column + size] = True
    return z + shift * cells[:, None], cells


def test_candidates_that_are_alike_leave_the_default():
    found = choose({WALK: end_points(3 + noise(20, 9)), OTHER: end_points(3 + noise(20, 9))})
    assert set(found.reached.values()) == {1.0} and len(found.reached) == 2 * len(MENU)
    assert (as_walk(found.timesteps), found.rule) == (WALK, DEFAULT_RULE)


def test_small_disease_takes_small_cells():
    abnormal, _ = spots(30, 0, 4)
    found = choose({WALK: end_points(abnormal)})
    assert found.rule == "cell_of_16" and as_walk(found.timesteps) == WALK
    assert found.reached[WALK, "cell_of_16"] > 0.99 > 0.8 > found.reached[WALK, DEFAULT_RULE]
    assert choose({WALK: end_points(abnormal)}, menu=("cell_of_8",)).rule == "cell_of_8"


def test_an_inversion_is_chosen_by_its_end_points():
    blind, seeing = end_points(noise(30, 7)), end_points(3 + noise(30, 7))
    assert as_walk(choose({WALK: blind, OTHER: seeing}).timesteps) == OTHER
    assert as_walk(choose({WALK: seeing, OTHER: blind}).timesteps) == WALK


def test_masks_decide_where_scores_do_not():
    abnormal, cells = spots(30, 1, 1.5, size=6)
    walks = {WALK: end_points(abnormal)}
    assert choose(walks).rule == DEFAULT_RULE  # every rule finds these images
    found = choose(walks, cells)
    assert found.rule == "cell_of_8"  # the map of means shows where
    assert all(1 < value <= 2 for value in found.reached.values())
    nowhere = choose(walks, torch.zeros_like(cells))
    assert nowhere == choose(walks)


def auroc(normal, abnormal):
    pairs = abnormal[:, None] - normal[None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_a_lead_within_its_standard_error_is_luck():
    """The lead and its error are computed here anew, from the scores, with other resamples."""
    rng, kept, taken = np.random.default_rng(5), 0, 0
    for seed in range(30):
        abnormal, _ = spots(30, seed, (0.0, 1.2, 2.0)[seed % 3])
        z = end_points(abnormal, seed)
        found = choose({WALK: z}, menu=(DEFAULT_RULE, "cell_of_16"))
        scores = []
        for rule in (DEFAULT_RULE, "cell_of_16"):
            fitted = Calibration(8, rule).fit(z.train, z.normal, WALK)
            scores.append([fitted.score(part.end_point).numpy() for part in (z.normal, z.abnormal)])
        lead = auroc(*scores[1]) - auroc(*scores[0])
        draws = [(rng.integers(30, size=30), rng.integers(30, size=30)) for _ in range(400)]
        leads = [auroc(scores[1][0][a], scores[1][1][b]) - auroc(scores[0][0][a], scores[0][1][b]) for a, b in draws]
        if lead > 1.3 * np.std(leads):
            assert found.rule == "cell_of_16"
            taken += 1
        elif lead < 0.7 * np.std(leads):
            assert found.rule == DEFAULT_RULE
            kept += lead > 0
    assert taken > 3 and kept > 3  # of those that lead


def test_a_lead_over_images_may_be_luck_over_patients():
    """Of four patients with ten abnormal images each, small cells find those of two better, those of two worse."""
    z = {WALK: end_points(torch.cat([spots(20, 0, 4)[0], 0.1 + noise(20, 5)]))}
    menu, of_abnormal = (DEFAULT_RULE, "cell_of_16"), [i // 10 for i in range(40)]
    images = choose(z, menu=menu)
    patients = choose(z, menu=menu, patients=(range(30), of_abnormal))
    assert (images.rule, patients.rule) == ("cell_of_16", DEFAULT_RULE) and images.reached == patients.reached
    assert choose(z, menu=menu, patients=([0] * 30, [1] * 40)) == images  # one patient cannot be resampled: images are


def test_the_best_may_be_luck_where_the_second_is_not():
    best, second, first = "best", "second", "first"
    values = {first: [0.5, 0.5, 0.5, 0.5], second: [0.6, 0.6, 0.6, 0.6], best: [2.5, 0.1, 0.1, 0.1]}

    def reached(name, rows):
        return float(np.mean([values[name][row - 4] for row in rows if row >= 4]))

    found, figures = _told_from_the_first([first, second, best], reached, range(4), range(4))
    assert found == second and figures == pytest.approx({first: 0.5, second: 0.6, best: 0.7})


def test_the_same_images_choose_the_same():
    abnormal, cells = spots(20, 3, 1.5, size=2)
    once, again = (choose({WALK: end_points(abnormal), OTHER: end_points(abnormal, 4)}, cells) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(("normal", "abnormal"), [(0, 4), (4, 0)])
def test_one_class_chooses_nothing(normal, abnormal):
    z = EndPoints(*map(walked, (noise(5, 0), noise(normal, 1), noise(abnormal, 2))))
    with pytest.raises(ValueError, match=f"{normal} normal and {abnormal} abnormal images choose no rule"):
        choose({WALK: z})


def test_patients_are_stated_of_every_image():
    with pytest.raises(ValueError, match="12 normal and 8 abnormal images of 6 and 8 patients' numbers"):
        choose({WALK: end_points(noise(8, 9), normal=12)}, patients=(range(6), range(8)))


def patients(count, found, lift, seed, first=0, slices=40):
    """Patients whose slices are noise about a level of their own, ``found`` of them higher by ``lift``."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(count, slices)) + generator.normal(scale=0.05, size=(count, 1))
    scores[:, :found] += lift
    numbers = torch.arange(first, first + count).repeat_interleave(slices)
    return Slices(torch.tensor(scores).flatten(), numbers, torch.linspace(0, 1, slices).repeat(count))


@pytest.mark.parametrize(("found", "lift", "expected"), [(40, 0.25, 1), (1, 5, 16), (40, 9, HIGHEST_OF)])
def test_of_how_many_slices_depends_on_how_disease_shows(found, lift, expected):
    m, reached = choose_highest_of(patients(30, 0, 0, 0), patients(30, found, lift, 1, first=30))
    assert m == expected and set(reached) == set(HIGHEST_OF_MENU)
    assert reached[m] == max(reached.values())


def test_a_patient_is_not_compared_with_itself():
    normal = patients(12, 0, 0, 2)
    both = [choose_highest_of(normal, normal._replace(patients=normal.patients + shift))[1] for shift in (0, 100)]
    assert both[0] == pytest.approx(dict.fromkeys(HIGHEST_OF_MENU, 0.5))
    assert both[1] != both[0]  # of other patients: compared with those whose slices are the same


@pytest.mark.parametrize(("normal", "abnormal"), [(1, 5), (5, 1)])
def test_one_patient_chooses_nothing(normal, abnormal):
    assert choose_highest_of(patients(normal, 0, 0, 0), patients(abnormal, 40, 9, 1, first=9)) == (HIGHEST_OF, {})
