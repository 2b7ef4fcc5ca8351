"""How networks of other libraries are built and called: diffusers', MONAI's, and one's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from invad_med.hosts.records import Network

Call = Callable[..., Tensor]  # (network, x, timesteps, prompt=, label=, hint=) -> what it predicts

# What a checkpoint may name to be built, and no other class: library -> class -> module.
BUILDABLE = {
    "diffusers": dict.fromkeys(
        ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "AutoencoderKL"), "diffusers"
    ),
    "monai": dict.fromkeys(("DiffusionModelUNet", "AutoencoderKL"), "monai.networks.nets"),
}
EXTRA = "pip install 'invad-med[hosts]'"


def build(stated: Network, key: str) -> nn.Module:
    """Return a network with the random weights that it is made with.

    Args:
        stated: what it is.
        key: that takes it, where it cannot be built.

    Raises:
        ValueError: it is of the user's own, what builds it is not stated, or its library is not installed.
    """
    module = BUILDABLE.get(stated.library, {}).get(stated.name)
    if module is None or stated.arguments is None:
        raise ValueError(
            f"the checkpoint's {stated.name or 'network'} cannot be built from what it states: make the same network "
            f"again and give it ({key}), or the whole host (host, of invad_med.hosts.from_callable or from_monai)"
        )
    try:
        kind = getattr(importlib.import_module(module), stated.name)
    except ImportError as error:
        raise ValueError(f"{stated.name} is of {stated.library}, which is not installed here: {EXTRA}") from error
    try:
        made = kind.from_config(stated.arguments) if stated.library == "diffusers" else kind(**stated.arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{stated.library} does not build a {stated.name} of what is stated: {error}") from error
    assert isinstance(made, nn.Module)
    return made


def _diffusers(
    network: Any, x: Tensor, timesteps: Tensor, prompt: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    given: dict[str, Any] = {} if prompt is None else {"encoder_hidden_states": prompt}
    if label is not None:
        given["class_labels"] = label
    output: Tensor = network(x, timesteps, **given, return_dict=False)[0]
    return output


def _monai(
    network: Any, x: Tensor, timesteps: Tensor, prompt: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    given: dict[str, Any] = {} if prompt is None else {"context": prompt}
    if label is not None:
        given["class_labels"] = label
    output: Tensor = network(x, timesteps, **given)
    return output


def _own(network: Any, x: Tensor, timesteps: Tensor, **conditions: Tensor) -> Tensor:
    output: Tensor = network(x, timesteps, *conditions.values())
    return output


_CALLS: dict[str, Call] = {"diffusers": _diffusers, "monai": _monai, "": _own}


def call_of(library: str) -> Call:
    """Return how a library's noise predictors are called."""
    return _CALLS[library]


def _mean_of_diffusers(model: Any, image: Tensor) -> Tensor:
    encoded = model.encode(image.to(_dtype(model)))
    if not hasattr(encoded, "latent_dist"):
        raise ValueError(_NO_POSTERIOR.format(type(model).__name__))
    mean: Tensor = encoded.latent_dist.mode()
    return mean.to(image.dtype)


def _mean_of_monai(model: Any, image: Tensor) -> Tensor:
    encoded = model.encode(image.to(_dtype(model)))
    if not isinstance(encoded, tuple):
        raise ValueError(_NO_POSTERIOR.format(type(model).__name__))
    mean: Tensor = encoded[0]
    return mean.to(image.dtype)


_NO_POSTERIOR = (
    "{} has no posterior of a mean and a deviation: give a function to its latents to "
    "invad_med.hosts.from_callable (encode)"
)


def encode_of(library: str) -> Callable[[Any, Tensor], Tensor]:
    """Return how a library's autoencoders make the mean of a posterior of prepared images, never a sample."""
    return {
        "diffusers": _mean_of_diffusers,
        "monai": _mean_of_monai,
        "": lambda model, image: model(image),
    }[library]


def decode_of(library: str) -> Callable[[Any, Tensor], Tensor]:
    """Return how a library's autoencoders make prepared images of latents.

    Raises:
        ValueError: an encoder of one's own has no way back.
    """
    if library == "":
        raise ValueError("an encoder of your own has no decoder: reconstructions can be had in its space alone")
    return {
        "diffusers": lambda model, latents: model.decode(latents.to(_dtype(model)), return_dict=False)[0],
        "monai": lambda model, latents: model.decode(latents.to(_dtype(model))),
    }[library]


def _dtype(model: nn.Module) -> Any:
    return next(model.parameters()).dtype
