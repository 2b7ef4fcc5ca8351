"""What a training chooses its score from, what it chose, and what it says of that."""

import dataclasses

import pytest
import torch
from torch import nn

from invad_med.commands.cross_fit import pool_references, score_keys
from invad_med.detection import FeatureHost, load_detector, read_provenance
from invad_med.networks import FrozenFeatures
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.options import read_overrides
from invad_med.scoring.choice import Choice
from invad_med.scoring.rules import DEFAULT_RULE, MENU
from invad_med.training.candidates import Candidates, candidate_figures, find_candidates, usual_walks
from invad_med.training.features import CohortFeatures

USUAL = (((200, None),), ((200, 300), (300, None)), ((300, None),))


def test_the_usual_inversions_are_chosen_from_where_nothing_else_is_asked_for():
    assert usual_walks(1000) == USUAL and usual_walks(500)[1] == ((100, 150), (150, None))
    assert find_candidates([[200, None]]) == Candidates(USUAL, MENU)


@pytest.mark.parametrize(
    ("asked", "walks"),
    [
        ({"timesteps": [(100, 200), (200, 300), (300, None)]}, (((100, 200), (200, 300), (300, None)),)),
        ({"timesteps": [(200, None)], "rule": "cell_of_8"}, USUAL[:1]),
        ({"timesteps": [(200, None)], "others": []}, USUAL[:1]),
        ({"timesteps": [(300, None)], "others": [[[200, None]], [[300, None]]]}, (USUAL[2], USUAL[0])),
        ({"timesteps": [(200, None)], "others": [[[300, None]]], "rule": "cell_of_8"}, (USUAL[0], USUAL[2])),
    ],
)
def test_what_is_asked_for_is_what_there_is(asked, walks):
    assert find_candidates(**asked) == Candidates(walks, (asked["rule"],) if "rule" in asked else MENU)


def test_what_cannot_be_is_refused_before_the_training():
    with pytest.raises(ValueError, match="there is no rule 'cell_of_9' for the score; known are whitened_mean_and_ce"):
        find_candidates([(200, None)], "cell_of_9")
    with pytest.raises(ValueError, match=r"timestep pair \(300, None\) must satisfy 0 <= t < t_next < 250"):
        find_candidates([(50, None)], None, [[[300, None]]], 250)


@pytest.fixture
def host():
    return FeatureHost(FrozenFeatures(feature_norm=None), nn.Identity())


def features(abnormal):
    torch.manual_seed(0)
    return CohortFeatures(torch.randn(40, 8, 16, 16), torch.randn(20, 8, 16, 16), torch.randn(9, 8, 16, 16), abnormal)


def spotted(count=20):
    z = torch.randn(count, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    z[:, :, 5, 6] += 4
    return z


def keep(x, t):
    """Predicts what it sees, so that the end point is that."""
    return x


def test_the_network_that_is_asked_about_is_what_chooses(host):
    chosen = find_candidates([(200, None)]).choose(host, features(spotted()), keep)
    assert chosen.rule == "cell_of_16" and chosen.reached.keys() == {(walk, rule) for walk in USUAL for rule in MENU}
    blind = find_candidates([(200, None)]).choose(host, features(spotted()), lambda x, t: torch.ones_like(x))
    assert (blind.rule, blind.timesteps) == (DEFAULT_RULE, [(200, None)])


def test_leads_are_compared_over_the_patients_of_the_training(host, monkeypatch):
    asked = []
    monkeypatch.setattr("invad_med.training.candidates.choose", lambda *arguments: asked.append(arguments))
    known = dataclasses.replace(features(spotted()), patients=([0] * 20, [1] * 20))
    find_candidates([(200, None)]).choose(host, known, keep)
    assert asked[0][-1] == ([0] * 20, [1] * 20)


def test_where_there_is_nothing_to_choose_by_the_first_is_taken(host):
    nothing = features(torch.zeros(0, 8, 16, 16))
    assert find_candidates([(200, None)]).choose(host, nothing, keep) == Choice([(200, None)], DEFAULT_RULE, {})
    asked = find_candidates([(100, None)], "cell_of_8").choose(host, features(spotted()), keep)
    assert asked == Choice([(100, None)], "cell_of_8", {})
    unheld = dataclasses.replace(features(spotted()), selection=torch.zeros(0, 8, 16, 16))
    assert find_candidates([(200, None)]).choose(host, unheld, keep).reached == {}


def test_figures_are_named_by_rule_and_where_the_network_was_asked():
    reached = {(USUAL[1], "cell_of_8"): 1.23456, (((0, 333), (333, 999)), "cell_of_16"): 0.5}
    assert candidate_figures(Choice([], "", reached)) == {
        "cell_of_8 at 200 300": 1.2346,
        "cell_of_16 at 0 333 to 999": 0.5,
    }


def test_a_checkpoint_states_what_was_chosen_from(train_here, tmp_path):
    train_here(tmp_path / "a", steps=2)
    stated = read_provenance(tmp_path / "a" / "brain.pt")
    assert stated.candidates.keys() == {f"{rule} at {at}" for rule in MENU for at in ("200", "200 300", "300")}
    assert all(0 < value <= 2 for value in stated.candidates.values())
    flat = stated.stated()
    assert flat["candidates.cell_of_8 at 200"] == stated.candidates["cell_of_8 at 200"]


@pytest.mark.parametrize(
    ("keys", "timesteps", "names"),
    [
        ({"inferer#steps": 3}, [(100, 200), (200, 300), (300, None)], {f"{r} at 100 200 300" for r in MENU}),
        ({"inferer#timesteps": [[400, None]]}, [(400, None)], {f"{rule} at 400" for rule in MENU}),
        ({"rule": "cell_of_16"}, [(200, None)], set()),
        ({"rule": "cell_of_16", "inferer#mode": "paper"}, [(0, 999)], set()),
    ],
)
def test_an_inversion_that_was_asked_for_is_kept(train_here, tmp_path, keys, timesteps, names):
    train_here(tmp_path, steps=2, **keys)
    detector = load_detector(tmp_path / "brain.pt")
    assert detector.timesteps == detector.calibration.timesteps == timesteps
    assert detector.provenance.candidates.keys() == names
    assert detector.calibration.rule == keys.get("rule", detector.calibration.rule)


def test_the_keys_are_taken_as_they_are_typed(train, tmp_path):
    train(
        tmp_path, "--steps", 2, "--focus", "[0,900]", "--merge", "point", "--rule", "null",
        "--other_timesteps", "[[[300,None]],[[200,400],[400,999]]]",
    )  # fmt: skip
    stated = read_provenance(tmp_path / "brain.pt")
    places = ("200", "300", "200 400 to 999")
    assert stated.candidates.keys() == {f"{rule} at {at}" for rule in MENU for at in places}
    assert stated.architecture["merge"] == "point"
    configuration = read_checkpoint(tmp_path / "last.pt")["configuration"]
    assert configuration["recipe.focus"] == configuration["noise.focus"] == [0, 900]
    assert load_detector(tmp_path / "brain.pt").host.features.merge == "point"


def test_an_unknown_rule_ends_a_run_before_it_trains(train_here, tmp_path):
    with pytest.raises(RuntimeError) as refused:  # MONAI's, of ours
        train_here(tmp_path, steps=2, rule="largest", select_by_auroc=False)
    assert "there is no rule 'largest' for the score" in str(refused.value.__cause__)
    assert not (tmp_path / "log.csv").exists()


def state_of(rule, timesteps, reference):
    values = torch.tensor(reference)
    return {
        "_extra_state": {},
        "calibration._extra_state": {"score": rule, "timesteps": timesteps},
        "calibration.reference": values,
        "calibration.map_reference": values,
    }


def test_references_of_two_scores_are_not_pooled():
    whole = state_of("cell_of_8", [[200, 300], [300, None]], [1.0, 3.0])
    pooled = pool_references(whole, [state_of("cell_of_8", [[200, 300], [300, None]], [2.0])])
    assert pooled["calibration.reference"].tolist() == [1.0, 2.0, 3.0]
    for other in (("cell_of_16", [[200, 300], [300, None]]), ("cell_of_8", [[200, None]])):
        with pytest.raises(ValueError, match="must have one rule and one inversion"):
            pool_references(whole, [state_of(*other, [2.0])])


def test_folds_are_told_the_score_of_the_whole():
    keys = score_keys(state_of("cell_of_8", [[200, 300], [300, None]], [1.0]))
    given = read_overrides(["--rule", "cell_of_16", "--inferer#steps", "3", *keys], "train.json")
    assert given["rule"] == "cell_of_8" and given["other_timesteps"] == []
    assert given["inferer::timesteps"] == [[200, 300], [300, None]]
