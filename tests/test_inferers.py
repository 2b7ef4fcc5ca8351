"""The inferer runs any noise predictor, on what MONAI hands it."""

import pytest
import torch
from monai.inferers import Inferer
from monai.networks.nets import DiffusionModelUNet

from invad_med.diffusion import inversion_timesteps, invert, linear_alphas_cumprod
from invad_med.inferers import InversionInferer, ReconstructionInferer
from invad_med.networks import DiT, TokenMLP


def test_it_is_the_function():
    network, x = TokenMLP(4, 16, 1), torch.randn(2, 4, 3, 3)
    inferer = InversionInferer()
    assert isinstance(inferer, Inferer)
    expected = invert(network, x, inversion_timesteps(3), linear_alphas_cumprod())
    torch.testing.assert_close(inferer(x, network), expected)


def test_any_noise_predictor():
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=4,
        out_channels=4,
        channels=(8,),
        attention_levels=(False,),
        norm_num_groups=4,
        num_res_blocks=1,
    )
    z = InversionInferer(steps=2)(torch.randn(2, 4, 8, 8), unet)
    assert z.shape == (2, 4, 8, 8)
    assert not z.requires_grad


def test_half_precision_networks_keep_a_float32_walk():
    network = DiT(4, 4, 16, 1, 2)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    x = torch.randn(2, 4, 4, 4)
    full = InversionInferer()(x, network)
    with torch.autocast("cpu", torch.bfloat16):
        half = InversionInferer()(x, network)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_one_evaluation_at_any_noise_level():
    x = torch.randn(1, 4, 2, 2)
    z = InversionInferer(timesteps=[(400, None)])(x, lambda x, t: x * t.view(-1, 1, 1, 1))
    torch.testing.assert_close(z, x * 400)


def test_a_batch_is_its_images():
    network, x = DiT(4, 4, 16, 1, 2), torch.randn(3, 4, 4, 4)
    torch.nn.init.normal_(network.final_layer.linear.weight)
    inferer = InversionInferer(steps=5)
    torch.testing.assert_close(inferer(x, network), torch.cat([inferer(i[None], network) for i in x]))


def test_a_bad_grid_fails_at_construction():
    with pytest.raises(ValueError, match="steps=0"):
        InversionInferer(steps=0)
    with pytest.raises(ValueError, match=r"timestep pair \(3, 1\)"):
        InversionInferer(timesteps=[(3, 1)])


def test_reconstruction_does_not_depend_on_the_batch():
    network, x = TokenMLP(4, 16, 1), torch.randn(3, 4, 3, 3)
    inferer = ReconstructionInferer(level=200, steps=3)
    together = inferer(x, network)
    assert together.shape == x.shape and not together.requires_grad
    torch.testing.assert_close(together, torch.cat([inferer(i[None], network) for i in x]))


def test_reconstruction_undoes_the_noise_it_put_in():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(x)
    for level, steps in ((300, 3), (7, 7), (999, 1)):
        back = ReconstructionInferer(level, steps)(x, lambda y, t: noise)  # a perfect noise predictor
        torch.testing.assert_close(back, x, rtol=1e-3, atol=2e-3)
    seen = []
    ReconstructionInferer(300, 3)(x, lambda y, t: seen.append(t.tolist()) or torch.zeros_like(y))
    assert seen == [[300, 300], [200, 200], [100, 100]]
    alone = ReconstructionInferer(300)(x[1:], lambda y, t: 0.1 * y)
    torch.testing.assert_close(alone, ReconstructionInferer(300)(x, lambda y, t: 0.1 * y)[1:])
    with pytest.raises(ValueError, match=r"level=1000 must be 1 to 999, and steps=3"):
        ReconstructionInferer(1000)(x, lambda y, t: y)
