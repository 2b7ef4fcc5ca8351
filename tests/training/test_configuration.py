"""A run is described by the objects that make it, so that resume overlooks none of them."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from invad_med.networks import Recipe
from invad_med.training.description import describe, network_settings
from tests.conftest import CONFIGS
from tests.test_extension import PixelHost

OTHER = {
    "learning_rate": 1e-3,
    "images_per_step": 32,
    "batch_size": 2,
    "accumulation_steps": 2,
    "epochs": 3,
    "steps": 4,
    "backbone": "tf_efficientnet_lite1",
    "merge": "point",
    "focus": [40, 300],
    "focus_share": 0.5,
    "betas": [0.9, 0.99],
    "weight_decay": 0.1,
    "warmup_steps": 1,
    "warmup_fraction": 0.5,
    "warmup_multiplier": 0.5,
    "gradient_norm": 2.0,
    "ema_momentum": 0.3,
    "ema_least_momentum": 0.002,
    "ema_renewals": 10.0,
    "ema_momentum_warmup": 0.1,
    "activation_checkpointing": True,
    "compiled": True,
    "fully_sharded": True,
}
PARTS = {
    "inferer#mode": ("paper", "inferer.mode was truncated, is paper"),
    "inferer#steps": (2, "inferer.steps was 1, is 2"),
    "augmentation#transforms#0#prob": (0.5, "augmentation.transforms.0.prob was 0.8, is 0.5"),
    "augmentation#transforms#0#rotate_range": (0.1, r"rotate_range was \[0.09\], is \[0.1\]"),
    "augment": (False, "augmentation was monai.transforms.compose.Compose, is None"),
    "ema#momentum": (0.25, "ema.momentum was 0.5, is 0.25"),
    "lr_scheduler#cycles": (1.5, "lr_scheduler.cycles was 0.5, is 1.5"),
    "optimizer#eps": (1e-6, "optimizer.eps was 1e-08, is 1e-06"),
    "loss#_target_": ("torch.nn.L1Loss", "loss was .*MSELoss, is .*L1Loss"),
    "host#side": (4, "architecture.side was 8, is 4"),
    "host#image_size": (128, "architecture.image_size was 256, is 128"),
    "precision": ("bfloat16", "prediction.dtype was None, is torch.bfloat16"),
    "seed": (1, "; seed was 0, is 1"),
    "held_out_fraction": (0.4, r"division.held_out_fraction was 0.15, is 0.4"),
    "selection_fraction": (0.5, r"division.selection_fraction was 0.333\d*, is 0.5"),
    "train_fraction": (0.5, r"cohort.train was \w+, is \w+; division.train_fraction was 1.0, is 0.5"),
    "fold": ("1/2", "division.fold was None, is 1/2"),
    "val_interval": (2, "selection.interval was 1, is 2"),
    "patience": (1, "selection.patience was None, is 1"),
    "select_by_auroc": (False, r"selection.auroc.limit was 64, is not set"),
    "rule": ("cell_of_8", r"candidates.rules was \[.*\], is \['cell_of_8'\]"),
    "other_timesteps": ([], r"candidates.walks was \[.*\], is \[\[\[100, None\]\]\]"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def trainer(noise_set, folder):
    """The trainer of a run of two steps over small pixels, some of its keys given."""

    def build(**keys):
        parser = ConfigParser()
        parser.read_config(CONFIGS / "train.json")
        own = {"dataset_dir": str(noise_set), "output_dir": str(folder), "cache_dir": None, "device": "cpu"}
        own |= {"precision": "float32", "steps": 2, "batch_size": 4, "accumulation_steps": 1, "augment": True}
        parser.update(own | {"host": {"_target_": "tests.test_extension.PixelHost", "side": 8}} | keys)
        parser.get_parsed_content("initialize")
        return parser.get_parsed_content("train#trainer")

    return build


@pytest.fixture
def refusal(trainer, folder):
    """Why a run with other keys does not take up the state of the first."""
    if not (folder / "last.pt").exists():
        trainer().run()

    def ask(**keys):
        with pytest.raises(ValueError, match="is the state of a run with another configuration") as refused:
            trainer(**keys).run()
        return str(refused.value)

    return ask


def test_there_is_another_value_for_every_field():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("field", OTHER)
def test_resume_refuses_another_value_of_every_field_of_the_recipe(refusal, field):
    reason = refusal(**{f"recipe#{field}": OTHER[field]})
    assert f"recipe.{field} was " in reason and f", is {OTHER[field]}" in reason


@pytest.mark.parametrize("key", PARTS)
def test_resume_refuses_another_part_by_name(refusal, key):
    value, named = PARTS[key]
    assert re.search(named, refusal(**{key: value}))


class DroppingHost(PixelHost):
    """Its noise predictor has settings that none of its tensors shows."""

    def __init__(self, side=8, dropout=0.0, activation="ReLU"):
        super().__init__(side)
        self.denoiser = Dropping(dropout, activation)


class Dropping(torch.nn.Module):
    def __init__(self, dropout, activation):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 3, 1)
        self.after = torch.nn.Sequential(getattr(torch.nn, activation)(), torch.nn.Dropout(dropout))

    def forward(self, x, timesteps):
        return self.after(self.mix(x))


def test_resume_refuses_another_setting_of_a_network_of_ones_own(trainer, tmp_path):
    def run(**settings):
        host = {"_target_": "tests.training.test_configuration.DroppingHost", **settings}
        trainer(output_dir=str(tmp_path), host=host).run()

    run(dropout=0.1)
    run(dropout=0.1)  # the same is taken up
    with pytest.raises(ValueError, match=r"denoiser\.after\.1\.p was 0\.1, is 0\.9"):
        run(dropout=0.9)
    with pytest.raises(ValueError, match=r"denoiser\.after\.0\.type was .*ReLU, is .*SiLU"):
        run(dropout=0.1, activation="SiLU")


def test_a_networks_settings_are_those_of_every_module_and_not_its_weights_or_mode():
    one, other = Dropping(0.1, "ReLU"), Dropping(0.1, "ReLU").eval()
    assert describe("n", network_settings(one)) == describe("n", network_settings(other))
    assert network_settings(one)["mix.out_channels"] == 3


def test_the_same_run_is_taken_up(trainer, folder):
    if not (folder / "last.pt").exists():
        trainer().run()
    again = trainer()
    again.run()
    assert again.state.iteration == 2


def test_what_changes_in_a_run_or_differs_by_process_is_no_setting():
    class Transform:
        def __init__(self, scale, choose):
            self.R, self.scale, self.choose, self._last = np.random.RandomState(0), scale, choose, None

    one, other = (describe("t", Transform(np.float32(2), functools.partial(max, key=abs))) for _ in range(2))
    assert one == other and one["t.scale"] == 2.0 and one["t.choose.func"] == "builtins.max"
    assert not any(key.startswith(("t.R", "t._last")) for key in one)
    double, half = (describe("f", f) for f in (lambda x: x * 2, lambda x: x / 2))
    assert double != half
    assert describe("w", torch.ones(2)) != describe("w", torch.zeros(2))
    assert describe("n", torch.nn.Linear(2, 2)) != describe("n", torch.nn.Linear(2, 2))  # other weights
