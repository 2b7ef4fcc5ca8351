"""The recipes of small hosts that the bundle brings: each trains with nothing else given but a data set."""

from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.networks.nets import AutoencoderKL

from invad_med.bundle import root
from invad_med.detection import load_detector
from invad_med.hosts import with_weights
from invad_med.training.autoencoding import AutoencoderLoss

CONFIGS = Path(root()) / "configs"


def run(*files, **overrides):
    """Run configurations of the bundle, one over the other, in this process."""
    monai.bundle.run(config_file=[str(CONFIGS / file) for file in files], device="cpu", **overrides)


def train(recipe, noise_set, tmp_path, **overrides):
    """Train a host for two steps, with nothing to choose: the model."""
    model = tmp_path / "model.pt"
    fixed = {"steps": 2, "warmup_steps": 1, "rule": "cell_of_8", "other_timesteps": []}
    run(
        "train.json", f"hosts/{recipe}.json", dataset_dir=str(noise_set), output_dir=str(tmp_path / "run"),
        ckpt_path=str(model), select_by_auroc=False, **fixed, **overrides,
    )  # fmt: skip
    return load_detector(model)


@pytest.mark.parametrize("recipe", ["pixel_monai", "pixel_diffusers"])
def test_over_pixels(recipe, noise_set, tmp_path):
    host = train(recipe, noise_set, tmp_path).host
    assert host.stated.prediction == "epsilon" and host.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_over_latents(noise_set, tmp_path, capsys):
    run("train_autoencoder.json", dataset_dir=str(noise_set), output_dir=str(tmp_path), steps=2, batch_size=2)
    path = tmp_path / "autoencoder.pt"
    assert f"{path}: mean absolute error 0." in capsys.readouterr().out
    detector = train("latent_monai", noise_set, tmp_path, **{"host#autoencoder#path": str(path)})
    ours = torch.load(path, weights_only=True)
    theirs = detector.host.autoencoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.allclose(ours[k], theirs[k], atol=1e-3) for k in ours)
    assert detector.host.scale.source == "estimated" and detector.host.scale.factor > 0


def test_the_divergence_is_that_of_normal_distributions():
    image = torch.rand(2, 1, 8, 8)
    mean, deviation = torch.randn(2, 3, 2, 2), torch.rand(2, 3, 2, 2) + 0.1
    posterior = torch.distributions.Normal(mean, deviation)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(deviation))
    expected = 0.25 + 0.01 * torch.distributions.kl_divergence(posterior, prior).sum() / 2
    torch.testing.assert_close(AutoencoderLoss(0.01)((image + 0.25, mean, deviation), image), expected)


def test_weights_of_another_network_and_no_weights_are_told(tmp_path):
    def network(channels):
        return AutoencoderKL(
            spatial_dims=2, channels=(channels,), num_res_blocks=1, attention_levels=(False,), norm_num_groups=4,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, latent_channels=3,
        )  # fmt: skip

    torch.save(network(4).state_dict(), tmp_path / "four.pt")
    with pytest.raises(ValueError, match=r"does not fit the network; other shape: .* in the checkpoint"):
        with_weights(network(8), tmp_path / "four.pt")
    with pytest.raises(FileNotFoundError, match=r"weights .*none.pt do not exist"):
        with_weights(network(8), tmp_path / "none.pt")
