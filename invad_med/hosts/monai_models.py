"""Models of MONAI as hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.architecture import plain
from invad_med.hosts.functions import make_host
from invad_med.hosts.records import ClassLabel, Conditioning, Network, Noise, NullPrompt, Pixels, Scale, Target
from invad_med.hosts.schedules import schedule_of


def from_monai(
    network: nn.Module,
    scheduler: Any,
    autoencoder: nn.Module | None = None,
    scale_factor: float | None = None,
    *,
    size: int = 256,
    pixels: Pixels | None = None,
    conditioning: NullPrompt | ClassLabel | None = None,
    prediction: str | None = None,
    network_arguments: Mapping[str, Any] | None = None,
    autoencoder_arguments: Mapping[str, Any] | None = None,
    noise: str = Noise.GAUSSIAN,
    licence: str = "",
) -> AdaptedHost:
    """Return a host of a MONAI model, which is put in evaluation mode.

    Args:
        network: a ``DiffusionModelUNet`` in two dimensions, or a network that is called alike.
        scheduler: a ``DDPMScheduler``, ``DDIMScheduler`` or ``PNDMScheduler``, for its betas and its prediction; it is
            not stepped.
        autoencoder: an ``AutoencoderKL`` in two dimensions; None: the model is over pixels.
        scale_factor: of the latents, as trained; None: estimated on normal images, as MONAI's trainings do.
        size: side in pixels of the images it was trained on.
        pixels: how an image in [0, 1] becomes the model's; as it is if None.
        conditioning: the context (a prompt's embedding) or the class to condition on.
        prediction: instead of the scheduler's ``prediction_type``.
        network_arguments, autoencoder_arguments: what the two were built with, so that a checkpoint can build them
            again; without, they are to be given when it is loaded.
        noise, licence: as of `invad_med.hosts.from_callable`.

    Raises:
        ValueError: what makes an inversion meaningless or cannot be known: an unknown prediction, a scheduler without
            betas, a condition that is missing, channels of input and output that do not fit.
    """
    channels = _channels(network)
    if autoencoder is not None:
        channels = _channels_of_images(autoencoder)
    return make_host(
        network=_network(network, network_arguments),
        module=network,
        alphas_cumprod=schedule_of(scheduler),
        autoencoder=None if autoencoder is None else _network(autoencoder, autoencoder_arguments),
        autoencoder_module=autoencoder,
        scale=None if autoencoder is None else Scale.of(scale_factor),
        size=size,
        pixels=pixels or Pixels.in_range(channels, 0.0, 1.0),
        prediction=Target.of(str(prediction or getattr(scheduler, "prediction_type", Target.EPSILON))),
        conditioning=_conditioning(network, conditioning),
        noise=Noise(noise),
        licence=licence,
    )


def _network(module: nn.Module, arguments: Mapping[str, Any] | None) -> Network:
    return Network("monai", type(module).__name__, None if arguments is None else plain(arguments))


def _channels(network: nn.Module) -> int:
    if any(isinstance(module, nn.Conv1d | nn.Conv3d) for module in network.modules()):
        raise ValueError(f"{type(network).__name__} is not one of images in two dimensions")
    taken, made = (getattr(network, name, None) for name in ("in_channels", "out_channels"))
    if taken != made or not isinstance(taken, int):
        raise ValueError(
            f"{type(network).__name__} takes {taken} channels and returns {made}: noise has as many as the input. "
            "Another network can be given as a function to invad_med.hosts.from_callable"
        )
    return taken


def _channels_of_images(autoencoder: nn.Module) -> int:
    """Return the input channels of an autoencoder by its first convolution."""
    convolution = next((m for m in autoencoder.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    if not isinstance(convolution, nn.Conv2d):
        raise ValueError("the autoencoder is not one of images in two dimensions")
    return convolution.in_channels


def _conditioning(network: nn.Module, given: Conditioning) -> Conditioning:
    kind = type(network).__name__
    if getattr(network, "with_conditioning", False) and not isinstance(given, NullPrompt):
        raise ValueError(f"{kind} needs a context at every evaluation: give conditioning=NullPrompt(embedding), (L, D)")
    classes = getattr(network, "num_class_embeds", None)
    if classes is not None and not isinstance(given, ClassLabel):
        raise ValueError(f"{kind} needs a class at every evaluation: give conditioning=ClassLabel(n)")
    if isinstance(given, ClassLabel) and (classes is None or not 0 <= given.label < classes):
        raise ValueError(f"class {given.label} is none of the {classes or 0} that {kind} is conditioned on")
    if isinstance(given, NullPrompt) and not getattr(network, "with_conditioning", False):
        raise ValueError(f"{kind} is not conditioned on a context: leave conditioning out")
    return given
