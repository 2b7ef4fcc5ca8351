"""A function that returns noise, or what noise follows from, as a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invad_med.hosts.adapted import AdaptedHost, Function
from invad_med.hosts.architecture import AdaptedArchitecture
from invad_med.hosts.behaviour import quieted
from invad_med.hosts.libraries import encode_of
from invad_med.hosts.records import Conditioned, Conditioning, ImageHint, Network, Noise, Pixels, Scale, Target
from invad_med.hosts.schedules import checked_schedule, digest_of


def from_callable(
    eps: Callable[..., Tensor],
    alphas_cumprod: Tensor | Sequence[float],
    *,
    size: int = 256,
    channels: int = 3,
    pixels: Pixels | None = None,
    encode: Callable[[Tensor], Tensor] | None = None,
    scale_factor: float | None = 1.0,
    prediction: str = Target.EPSILON,
    conditioning: ImageHint | None = None,
    noise: str = Noise.GAUSSIAN,
    licence: str = "",
) -> AdaptedHost:
    """Return a host of a function or module of your own.

    A checkpoint of it cannot build the function again: give the host to `invad_med.detection.load_detector` (key
    ``host``). Weights of a module are stored in the checkpoint.

    Args:
        eps: ``eps(x, t)``, x (B, C, h, w), t (B,) int64, to what it predicts, the shape of x; with an `ImageHint`
            ``eps(x, t, hint)``.
        alphas_cumprod: (T,), the schedule that it was trained with.
        size: side in pixels of the images it was trained on.
        channels: of its images, 1 or 3.
        pixels: how an image in [0, 1] becomes its; -1 to 1 if None.
        encode: prepared images (B, channels, size, size) to latents (B, C, h, w), the mean of a posterior if there is
            one; None: the model is over pixels.
        scale_factor: of the latents; None: estimated on normal images.
        prediction: ``epsilon``, ``v_prediction`` or ``sample``.
        conditioning: an `ImageHint`, or nothing; what else a function is conditioned on it knows itself.
        noise: ``gaussian``, ``simplex`` or ``other``: of these two the paper's likelihood is withheld, and the score is
            the calibrated length of end points.
        licence: of the weights.

    Raises:
        ValueError: what makes an inversion meaningless: an unknown prediction, a schedule that is none, latents that
            are not square.
    """
    network = _module(eps)
    autoencoder = None if encode is None else _module(encode)
    return make_host(
        network=Network("", _name(eps)),
        module=network,
        alphas_cumprod=checked_schedule(alphas_cumprod),
        autoencoder=None if encode is None else Network("", _name(encode)),
        autoencoder_module=autoencoder,
        scale=None if encode is None else Scale.of(scale_factor),
        size=size,
        pixels=pixels or Pixels.in_range(channels),
        prediction=Target.of(prediction),
        conditioning=conditioning,
        noise=Noise(noise),
        licence=licence,
    )


def make_host(
    *,
    network: Network,
    module: nn.Module,
    alphas_cumprod: Tensor,
    size: int,
    pixels: Pixels,
    prediction: Target,
    autoencoder: Network | None = None,
    autoencoder_module: nn.Module | None = None,
    scale: Scale | None = None,
    learned_sigma: bool = False,
    conditioning: Conditioning = None,
    noise: Noise = Noise.GAUSSIAN,
    licence: str = "",
) -> AdaptedHost:
    """Return a host, its encoding's size measured on a black image; arguments as of `AdaptedArchitecture`.

    Raises:
        ValueError: the encoding is not square.
    """
    if size < 1:
        raise ValueError(f"size {size} is no number of pixels")
    encoded = (pixels.channels, size, size)
    module = in_float32(module)
    if autoencoder is not None and autoencoder_module is not None:
        autoencoder_module = in_float32(autoencoder_module).eval()
        parameter = next(autoencoder_module.parameters(), None)
        black = torch.zeros(1, 3, size, size, device=None if parameter is None else parameter.device)
        with torch.no_grad():
            latents = encode_of(autoencoder.library)(autoencoder_module, pixels.prepare(black))
        encoded = tuple(latents.shape[1:])  # type: ignore[assignment]
        if latents.ndim != 4 or encoded[1] != encoded[2]:
            raise ValueError(f"the encoder makes {tuple(latents.shape)} of a square image: (B, C, h, h) is needed")
    stated = AdaptedArchitecture(
        image_size=size,
        network=network,
        pixels=pixels,
        autoencoder=autoencoder,
        scale=scale,
        channels=encoded[0],
        grid_size=encoded[1],
        num_train_timesteps=len(alphas_cumprod),
        prediction=prediction,
        learned_sigma=learned_sigma,
        conditioning=Conditioned.of(conditioning),
        noise=noise,
        licence=licence,
        schedule=digest_of(alphas_cumprod),
    )
    return AdaptedHost(stated, module, alphas_cumprod, autoencoder_module, conditioning)


def _module(function: Callable[..., Any]) -> nn.Module:
    function = quieted(function)
    return function if isinstance(function, nn.Module) else Function(function)


def in_float32(module: nn.Module) -> nn.Module:
    """Return a network as it will be loaded again: half precision widened, without the wrapper of ``torch.compile``."""
    module = getattr(module, "_orig_mod", module)
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    return module.float() if half else module


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
