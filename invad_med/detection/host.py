"""Our own host over frozen features, and the table of the kinds of hosts that a checkpoint can be rebuilt as.

A kind of your own is a subclass of `invad_med.hosts.host.Host` and an entry of `HOSTS`, made before the checkpoint is
loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from invad_med.diffusion import linear_alphas_cumprod
from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.architecture import AdaptedArchitecture
from invad_med.hosts.host import Architecture, Host
from invad_med.networks.features import FrozenFeatures, Merge
from invad_med.networks.presets import create_denoiser
from invad_med.serving.encoder import OF_THE_DENOISER

__all__ = ["AS_SHIPPED", "HOSTS", "Architecture", "FeatureArchitecture", "FeatureHost", "Host", "rebuild_host"]


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

    space = "features"
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


HOSTS: dict[str, type[Host]] = {FeatureArchitecture.host: FeatureHost, AdaptedArchitecture.host: AdaptedHost}
AS_SHIPPED = dict(HOSTS)  # without entries of your own


def rebuild_host(values: Mapping[str, Any], host: Host | None = None, **parts: nn.Module | None) -> Host:
    """Return the host of an architecture's plain values, its weights still to be loaded.

    Args:
        values: as `Architecture.to_plain` gives them.
        host: to be used as it is, where it is the one that is stated.
        parts: networks to use instead of those that ``values`` state.

    Raises:
        ValueError: no such kind of host; what `Host.rebuild` or `Host.as_stated` refuses.
    """
    if host is not None:
        return host.as_stated(values)
    kind = values.get("host", FeatureArchitecture.host)
    if kind not in HOSTS:
        raise ValueError(
            f"the checkpoint is of a host {kind!r}; known are {', '.join(HOSTS)}. A host of your own is an entry of "
            "invad_med.detection.host.HOSTS, made before the checkpoint is loaded"
        )
    return HOSTS[kind].rebuild(values, **parts)
