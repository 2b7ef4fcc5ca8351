"""Models of diffusers as hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.architecture import plain
from invad_med.hosts.functions import make_host
from invad_med.hosts.records import (
    ClassLabel,
    Conditioning,
    ImageHint,
    Network,
    Noise,
    NullPrompt,
    Pixels,
    Scale,
    Target,
)
from invad_med.hosts.schedules import schedule_of

_NOT_STATED = ("_name_or_path", "_use_default_values", "_class_name", "_diffusers_version")


def from_diffusers(
    unet: nn.Module,
    scheduler: Any,
    vae: nn.Module | None = None,
    conditioning: NullPrompt | ClassLabel | None = None,
    *,
    size: int | None = None,
    pixels: Pixels | None = None,
    scale_factor: float | None = None,
    prediction: str | None = None,
    noise: str = Noise.GAUSSIAN,
    licence: str = "",
) -> AdaptedHost:
    """Return a host of a diffusers model, which is put in evaluation mode.

    Schedule and prediction are read from the scheduler, which is not stepped: its clipping, spacing and offsets are of
    no account. What a network says of itself is read from its ``config``.

    Args:
        unet: a ``UNet2DModel``, ``UNet2DConditionModel`` or ``DiTTransformer2DModel``, or a network that is called
            alike and has a ``config``.
        scheduler: of any kind that has betas.
        vae: an ``AutoencoderKL``; None: the model is over pixels.
        conditioning: the prompt's embedding of a model with cross-attention; the class of one with classes. A
            ``DiTTransformer2DModel`` has a null class, which is taken if None.
        size: side in pixels of the images; None: what ``unet.config.sample_size`` comes to.
        pixels: how an image in [0, 1] becomes the model's; -1 to 1 if None.
        scale_factor: of the latents; None: ``vae.config.scaling_factor``.
        prediction: instead of the scheduler's ``prediction_type``.
        noise, licence: as of `invad_med.hosts.from_callable`.

    Raises:
        ValueError: what makes an inversion meaningless or cannot be known: an unknown prediction, a scheduler without
            betas, a condition that is missing, channels of input and output that do not fit.
    """
    config = _config(unet)
    channels, learned_sigma = _channels(config)
    encoder = None if vae is None else _config(vae)
    if encoder is not None and encoder.get("latent_channels") not in (None, channels):
        raise ValueError(f"the vae makes {encoder['latent_channels']} channels, the network takes {channels}")
    alphas_cumprod = schedule_of(scheduler)
    return make_host(
        network=_network(unet, config),
        module=unet,
        alphas_cumprod=alphas_cumprod,
        autoencoder=None if vae is None or encoder is None else _network(vae, encoder),
        autoencoder_module=vae,
        scale=None if encoder is None else _scale(scale_factor, encoder),
        size=_size(config, encoder) if size is None else size,
        pixels=pixels or Pixels.in_range(channels if encoder is None else int(encoder.get("in_channels", 3))),
        prediction=Target.of(prediction or _prediction(_config(scheduler))),
        learned_sigma=learned_sigma,
        conditioning=_conditioning(unet, config, conditioning),
        noise=Noise(noise),
        licence=licence,
    )


def _config(model: Any) -> Mapping[str, Any]:
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{type(model).__name__} has no config, as models and schedulers of diffusers have: for another network "
            "use invad_med.hosts.from_callable"
        )
    return config


def _network(model: nn.Module, config: Mapping[str, Any]) -> Network:
    return Network("diffusers", type(model).__name__, plain({k: v for k, v in config.items() if k not in _NOT_STATED}))


def _channels(config: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the channels that a network takes, and whether it returns as many again for a variance."""
    taken, made = int(config["in_channels"]), config.get("out_channels") or config["in_channels"]
    if made not in (taken, 2 * taken):
        raise ValueError(
            f"the network takes {taken} channels and returns {made}: noise has as many as the input, or twice as many "
            "with a learned variance. A network that takes more, such as a mask or an image beside the noise, can be "
            "given as a function to invad_med.hosts.from_callable"
        )
    return taken, made != taken


def _size(config: Mapping[str, Any], encoder: Mapping[str, Any] | None) -> int:
    side = config.get("sample_size")
    if isinstance(side, list | tuple) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int):
        raise ValueError(f"the network states the sample_size {side}, no side of a square: give size in pixels")
    halvings = 0 if encoder is None else len(encoder["block_out_channels"]) - 1
    return side * 2**halvings


def _prediction(scheduler: Mapping[str, Any]) -> str:
    """Return what a scheduler's configuration says that its network predicts; files of old have ``predict_epsilon``."""
    if scheduler.get("predict_epsilon", True) is False:
        return Target.SAMPLE
    return str(scheduler.get("prediction_type", Target.EPSILON))


def _scale(given: float | None, encoder: Mapping[str, Any]) -> Scale:
    if encoder.get("latents_mean") is not None or encoder.get("latents_std") is not None:
        raise ValueError(
            "the vae states a mean and a deviation for each channel (latents_mean, latents_std), which are not applied "
            "here: give a function to invad_med.hosts.from_callable"
        )
    return Scale.of(given, encoder.get("scaling_factor"), encoder.get("shift_factor"))


def _conditioning(unet: nn.Module, config: Mapping[str, Any], given: Conditioning) -> Conditioning:
    kind = type(unet).__name__
    if isinstance(given, ImageHint):
        raise ValueError("no network of diffusers takes an image hint: use invad_med.hosts.from_callable")
    if config.get("addition_embed_type") is not None or config.get("encoder_hid_dim_type") is not None:
        raise ValueError(
            f"{kind} is conditioned on more than a prompt ({config.get('addition_embed_type')}): give a function that "
            "adds it to invad_med.hosts.from_callable"
        )
    if config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"{kind} is conditioned on the weight of its guidance too (time_cond_proj_dim), as latent consistency "
            "models are: give a function that adds it to invad_med.hosts.from_callable"
        )
    attends = config.get("cross_attention_dim") is not None and "encoder_hid_dim_type" in config
    classes = config.get("class_embed_type") or config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    if attends and not isinstance(given, NullPrompt):
        raise ValueError(
            f"{kind} needs a prompt at every evaluation: give conditioning=NullPrompt(embedding), the (L, D) that its "
            "text encoder makes of the empty prompt, or of the one it was trained with"
        )
    if attends and isinstance(given, NullPrompt) and given.embedding.shape[1] != config["cross_attention_dim"]:
        raise ValueError(
            f"the prompt's embedding has {given.embedding.shape[1]} channels, {kind} takes "
            f"{config['cross_attention_dim']}: it is of another text encoder"
        )
    if given is None and config.get("num_embeds_ada_norm") is not None:
        return ClassLabel(int(config["num_embeds_ada_norm"]))  # the null class, behind the others
    if classes and not attends and not isinstance(given, ClassLabel):
        raise ValueError(f"{kind} needs a class at every evaluation: give conditioning=ClassLabel(n)")
    if isinstance(given, ClassLabel) and isinstance(config.get("num_class_embeds"), int):
        _within(given, int(config["num_class_embeds"]) - 1)
    if isinstance(given, ClassLabel) and isinstance(config.get("num_embeds_ada_norm"), int):
        _within(given, int(config["num_embeds_ada_norm"]))  # the null class included
    if given is not None and not attends and not classes:
        raise ValueError(f"{kind} is not conditioned on anything: leave conditioning out")
    return given


def _within(given: ClassLabel, last: int) -> None:
    if not 0 <= given.label <= last:
        raise ValueError(f"class {given.label} is none of the network's, 0 to {last}")
