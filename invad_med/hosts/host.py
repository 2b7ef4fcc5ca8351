"""A host is the diffusion model that is inverted: how an image becomes its space, the noise it predicts, its schedule.

Everything above (engine, detector, training, evaluation) knows this interface alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

A = TypeVar("A", bound="Architecture")


@dataclass(frozen=True)
class Architecture:
    """All that rebuilds a host's networks, weights aside; plain values, as they travel in a checkpoint.

    Args:
        image_size: side in pixels of the square images that the host encodes.
    """

    host: ClassVar[str] = ""
    of_the_denoiser: ClassVar[frozenset[str]] = frozenset()  # fields that an encoding does not depend on
    image_size: int = 256

    def to_plain(self) -> dict[str, Any]:
        """Return the fields and the kind of host as plain values."""
        return {"host": self.host, **dataclasses.asdict(self)}

    @classmethod
    def from_plain(cls: type[A], values: Mapping[str, Any]) -> A:
        """Return the record of plain values.

        Raises:
            ValueError: a field that this version does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - known - {"host"})
        if unknown:
            raise ValueError(
                f"the checkpoint's architecture states {', '.join(unknown)}, which this version of invad_med does not "
                "know: install the version that its provenance names"
            )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "host"}
        return cls(**fields)


class Host(nn.Module, ABC):
    """A diffusion model over some encoding of images.

    Attributes:
        denoiser: the network that training optimises; `eps` is its noise prediction.
        alphas_cumprod: (T,) float64, the schedule it is trained and inverted with.
        channels: C of the encoding.
        grid_size: h = w of the encoding of an image of ``image_size``.
        image_size: side in pixels of the images that `raw` takes.
        space: what the encoding is of: ``features``, ``pixels``, ``latents``, or ``own``.
        gaussian: whether it was trained with Gaussian noise; the paper's likelihood has no meaning otherwise.
        tells_kinds: whether mean and deviation of the encoding's channels say what sort of picture an image is, so that
            a limit of what is familiar can be fitted on them; of few channels, pixels or latents, disease moves them.
        trained_before: whether its weights are somebody's, and not drawn by the run's seed.
    """

    space: str = "own"
    gaussian: bool = True
    tells_kinds: bool = True
    trained_before: bool = False
    denoiser: nn.Module
    alphas_cumprod: Tensor
    channels: int
    grid_size: int
    image_size: int

    @abstractmethod
    def raw(self, image: Tensor) -> Tensor:
        """Return what is fixed of an image's encoding, fit for a cache.

        Args:
            image: (B, 3, image_size, image_size) in [0, 1].

        Returns:
            (B, `raw_channels`, h, w).
        """

    @property
    def raw_channels(self) -> int:
        """Channels of `raw`: those of the encoding, and of what else `predictor` needs of an image."""
        return self.channels

    def normalise(self, raw: Tensor) -> Tensor:
        """Return the encoding of ``raw`` (B, C, h, w), with what was fitted on normal images: the same shape."""
        return raw

    def fit_normalisation(self, raw: Tensor) -> None:  # a host without a norm fits none
        """Fit what `normalise` applies on ``raw`` (N, C, h, w) of normal training images."""

    def encode(self, image: Tensor) -> Tensor:
        """Return the encoding of ``image`` (B, 3, image_size, image_size) in [0, 1]: (B, C, h, w)."""
        return self.normalise(self.raw(image))

    def eps(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise in ``x`` (B, C, h, w) at ``timesteps`` (B,) int64: the shape of ``x``."""
        return self.denoiser(x, timesteps)

    def predictor(self, raw: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `eps` for the images that ``raw`` (B, `raw_channels`, h, w) was made of."""
        return self.eps

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """What rebuilds this host."""

    @classmethod
    @abstractmethod
    def rebuild(cls, values: Mapping[str, Any], **parts: nn.Module | None) -> Host:
        """Return a host, its weights still to be loaded.

        Args:
            values: as `Architecture.to_plain` gives them.
            parts: networks to use instead of those that ``values`` state.

        Raises:
            ValueError: ``values`` name something that cannot be built here.
        """

    def why_not(self, timesteps: Sequence[tuple[int, int | None]]) -> str | None:
        """Return why an inversion over pairs (t, t_next) has no meaning for this host, or None if it has."""
        return None

    def as_stated(self, values: Mapping[str, Any]) -> Host:
        """Return this host in the place of the one that a checkpoint states, whose weights it is to take.

        Raises:
            ValueError: it is another one, by the fields that differ.
        """
        own = self.architecture.to_plain()
        differing = sorted(name for name in own.keys() | values.keys() if own.get(name) != values.get(name))
        if differing:
            told = "; ".join(f"{name} is {values.get(name)!r} there, {own.get(name)!r} here" for name in differing)
            raise ValueError(f"the checkpoint is of another host than the given one: {told[:500]}")
        return self

    def note_behaviour(self) -> None:  # a host whose record says all notes nothing
        """Note what it does to a fixed input, for `check_behaviour` after it is loaded.

        Raises:
            ValueError: it does not do the same twice.
        """

    def check_behaviour(self) -> None:  # as above
        """Compare what it does with what was noted.

        Raises:
            ValueError: it does something else.
        """

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The network whose weights `raw` depends on."""

    def encoder_digest(self) -> str:
        """Return a SHA-256 of all that `raw` depends on, to name cached encodings."""
        architecture = self.architecture
        settings = {k: v for k, v in architecture.to_plain().items() if k not in architecture.of_the_denoiser}
        digest = hashlib.sha256(repr(sorted(settings.items())).encode())
        for name, tensor in self.encoder.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
