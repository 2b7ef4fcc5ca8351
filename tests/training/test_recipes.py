"""Presets are trained by the paper's recipe, its CPU preset by its own, and every value can be overridden."""

import csv

import pytest
import torch
from invad_med.training.recipes import RECIPES, find_recipe

from invad_med.networks import create_denoiser
from invad_med.networks.presets import DIT_PRESETS, MLP_PRESETS, VELOCITY_PRESETS


def test_every_preset_has_a_recipe_and_the_papers_is_the_papers():
    assert RECIPES.keys() == DIT_PRESETS.keys() | MLP_PRESETS.keys() | VELOCITY_PRESETS.keys()
    recipe = find_recipe("gigant")
    assert (recipe.learning_rate, recipe.epochs, recipe.backbone) == (5e-5, 300, "tf_efficientnet_b4.aa_in1k")
    assert recipe.accumulation_steps(recipe.batch_size, processes=1) * recipe.batch_size == 64
    assert recipe.accumulation_steps(recipe.batch_size, processes=8) == 1
    assert recipe.optimiser_steps(images=1000, step_size=64) == 300 * 16
    assert find_recipe("cpu").optimiser_steps(images=1000, step_size=16) == 1500
    with pytest.raises(ValueError, match="--preset 'huge2' is none of cpu, tiny"):
        find_recipe("huge2")


def test_accumulated_small_batches_are_one_large_batch(train, tmp_path):
    def rows(name, *arguments):
        train(tmp_path / name, "--steps", 12, "--val_interval", 12, *arguments)
        with (tmp_path / name / "log.csv").open() as file:
            return torch.tensor([[float(r["loss"]), float(r["learning_rate"])] for r in csv.DictReader(file)])

    one, parts = rows("one", "--batch_size", 8), rows("parts", "--batch_size", 4, "--accumulation_steps", 2)
    assert len(one) == 12 and len(parts) == 24
    warmup = one[:2, 1] / 0.002
    torch.testing.assert_close(warmup, torch.tensor([0.02, 0.51]))  # from 2 % over 40/300 of the steps
    assert one[-1, 1] < 0.1 * one[2, 1] and one[2, 1] == pytest.approx(0.002)


def test_activation_checkpointing_changes_memory_and_not_gradients():
    torch.manual_seed(0)
    networks = [
        create_denoiser("tiny", 8, 4, activation_checkpointing=on, depth=2, hidden_size=32) for on in (False, True)
    ]
    for parameter in networks[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    networks[1].load_state_dict(networks[0].state_dict())
    x, t = torch.randn(2, 8, 4, 4), torch.tensor([3, 700])
    for network in networks:
        network.train()(x, t).square().mean().backward()
    for one, other in zip(*(n.parameters() for n in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(ValueError, match="'mlp' is no transformer: activation checkpointing"):
        create_denoiser("mlp", 8, activation_checkpointing=True)
