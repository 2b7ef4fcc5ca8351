"""A host is the diffusion model that is inverted: how an image becomes its space, the noise it predicts, its schedule.

Everything above (engine, detector, training, evaluation) knows this interface alone. `HOSTS` names the kinds that a
checkpoint can be rebuilt as; a kind of your own is a subclass and an entry, made before the checkpoint is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from invad_med.diffusion import linear_alphas_cumprod
from invad_med.networks.features import FrozenFeatures, Merge
from invad_med.networks.presets import create_denoiser
from invad_med.serving.encoder import OF_THE_DENOISER

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
    """

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
            (B, C, h, w).
        """

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


@dataclass(frozen=True)
class FeatureArchitecture(Architecture):
    """What rebuilds a `FeatureHost`.

    Args:
        backbone, out_indices, feature_norm, official_padding, merge: of `invad_med.networks.FrozenFeatures`.
        preset: name in `invad_med.networks.presets.PRESETS`; None for a network that no preset makes.
        sizes: of the network; those of the preset where there are none.
        denoiser: class of the noise predictor, for the reader.
    """

    host: ClassVar[str] = "features"
    of_the_denoiser: ClassVar[frozenset[str]] = OF_THE_DENOISER
    backbone: str = "tf_efficientnet_lite0"
    out_indices: tuple[int, ...] = (0, 1, 2, 3)
    feature_norm: Literal["channel"] | None = "channel"
    official_padding: bool = False
    merge: Merge = "point"  # of checkpoints that do not state it
    preset: str | None = "cpu"
    sizes: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    denoiser: str = ""


class FeatureHost(Host):
    """Frozen backbone features and a noise predictor over them, on a linear schedule (arXiv 2504.05662).

    Args:
        features: backbone.
        denoiser: ``eps(x, t)`` over the features.
        image_size: side in pixels of the square images, a multiple of the backbone's reduction.
    """

    features: FrozenFeatures

    def __init__(self, features: FrozenFeatures, denoiser: nn.Module, image_size: int = 256) -> None:
        super().__init__()
        self.features, self.denoiser, self.image_size = features, denoiser, image_size
        self.channels, self.grid_size = features.out_channels, features.grid_size(image_size)
        self.alphas_cumprod = linear_alphas_cumprod()

    def raw(self, image: Tensor) -> Tensor:
        """Return the merged features before channel normalisation: (B, C, h, w)."""
        return self.features.raw(image)

    def normalise(self, raw: Tensor) -> Tensor:
        """Standardise raw features (B, C, h, w) per channel."""
        return self.features.normalise(raw)

    def fit_normalisation(self, raw: Tensor) -> None:
        """Set the channel statistics from raw features (N, C, h, w) of normal training images."""
        self.features.fit_normalisation(raw)

    @property
    def architecture(self) -> FeatureArchitecture:
        """What rebuilds this host."""
        return FeatureArchitecture(
            image_size=self.image_size,
            backbone=self.features.backbone,
            out_indices=self.features.out_indices,
            feature_norm=self.features.feature_norm,
            official_padding=self.features.official_padding,
            merge=self.features.merge,
            preset=getattr(self.denoiser, "preset", None),
            sizes=dict(getattr(self.denoiser, "sizes", {})),
            denoiser=type(self.denoiser).__name__,
        )

    @classmethod
    def rebuild(cls, values: Mapping[str, Any], **parts: nn.Module | None) -> FeatureHost:
        """Return the host that ``values`` state; ``features`` and ``denoiser`` may be given instead.

        Raises:
            ValueError: a denoiser of no preset that is not given.
        """
        stated = FeatureArchitecture.from_plain(values)
        features, denoiser = parts.get("features"), parts.get("denoiser")
        if features is None:
            features = FrozenFeatures(
                stated.backbone,
                "checkpoint",
                None,
                stated.out_indices,
                stated.feature_norm,
                stated.official_padding,
                stated.merge,
            )
        assert isinstance(features, FrozenFeatures)
        if denoiser is None:
            if stated.preset is None:
                raise ValueError(
                    f"the checkpoint's noise predictor is a {stated.denoiser}, which no preset builds: give the same "
                    "network again (key denoiser), or make it a preset (invad_med.networks.presets.PRESETS)"
                )
            size = features.grid_size(stated.image_size)
            sizes: dict[str, Any] = dict(stated.sizes)
            denoiser = create_denoiser(stated.preset, features.out_channels, size, **sizes)
        return cls(features, denoiser, stated.image_size)

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.features.body


HOSTS: dict[str, type[Host]] = {FeatureArchitecture.host: FeatureHost}
AS_SHIPPED = dict(HOSTS)  # without entries of your own


def rebuild_host(values: Mapping[str, Any], **parts: nn.Module | None) -> Host:
    """Return the host of an architecture's plain values, its weights still to be loaded.

    Raises:
        ValueError: no such kind of host; what `Host.rebuild` refuses.
    """
    kind = values.get("host", FeatureArchitecture.host)
    if kind not in HOSTS:
        raise ValueError(
            f"the checkpoint is of a host {kind!r}; known are {', '.join(HOSTS)}. A host of your own is an entry of "
            "invad_med.detection.host.HOSTS, made before the checkpoint is loaded"
        )
    return HOSTS[kind].rebuild(values, **parts)
