"""A diffusion model of somebody else as a host: what its network predicts becomes noise, and nothing of it is changed.

No scheduler is stepped: `invad_med.diffusion.invert` walks over explicit pairs of timesteps, on the model's own
alphas_cumprod.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.hosts.architecture import AdaptedArchitecture
from invad_med.hosts.behaviour import deviation, encoding_of_fixed_images, observe
from invad_med.hosts.host import Host
from invad_med.hosts.libraries import Call, build, call_of, decode_of, encode_of
from invad_med.hosts.prediction import to_epsilon, undefined_timesteps
from invad_med.hosts.records import (
    ClassLabel,
    Conditioned,
    Conditioning,
    ImageHint,
    Noise,
    NullPrompt,
    Scale,
    Target,
)
from invad_med.hosts.schedules import checked_schedule


class Function(nn.Module):
    """A function as a module without weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the function returns."""
        return self.function(*args, **kwargs)


class NoisePredictor(nn.Module):
    """A network whose prediction is turned into noise: ``eps(x, t)``.

    Args:
        network: predicts in its own dtype.
        call: how its library is called.
        alphas_cumprod: (T,) float64.
        prediction: what the network predicts.
        learned_sigma: drop the second half of its channels, a variance.
        conditioning: given at every evaluation.
    """

    alphas_cumprod: Tensor
    prompt: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        call: Call,
        alphas_cumprod: Tensor,
        prediction: Target,
        learned_sigma: bool = False,
        conditioning: Conditioning = None,
    ) -> None:
        super().__init__()
        self.network, self._call = network, call
        self.prediction, self.learned_sigma = prediction, learned_sigma
        self.conditioned = Conditioned.of(conditioning)
        self.register_buffer("alphas_cumprod", checked_schedule(alphas_cumprod))
        prompt = conditioning.embedding.detach().clone() if isinstance(conditioning, NullPrompt) else None
        self.register_buffer("prompt", prompt)
        self._undefined: dict[int, str] | None = None

    @property
    def undefined(self) -> dict[int, str]:
        """Timesteps at which no step can be made of what the network predicts, each with the reason."""
        if self._undefined is None:
            self._undefined = undefined_timesteps(self.alphas_cumprod, self.prediction)
        return self._undefined

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._undefined = None  # of the schedule before

    def forward(self, x: Tensor, timesteps: Tensor, hint: Tensor | None = None) -> Tensor:
        """Return the noise in ``x`` (B, C, h, w) at ``timesteps`` (B,) int64: the shape of ``x``.

        Args:
            x: float32 or float64.
            timesteps: see above.
            hint: prepared images (B, channels, size, size), of a network that is conditioned on them.

        Raises:
            ValueError: another number of timesteps than of images, a timestep at which noise does not follow from what
                the network predicts, or a hint that is missing.
        """
        if timesteps.shape != x.shape[:1]:
            raise ValueError(f"{len(x)} images need as many timesteps, not {tuple(timesteps.shape)}")
        if self.undefined:
            for t in sorted(self.undefined.keys() & set(timesteps.tolist())):
                raise ValueError(
                    f"the network cannot be evaluated at t = {t}: {self.undefined[t]}; choose other timesteps"
                )
        if self.conditioned.by == "hint" and hint is None:
            raise ValueError("the network is conditioned on the image: call what Host.predictor returns for it")
        parameter = next((p for p in self.network.parameters() if p.is_floating_point()), None)
        given = x if parameter is None else x.to(parameter.dtype)
        conditions: dict[str, Tensor] = {}
        if self.prompt is not None:
            conditions["prompt"] = self.prompt.to(given).expand(len(x), -1, -1)
        if self.conditioned.label is not None:
            conditions["label"] = torch.full_like(timesteps, self.conditioned.label)
        if hint is not None:
            conditions["hint"] = hint.to(given)
        output = self._call(self.network, given, timesteps, **conditions)
        if self.learned_sigma:
            output = output[:, : x.shape[1]]
        if output.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(output.shape)} for input {tuple(x.shape)}")
        abar = self.alphas_cumprod.to(x.device)[timesteps]
        return to_epsilon(output.to(x.dtype), x, abar, self.prediction)


class AdaptedHost(Host):
    """Somebody else's diffusion model, over pixels or an autoencoder's latents, in evaluation mode.

    `invad_med.hosts.from_diffusers`, `invad_med.hosts.from_monai` and `invad_med.hosts.from_callable` make it, and
    see to what it states.

    Args:
        stated: what it is.
        network: the noise predictor.
        alphas_cumprod: (T,) float64.
        autoencoder: of a model over latents.
        conditioning: as stated, with its values.

    Raises:
        ValueError: the parts are not as stated.
    """

    def __init__(
        self,
        stated: AdaptedArchitecture,
        network: nn.Module,
        alphas_cumprod: Tensor,
        autoencoder: nn.Module | None = None,
        conditioning: Conditioning = None,
    ) -> None:
        super().__init__()
        if (autoencoder is None) != (stated.autoencoder is None):
            raise ValueError("an autoencoder is needed where one is stated, and there alone")
        call = call_of(stated.network.library)
        self.stated = stated
        self.denoiser: NoisePredictor = NoisePredictor(
            network, call, alphas_cumprod, stated.prediction, stated.learned_sigma, conditioning
        )
        self.autoencoder = autoencoder
        self.channels, self.grid_size, self.image_size = stated.channels, stated.grid_size, stated.image_size
        self.space = "pixels" if autoencoder is None else "latents"
        self.tells_kinds, self.trained_before = False, True
        self.gaussian = stated.noise is Noise.GAUSSIAN
        self.hinted = isinstance(conditioning, ImageHint)
        if self.hinted and self.image_size % self.grid_size:
            raise ValueError(
                f"an image hint of {self.image_size} pixels needs a grid that divides it, not {self.grid_size}"
            )
        if autoencoder is not None:
            autoencoder.requires_grad_(False)
        self.eval()

    @property
    def alphas_cumprod(self) -> Tensor:  # type: ignore[override]
        """(T,) float64, the schedule that the model was trained with."""
        return self.denoiser.alphas_cumprod

    @property
    def scale(self) -> Scale | None:
        """Of the latents; None over pixels."""
        return self.stated.scale

    @property
    def decodes(self) -> bool:
        """Whether `decode` has a way back to images."""
        return self.stated.autoencoder is None or bool(self.stated.autoencoder.library)

    @property
    def raw_channels(self) -> int:
        """Channels of the encoding, and of the hint where there is one."""
        return self.channels + (self.stated.pixels.channels * self._fold**2 if self.hinted else 0)

    @property
    def _fold(self) -> int:
        return self.image_size // self.grid_size

    def raw(self, image: Tensor) -> Tensor:
        """Return the prepared pixels, or the mean of the autoencoder's posterior: (B, `raw_channels`, h, w).

        A hint stands behind, its pixels folded into channels.

        Args:
            image: (B, 3, image_size, image_size) in [0, 1].
        """
        prepared = self.stated.pixels.prepare(image)
        encoding = prepared
        if self.autoencoder is not None and self.stated.autoencoder is not None:
            encoding = encode_of(self.stated.autoencoder.library)(self.autoencoder, prepared)
        if not self.hinted:
            return encoding
        return torch.cat([encoding, F.pixel_unshuffle(prepared.to(encoding), self._fold)], dim=1)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return the encoding of ``raw``, scaled as the model was trained on it: (B, C, h, w).

        Raises:
            ValueError: the scale is still to be estimated.
        """
        encoding, scale = raw[:, : self.channels], self.scale
        if scale is None:
            return encoding
        if scale.factor is None:
            raise ValueError(
                "the scale factor of the latents is not known: give scale_factor, or estimate it on normal images by "
                "python -m invad_med calibrate or host.fit_normalisation(host.raw(images))"
            )
        return (encoding - scale.shift) * scale.factor

    def fit_normalisation(self, raw: Tensor) -> None:
        """Estimate the scale on ``raw`` (N, C, h, w) of normal images, where it is neither given nor stored."""
        scale = self.scale
        if scale is not None and (scale.factor is None or scale.images is not None):
            latents = raw[:, : self.channels]
            self.stated = dataclasses.replace(self.stated, scale=scale.estimated(latents))

    def predictor(self, raw: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `eps` for the images that ``raw`` (B, `raw_channels`, h, w) was made of, with their hint."""
        if not self.hinted:
            return self.eps
        return functools.partial(self.denoiser, hint=F.pixel_shuffle(raw[:, self.channels :], self._fold))

    def decode(self, encoding: Tensor) -> Tensor:
        """Return the image (B, 3, H, W), about in [0, 1], that an encoding (B, C, h, w) stands for.

        Raises:
            ValueError: the encoder is a function, which has no way back.
        """
        scale = self.scale
        if self.autoencoder is not None and self.stated.autoencoder is not None:
            if scale is not None and scale.factor is not None:
                encoding = encoding / scale.factor + scale.shift
            encoding = decode_of(self.stated.autoencoder.library)(self.autoencoder, encoding)
        return self.stated.pixels.restore(encoding)

    @property
    def architecture(self) -> AdaptedArchitecture:
        """What rebuilds this host."""
        return self.stated

    @property
    def encoder(self) -> nn.Module:
        """The autoencoder; over pixels a module that does nothing."""
        return nn.Identity() if self.autoencoder is None else self.autoencoder

    @property
    def device(self) -> torch.device:
        """Where the schedule is, and the networks."""
        return self.alphas_cumprod.device

    def why_not(self, timesteps: Sequence[tuple[int, int | None]]) -> str | None:
        """Return why an inversion over pairs (t, t_next) cannot be made of what the network predicts, or None."""
        undefined = self.denoiser.undefined
        return next((f"t = {t} cannot be evaluated: {undefined[t]}" for t, _ in timesteps if t in undefined), None)

    def _timesteps(self) -> list[int]:
        """Return three timesteps, early, in the middle and late, at which it can be evaluated."""
        defined = [t for t in range(len(self.alphas_cumprod)) if t not in self.denoiser.undefined]
        return [defined[int(share * (len(defined) - 1))] for share in (0.2, 0.5, 0.8)]

    def note_behaviour(self) -> None:
        """Note what it does to a fixed input; see `Host.note_behaviour`."""
        self.stated = dataclasses.replace(self.stated, behaviour=observe(self, self._timesteps()))

    def check_behaviour(self) -> None:
        """Compare what it does with what was noted; see `Host.check_behaviour`."""
        noted = self.stated.behaviour
        told = deviation(noted, observe(self, self._timesteps())) if noted else None
        if told is not None:
            raise ValueError(
                f"the host is not the one that was calibrated: {told}. Names and shapes of its weights are the same; "
                "its arguments (heads, groups), its code or what a function closes over differ"
            )

    def encoder_digest(self) -> str:
        """Return a SHA-256 of all that `raw` depends on; of an encoder of one's own also of what it does."""
        digest = super().encoder_digest()
        if self.stated.autoencoder is None or self.stated.autoencoder.library:
            return digest
        seen = " ".join(f"{value:.3g}" for value in encoding_of_fixed_images(self).flatten()[::7].tolist())
        return hashlib.sha256((digest + seen).encode()).hexdigest()

    def as_stated(self, values: Mapping[str, Any]) -> AdaptedHost:
        """Return this host with the scale and the behaviour that a checkpoint states; see `Host.as_stated`."""
        theirs = AdaptedArchitecture.from_plain(values) if values.get("host") == self.stated.host else None
        if theirs is not None:
            scale = self.scale if theirs.scale is None or self.scale is None else theirs.scale
            schedule = self.stated.schedule if theirs.schedule else ""
            self.stated = dataclasses.replace(self.stated, scale=scale, behaviour=theirs.behaviour, schedule=schedule)
        super().as_stated(values)
        return self

    @classmethod
    def rebuild(cls, values: Mapping[str, Any], **parts: nn.Module | None) -> AdaptedHost:
        """Return the host that ``values`` state; ``denoiser`` and ``features`` stand in for its two networks.

        Raises:
            ValueError: a network that ``values`` cannot build and that is not given.
        """
        stated = AdaptedArchitecture.from_plain(values)
        network = parts.get("denoiser")
        if network is None:
            network = build(stated.network, "denoiser")
        autoencoder = parts.get("features")
        if autoencoder is None and stated.autoencoder is not None:
            autoencoder = build(stated.autoencoder, "features")
        conditioning = _placeholder(stated.conditioning)
        schedule = torch.linspace(1.0, 0.0, stated.num_train_timesteps + 2, dtype=torch.float64)[1:-1]
        return cls(stated, network, schedule, autoencoder, conditioning)


def _placeholder(stated: Conditioned) -> Conditioning:
    """Return a conditioning as stated, its values still to be loaded."""
    if stated.prompt is not None:
        return NullPrompt(torch.zeros(stated.prompt))
    if stated.label is not None:
        return ClassLabel(stated.label)
    return ImageHint() if stated.by == "hint" else None
