"""Two models of MONAI's Model Zoo, built of what its configurations state; these are not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.libraries import build
from invad_med.hosts.monai_models import from_monai
from invad_med.hosts.records import Network
from invad_med.hosts.weights import OF_GENERATIVE_MODELS, read_weights, renamed
from invad_med.networks.checkpoints import load_strictly


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo; both take pixels in [0, 1].

    Args:
        network, autoencoder: arguments of ``DiffusionModelUNet`` and ``AutoencoderKL``; None: over pixels.
        schedule: arguments of ``DDPMScheduler``.
        size: side in pixels.
        licence: of the weights, as the zoo's README states it.
    """

    network: Mapping[str, Any]
    autoencoder: Mapping[str, Any] | None
    schedule: Mapping[str, Any]
    size: int
    licence: str


# By the names of their folders: model-zoo, models/NAME, configurations of 1.0.1 and of 1.1.x.
ZOO: dict[str, ZooModel] = {
    "mednist_ddpm": ZooModel(
        network={
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": [64, 128, 128],
            "attention_levels": [False, True, True],
            "num_res_blocks": 1,
            "num_head_channels": 128,
        },
        autoencoder=None,
        schedule={"num_train_timesteps": 1000},
        size=64,
        licence="Apache-2.0",
    ),
    "brats_mri_axial_slices_generative_diffusion": ZooModel(
        network={
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": [32, 64, 128, 256],
            "attention_levels": [False, True, True, True],
            "num_head_channels": [0, 32, 32, 32],
            "num_res_blocks": 2,
        },
        autoencoder={
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "latent_channels": 1,
            "channels": [64, 128, 256],
            "num_res_blocks": [2, 2, 2],
            "norm_num_groups": 32,
            "norm_eps": 1e-6,
            "attention_levels": [False, False, False],
            "with_encoder_nonlocal_attn": True,
            "with_decoder_nonlocal_attn": True,
        },
        schedule={
            "num_train_timesteps": 1000,
            "schedule": "scaled_linear_beta",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
        },
        size=256,
        licence="Apache-2.0",
    ),
}


def read_monai_zoo(folder: str | Path, name: str | None = None, **others: Any) -> AdaptedHost:
    """Return the host that a folder of MONAI's Model Zoo holds, by ``models/model.pt`` and its autoencoder.

    The zoo's latent models do not store their scale factor, which is estimated on normal images.

    Args:
        folder: of the bundle.
        name: in `ZOO`; the folder's own name if None.
        others: keywords of `from_monai`.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: another model, or weights that do not fit by name.
    """
    from monai.networks.schedulers import DDPMScheduler

    folder = Path(folder)
    name = folder.resolve().name if name is None else name
    if name not in ZOO:
        raise ValueError(
            f"{name!r} is none of the zoo's models that are known ({', '.join(ZOO)}): load it with MONAI and give it "
            "to invad_med.hosts.from_monai"
        )
    model = ZOO[name]
    autoencoder = None
    if model.autoencoder is not None:
        autoencoder = _loaded("AutoencoderKL", model.autoencoder, folder / "models" / "model_autoencoder.pt")
    given: dict[str, Any] = {"size": model.size, "licence": model.licence} | others
    return from_monai(
        _loaded("DiffusionModelUNet", model.network, folder / "models" / "model.pt"),
        DDPMScheduler(**model.schedule),
        autoencoder,
        network_arguments=model.network,
        autoencoder_arguments=model.autoencoder,
        **given,
    )


def _loaded(kind: str, arguments: Mapping[str, Any], path: Path) -> nn.Module:
    network = build(Network("monai", kind, dict(arguments)), "network")
    load_strictly(network, renamed(read_weights(path), network.state_dict().keys(), OF_GENERATIVE_MODELS))
    return network
