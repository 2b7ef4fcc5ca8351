"""Small models of other libraries with random weights: a network as it is built often predicts exactly 0."""

import functools

import torch


def seeded(make):
    """Let a function make the same network every time."""

    @functools.wraps(make)
    def same(*args, **others):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturbed(make(*args, **others))

    return same


def perturbed(network, seed=0, scale=0.05):
    """Add noise to every weight of a network, in place, and return it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    return network


@seeded
def pixel_unet(**others):
    """Return a small UNet2DModel of diffusers as google/ddpm-* are set: one channel, 16 pixels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0,
        **others,
    )  # fmt: skip


@seeded
def text_unet():
    """Return a small UNet2DConditionModel: four channels, 8 positions a side, prompts of 12 channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


@seeded
def class_dit():
    """Return a small DiTTransformer2DModel: four channels and a learned sigma, 8 positions a side, 10 classes."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip


@seeded
def vae(in_channels=3):
    """Return a small AutoencoderKL of diffusers: a half of the side, four channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=in_channels, out_channels=in_channels, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
    )  # fmt: skip


MONAI_UNET = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": [16, 32], "attention_levels": [False, True],
    "num_res_blocks": 1, "num_head_channels": 16, "norm_num_groups": 8,
}  # fmt: skip
MONAI_AUTOENCODER = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 1, "channels": [8, 16],
    "num_res_blocks": [1, 1], "norm_num_groups": 8, "attention_levels": [False, False],
}  # fmt: skip


@seeded
def monai_unet():
    """Return a small DiffusionModelUNet."""
    from monai.networks.nets import DiffusionModelUNet

    return DiffusionModelUNet(**MONAI_UNET)


@seeded
def monai_autoencoder():
    """Return a small AutoencoderKL of MONAI: a half of the side, one channel."""
    from monai.networks.nets import AutoencoderKL

    return AutoencoderKL(**MONAI_AUTOENCODER)
