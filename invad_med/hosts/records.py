"""What a host states of itself: how an image becomes its space, what it predicts, by what it is conditioned."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Target(str, Enum):
    """What a network predicts, named as diffusers and MONAI name it."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"
    __str__ = str.__str__

    @classmethod
    def of(cls, name: str) -> Target:
        """Return the prediction of a name.

        Raises:
            ValueError: it is none that noise follows from.
        """
        if name in _NO_NOISE:
            raise ValueError(f"prediction {name!r} cannot be inverted: {_NO_NOISE[name]}")
        try:
            return cls(name)
        except ValueError:
            raise ValueError(
                f"prediction {name!r} is none of {', '.join(cls)}: noise does not follow from it; if you know how it "
                "does, give a function that returns noise to invad_med.hosts.from_callable"
            ) from None


_NO_NOISE = {
    "deviation": "a deviation from the normal image (DeCo-Diff) is no noise, and its walk does not end in N(0, I); the "
    "length of the deviation is that model's own score",
    "flow_prediction": "a flow's velocity belongs to straight paths, not to a schedule of alphas_cumprod",
}


class Noise(str, Enum):
    """What noise a model was trained with: of any but Gaussian noise the paper's likelihood has no meaning."""

    GAUSSIAN = "gaussian"
    SIMPLEX = "simplex"
    OTHER = "other"
    __str__ = str.__str__


class ScaleSource(str, Enum):
    """Where the scale of an encoding comes from."""

    GIVEN = "given"
    STORED = "stored"  # in the model's own files
    ESTIMATED = "estimated"  # one over the deviation of the encodings of normal images
    __str__ = str.__str__


@dataclass(frozen=True)
class Pixels:
    """How the pixels of an image in [0, 1] become those that a network takes: ``(image - mean) / std``.

    Args:
        channels: 3, or 1: the mean of the three.
        mean, std: of each channel.

    Raises:
        ValueError: another number of channels, of means or of deviations, or a deviation that is not positive.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"a network of {self.channels} input channels is not one of images: 1 or 3 are known")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must have {self.channels} values, std above 0")

    @classmethod
    def in_range(cls, channels: int, low: float = -1.0, high: float = 1.0) -> Pixels:
        """Return pixels between ``low`` (black) and ``high`` (white)."""
        if not low < high:
            raise ValueError(f"the range {low} to {high} is empty")
        span = high - low
        return cls(channels, (-low / span,) * channels, (1.0 / span,) * channels)

    def prepare(self, image: Tensor) -> Tensor:
        """Return ``image`` (B, 3, H, W) in [0, 1] as the network takes it: (B, channels, H, W)."""
        if self.channels == 1:
            image = image.mean(1, keepdim=True)
        mean, std = self._constants(image)
        return (image - mean) / std

    def restore(self, prepared: Tensor) -> Tensor:
        """Return what `prepare` made of an image as that image: (B, 3, H, W), in [0, 1] if it was one."""
        mean, std = self._constants(prepared)
        return (prepared * std + mean).expand(-1, 3, -1, -1)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return mean, std


@dataclass(frozen=True)
class Scale:
    """What the mean of an encoder's posterior becomes before it is noised: ``(mean - shift) * factor``.

    Args:
        factor: None until it is estimated.
        source: where it comes from.
        images: normal images that it was estimated on.
        shift: see above.
    """

    factor: float | None
    source: ScaleSource
    images: int | None = None
    shift: float = 0.0

    @classmethod
    def of(cls, given: float | None, stored: float | None = None, shift: float | None = None) -> Scale:
        """Return the given factor, else the stored one, else one that is to be estimated.

        Raises:
            ValueError: a factor that is not positive.
        """
        factor = stored if given is None else given
        if factor is not None and not 0.0 < factor < float("inf"):
            raise ValueError(f"scale_factor={factor} must be positive: one over the deviation of the encodings")
        source = ScaleSource.GIVEN if given is not None else ScaleSource.STORED
        return cls(factor, source if factor is not None else ScaleSource.ESTIMATED, None, shift or 0.0)

    def estimated(self, latents: Tensor) -> Scale:
        """Return one over the deviation of latents (N, C, h, w) of normal images.

        Raises:
            ValueError: they do not vary, or are not finite.
        """
        deviation = float(latents.double().std())
        if not 0.0 < deviation < float("inf"):
            raise ValueError(f"the encodings of {len(latents)} normal images have the deviation {deviation}: no scale")
        return Scale(1.0 / deviation, ScaleSource.ESTIMATED, len(latents), self.shift)


@dataclass(frozen=True)
class NullPrompt:
    """The text encoder's output for the prompt to condition on, usually the empty one.

    Args:
        embedding: (L, D).
    """

    embedding: Tensor

    def __post_init__(self) -> None:
        if self.embedding.ndim != 2 or not torch.isfinite(self.embedding).all():
            raise ValueError(f"a prompt's embedding is finite and (L, D), not {tuple(self.embedding.shape)}")


@dataclass(frozen=True)
class ClassLabel:
    """The class to condition on, such as the null class of a model trained without guidance by chance."""

    label: int


@dataclass(frozen=True)
class ImageHint:
    """The prepared image itself, given at every evaluation: ``eps(x, t, hint)``, hint (B, channels, size, size)."""


Conditioning = NullPrompt | ClassLabel | ImageHint | None


@dataclass(frozen=True)
class Conditioned:
    """What a network is conditioned on, as it travels in a checkpoint: plain, a prompt's values aside.

    Args:
        by: ``prompt``, ``label``, ``hint`` or nothing.
        label: the class.
        prompt: (L, D), the shape of the prompt's embedding.
    """

    by: str = ""
    label: int | None = None
    prompt: tuple[int, int] | None = None

    @classmethod
    def of(cls, conditioning: Conditioning) -> Conditioned:
        """Return the record of a conditioning."""
        if isinstance(conditioning, NullPrompt):
            return cls("prompt", prompt=(conditioning.embedding.shape[0], conditioning.embedding.shape[1]))
        if isinstance(conditioning, ClassLabel):
            return cls("label", label=conditioning.label)
        return cls("hint" if isinstance(conditioning, ImageHint) else "")


@dataclass(frozen=True)
class Network:
    """A network by its class and what builds it.

    Args:
        library: ``diffusers``, ``monai`` or nothing: a module or function of the user's own.
        name: of the class or function, for the reader.
        arguments: plain values that build it; None: it is to be given again.
    """

    library: str
    name: str
    arguments: dict[str, object] | None = None
