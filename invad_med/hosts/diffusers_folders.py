"""Folders of diffusers, a whole pipeline or one model, and GLAD's weights for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.diffusers_models import from_diffusers
from invad_med.hosts.libraries import BUILDABLE, EXTRA, build
from invad_med.hosts.records import ClassLabel, Network, NullPrompt
from invad_med.hosts.weights import OF_OLD_DIFFUSERS, read_weights, renamed
from invad_med.networks.checkpoints import load_strictly

_PARTS = (
    "unet", "transformer", "vae", "scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2",
    "feature_extractor", "safety_checker", "image_encoder",
)  # fmt: skip
_NETWORKS = ("unet", "transformer", ".")  # of a pipeline, and of a folder that is one model
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)


def is_diffusers_folder(folder: Path) -> bool:
    """Return whether a folder is laid out as diffusers saves a pipeline or a model."""
    return any((folder / name / "config.json").is_file() for name in _NETWORKS)


def read_diffusers(
    folder: str | Path,
    conditioning: NullPrompt | ClassLabel | None = None,
    *,
    network_file: str | Path | None = None,
    vae_folder: str | Path | None = None,
    **others: Any,
) -> AdaptedHost:
    """Return the host that a local folder of diffusers holds; nothing is fetched, and no pickled code runs.

    Args:
        folder: of a pipeline (``unet`` or ``transformer``, ``scheduler``, perhaps ``vae``) or of one model with its
            ``scheduler_config.json``.
        conditioning: as of `from_diffusers`.
        network_file: weights of the network instead of the folder's, such as GLAD's ``pytorch_model.bin``.
        vae_folder: folder of another autoencoder.
        others: keywords of `from_diffusers`.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: weights that do not fit by name, a class that is not known, and what `from_diffusers` refuses.
    """
    folder = Path(folder)
    place = next((folder / name for name in _NETWORKS if (folder / name / "config.json").is_file()), None)
    if place is None:
        raise FileNotFoundError(f"{folder} has no config.json, nor a folder unet or transformer with one")
    _refuse_other_parts(folder, place)
    vae = Path(vae_folder) if vae_folder is not None else folder / "vae"
    autoencoder = _model(vae) if vae_folder is not None or vae.is_dir() else None
    return from_diffusers(_model(place, network_file), _scheduler(folder), autoencoder, conditioning, **others)


def _refuse_other_parts(folder: Path, network: Path) -> None:
    """Refuse a pipeline of parts that are not known here: without one of them the network sees something else.

    Raises:
        ValueError: such as a ``vqvae`` or a ``controlnet``.
    """
    if network == folder:
        return
    index = folder / "model_index.json"
    stated = _json(index) if index.is_file() else {}
    used = {name for name, kind in stated.items() if isinstance(kind, list) and kind and kind[0] is not None}
    present = {path.parent.name for path in folder.glob("*/config.json")}
    unknown = sorted((used | present) - set(_PARTS))
    if unknown:
        raise ValueError(
            f"{folder} is a pipeline with {', '.join(unknown)}, which is not read here: load it with diffusers, and "
            "give from_diffusers or from_callable of invad_med.hosts what it is made of; or move away what is not used"
        )
    if "vae" in used and not (folder / "vae").is_dir():
        raise FileNotFoundError(f"{folder} is a pipeline with a vae, which is not there: its network is of latents")


def _model(folder: Path, file: str | Path | None = None) -> nn.Module:
    config = _json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name not in BUILDABLE["diffusers"]:
        raise ValueError(
            f"{folder} holds a {name}; known are {', '.join(BUILDABLE['diffusers'])}. Load another with its own code "
            "and give it to invad_med.hosts.from_callable"
        )
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    network = build(Network("diffusers", name, arguments), "network")
    path = Path(file) if file is not None else next((p for n in _WEIGHTS if (p := folder / n).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no weights: one of {', '.join(_WEIGHTS)} is needed")
    load_strictly(network, renamed(read_weights(path), network.state_dict().keys(), OF_OLD_DIFFUSERS))
    return network


def _scheduler(folder: Path) -> Any:
    path = next(
        (p for p in (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json") if p.is_file()),
        None,
    )
    if path is None:
        raise FileNotFoundError(
            f"{folder} has no scheduler_config.json, so that its schedule is not known: save its scheduler beside it"
        )
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"diffusers is not installed: {EXTRA}") from error
    config = _json(path)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise ValueError(f"{path} is of {config.get('_class_name')}, which this version of diffusers does not know")
    return kind.from_config(config)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no configuration of diffusers")
    return content
