"""Presets: networks by name, each with the recipe it is trained by, of which every value can be replaced."""

import dataclasses

import pytest
import torch
from torch import nn

from invad_med.networks import PRESETS, create_denoiser, find_recipe
from invad_med.networks.blocks import Blocks

MILLIONS = {
    "huge": 155.4,
    "base": 130.1,
    "small": 32.8,
    "tiny": 11.5,
    "mlp": 350.0,
    "mlp_small": 46.0,
    "gigant": 1223.2,
}


@pytest.mark.parametrize("name", MILLIONS)
def test_presets_have_the_sizes_of_the_method(name):
    with torch.device("meta"):
        network = create_denoiser(name)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.06)


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_states_what_builds_it_again(name):
    with torch.device("meta"):
        network = create_denoiser(name, 8, 4, depth=2, hidden_size=48)
        again = create_denoiser(network.preset, 8, 4, **network.sizes)
    assert network.preset == name and network.sizes["depth"] == 2
    assert network.sizes.keys() == {field.name for field in dataclasses.fields(PRESETS[name].network)}
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (network, again)]
    assert shapes[0] == shapes[1]
    assert isinstance(network.blocks, Blocks) and len(network.blocks) == 2


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="'giant' is no denoiser preset; choose one of cpu, tiny"):
        create_denoiser("giant")
    with pytest.raises(ValueError, match="'huge2' is no denoiser preset"):
        find_recipe("huge2")
    with pytest.raises(ValueError, match="preset 'mlp' has no size num_heads; it has depth, hidden_size"):
        create_denoiser("mlp", num_heads=2)


def test_the_papers_recipe_is_the_papers():
    recipe = find_recipe("gigant")
    assert (recipe.learning_rate, recipe.epochs, recipe.backbone) == (5e-5, 300, "tf_efficientnet_b4.aa_in1k")
    assert recipe.activation_checkpointing and recipe.fully_sharded
    assert recipe.accumulation(processes=1) * recipe.batch_size == 64
    assert recipe.accumulation(processes=8) == 1
    run = recipe.resolve(images=1000, processes=2)
    assert (run.accumulation_steps, run.steps) == (4, 300 * 16)
    assert (run.warmup_steps, run.iterations, run.warmup_iterations) == (640, 19200, 2560)


def test_a_run_fills_in_what_is_open_and_keeps_what_is_given():
    run = find_recipe("cpu").resolve(images=1000)
    assert (run.steps, run.warmup_steps, run.ema_momentum) == (800, 107, 20 / 800)
    assert None not in dataclasses.astuple(run) and run.resolve(images=7, processes=4) == run
    assert find_recipe("cpu", steps=100_000).resolve(1000).ema_momentum == 0.001  # the paper's, from 20,000 on
    assert find_recipe("cpu", steps=10).resolve(1000).ema_momentum == 0.5
    given = {"accumulation_steps": 3, "steps": 40, "warmup_steps": 0, "ema_momentum": 0.01}
    assert find_recipe("cpu", **given).resolve(1000) == find_recipe("cpu", **given)
    with pytest.raises(ValueError, match="not resolved for a run"):
        _ = find_recipe("cpu").iterations


def test_values_of_a_recipe_are_replaced_or_refused_by_name():
    changed = find_recipe("cpu", batch_size=4, learning_rate=None, compiled="True", betas=[0.5, 0.9])
    assert (changed.batch_size, changed.learning_rate, changed.compiled, changed.betas) == (4, 2e-3, True, (0.5, 0.9))
    with pytest.raises(ValueError, match="a recipe has no ema_decay; it has accumulation_steps, activation_checkp"):
        find_recipe("cpu", ema_decay=0.1)
    for values, message in (
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number of at least 0"),
        ({"warmup_fraction": 1.5}, "warmup_fraction=1.5 must be a number of at least 0 and at most 1"),
        ({"compiled": "perhaps"}, "compiled='perhaps' must be true or false"),
        ({"merge": "max"}, "merge='max' must be point or area"),
        ({"focus": [300, 300]}, r"focus=\(300, 300\) must be two whole numbers, 0 <= first < end"),
        ({"focus": [-1, 5]}, r"focus=\(-1, 5\) must be two whole numbers"),
        ({"focus": [0, 5.5]}, r"focus=\(0, 5.5\) must be two whole numbers"),
        ({"focus": [0]}, r"focus=\(0,\) must be two whole numbers"),
        ({"focus": 450}, "focus=450 must be two whole numbers"),
        ({"focus": "late"}, "focus='late' must be two whole numbers"),
        ({"focus_share": 1.5}, "focus_share=1.5 must be a number of at least 0 and at most 1"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\) must be two numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            find_recipe("cpu", **values)


@pytest.mark.parametrize("name", ["cpu", "tiny", "mlp"])
def test_activation_checkpointing_changes_memory_and_not_gradients(name):
    torch.manual_seed(0)
    networks = [
        create_denoiser(name, 8, 4, activation_checkpointing=on, depth=2, hidden_size=32) for on in (False, True)
    ]
    for parameter in networks[0].parameters():
        nn.init.normal_(parameter, std=0.1)
    networks[1].load_state_dict(networks[0].state_dict())
    x, t = torch.randn(2, 8, 4, 4), torch.tensor([3, 700])
    kept = []
    for network in networks:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, s=saved: s.append(tensor.numel()), lambda _: None):
            loss = network.train()(x, t).square().mean()
        kept.append(sum(saved))
        loss = network(x, t).square().mean()
        loss.backward()
    assert kept[1] < kept[0] / 2
    for one, other in zip(*(n.parameters() for n in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_network_without_blocks_is_named(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Plain:
        def build(self, in_channels, input_size):
            return nn.Conv2d(in_channels, in_channels, 1)

    monkeypatch.setitem(PRESETS, "plain", dataclasses.replace(PRESETS["cpu"], network=Plain()))
    assert create_denoiser("plain", 8).sizes == {}
    for wish in ("activation_checkpointing", "compiled"):
        with pytest.raises(ValueError, match="a Conv2d offers no blocks"):
            create_denoiser("plain", 8, **{wish: True})
