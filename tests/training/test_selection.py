"""Validation chooses: the best weights are kept, a stale run stops, and the test split is not looked at."""

import shutil

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from invad_med.detection import AnomalyDetector, FeatureHost
from invad_med.networks import FrozenFeatures
from invad_med.training.features import CohortFeatures
from invad_med.training.selection import Selection, auroc_standard_error, best_validation, validation_auroc
from tests.conftest import save


class Validated:
    """An evaluator that finds the losses it was given, one after the other."""

    def __init__(self, losses):
        self.losses, self.state = iter(losses), type("State", (), {"metrics": {}})()

    def run(self, epoch):
        self.state.metrics["val_loss"] = next(self.losses)


class Ranked:
    """An AUROC of ten normal and ten abnormal images."""

    normal = abnormal = [0] * 10

    def __init__(self, aurocs):
        self.aurocs = iter(aurocs)

    def __call__(self, network):
        return next(self.aurocs)


def select(tmp_path, losses, aurocs=None, **options):
    """Run ten steps that add one to a weight; return the selection."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.zero_()
    selection = Selection(
        Validated(losses), network, tmp_path / "best.pt", 2, 10, Ranked(aurocs) if aurocs else None, **options
    )

    def step(engine, batch):
        network.weight.data += 1
        return {}

    trainer = SupervisedTrainer(
        "cpu", 1, [0] * 10, network, None, None, iteration_update=step, train_handlers=[selection], decollate=False
    )
    trainer.run()
    return selection


def kept(selection):
    return selection.load_best()["weight"].item()


def test_the_lowest_loss_is_kept(tmp_path):
    selection = select(tmp_path, [3, 2, 2.5, 2, 9])
    assert kept(selection) == 4 and selection.best["step"] == 4  # the earlier of equals
    assert [row["step"] for row in selection.history] == [2, 4, 6, 8, 10]


def test_abnormal_images_decide_where_there_are_any(tmp_path):
    selection = select(tmp_path, [5, 4, 3, 2, 1], [0.5, 0.95, 0.9, 0.7, 0.8])
    assert kept(selection) == 6  # within a standard error (0.05) of the highest, and of those the lower loss
    assert selection.best == {
        "step": 6,
        "val_loss": 3.0,
        "val_auroc": 0.9,
        "val_auroc_error": pytest.approx(0.074, abs=5e-4),
    }


def test_weights_whose_difference_is_noise_are_told_by_the_loss(tmp_path):
    selection = select(tmp_path, [5, 4, 3, 2, 1], [0.80, 0.78, 0.76, 0.74, 0.72])
    assert kept(selection) == 10
    collapsed = select(tmp_path, [5, 4, 3, 2, 1], [0.99, 0.5, 0.5, 0.5, 0.5])
    assert kept(collapsed) == 2


@pytest.mark.parametrize("seed", range(20))
def test_what_is_best_is_what_was_kept(seed):
    """The file holds the weights of the moment, so that the best so far is either the newest or the best before."""
    generator = np.random.default_rng(seed)
    history = []
    for step in range(30):
        loss, auroc, error = generator.random(3)
        before = best_validation(history) if history else None
        history.append({"step": step, "val_loss": loss, "val_auroc": auroc, "val_auroc_error": error / 5})
        assert best_validation(history) in (before, history[-1])


def test_the_standard_error_is_that_of_resamples():
    generator = np.random.default_rng(0)
    normal, abnormal = 30, 20
    draws = [
        (generator.normal(1, 1, abnormal)[:, None] > generator.normal(0, 1, normal)[None]).mean() for _ in range(4000)
    ]
    assert auroc_standard_error(np.mean(draws), normal, abnormal) == pytest.approx(
        np.std(draws), rel=0.08
    )  # of exponential scores, for normal ones


def test_a_stale_run_stops(tmp_path):
    selection = select(tmp_path, [3, 2, 2.5, 2.4, 1], patience=2)
    assert selection.history[-1]["step"] == 8 and selection.exhausted
    with pytest.raises(ValueError, match="patience=0: give a number of validations from 1"):
        select(tmp_path, [1], patience=0)


def test_the_auroc_tells_abnormal_from_held_out_normal():
    torch.manual_seed(0)
    train, normal, abnormal = torch.randn(20, 4, 4, 4), torch.randn(8, 4, 4, 4), 3 + torch.randn(8, 4, 4, 4)
    known = CohortFeatures(train, normal, abnormal, abnormal)  # what calibrates is not looked at
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(feature_norm=None), nn.Identity()))
    auroc = validation_auroc(detector, known)
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(1))
    network.forward = lambda x, t: x * 0.0
    assert auroc(network) == 1.0
    assert validation_auroc(detector, known, enabled=False) is None
    assert validation_auroc(detector, CohortFeatures(train, normal, normal, train[:0])) is None


def test_the_artefact_states_how_it_came_about_and_the_test_split_changes_nothing(train_here, noise_set, tmp_path):
    with_test = tmp_path / "brain"
    shutil.copytree(noise_set, with_test)
    shutil.copytree(noise_set / "valid", with_test / "test")
    artefacts = []
    for name, extra in (("a", {}), ("b", {"dataset_dir": str(with_test)})):
        train_here(tmp_path / name, steps=6, **extra)
        artefacts.append(torch.load(tmp_path / name / "brain.pt", weights_only=True))
    one, other = (a.pop("_extra_state") for a in artefacts)
    assert one == other
    for key, value in artefacts[0].items():
        assert torch.equal(value, artefacts[1][key]) if isinstance(value, torch.Tensor) else True, key
    assert (
        one["architecture"]["preset"] == "cpu"
        and one["architecture"]["sizes"]["depth"] == 1
        and one["seed"] == 0
        and one["steps"] == 6
        and one["batch_size"] == 4
    )
    assert (one["held_out_images"], one["selection_images"]) == (4, 4) and "also chose its weights" in one["note"]
    assert one["validation"]["step"] <= 6 and {"val_loss", "val_auroc"} <= one["validation"].keys()
    assert len(one["data_digest"]) == len(one["configuration_digest"]) == 16
    assert {"torch", "monai", "invad_med"} <= one["versions"].keys()


def test_where_there_are_many_images_other_ones_calibrate_than_choose(train_here, tmp_path):
    root = tmp_path / "brain"
    for i in range(8):
        save(root / "train" / "good" / f"t{i}.png", i)
    for i in range(60):
        save(root / "valid" / "good" / "img" / f"g{i}.png", 100 + i)
    host = {"_target_": "tests.test_extension.PixelHost", "side": 8}
    train_here(tmp_path / "out", dataset_dir=str(root), cache_dir=None, steps=2, host=host, modality="chest")
    state = torch.load(tmp_path / "out" / "chest.pt", weights_only=True)
    stated = state["_extra_state"]
    assert (stated["train_images"], stated["selection_images"], stated["held_out_images"]) == (6, 21, 41)
    assert "note" not in stated and len(state["calibration.reference"]) == 41
    assert set(stated["validation"]) == {"step", "val_loss"}  # without abnormal images the loss decides


def test_augmentation_is_repeatable_and_leaves_the_cache_out(train_here, tmp_path):
    for name in "ab":
        train_here(tmp_path / name, steps=3, augment=True)
    log = (tmp_path / "a" / "log.csv").read_text()
    assert log == (tmp_path / "b" / "log.csv").read_text()
    train_here(tmp_path / "c", steps=3)
    assert log != (tmp_path / "c" / "log.csv").read_text()


def test_a_training_that_diverges_stops_and_leaves_no_model(train_here, tmp_path):
    """Where there are no abnormal images, an average that passes over NaN would call its weights the best: loss 0."""
    with pytest.raises(RuntimeError) as error:
        train_here(tmp_path, steps=6, val_interval=1, select_by_auroc=False, learning_rate=1e30, warmup_steps=0,
                   gradient_norm=1e30)  # fmt: skip
    assert "training has diverged: the loss is " in str(error.value.__cause__ or error.value)
    assert not (tmp_path / "brain.pt").exists()
