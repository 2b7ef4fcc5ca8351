"""What an adapted host states of itself in a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from invad_med.hosts.host import Architecture
from invad_med.hosts.records import Conditioned, Network, Noise, Pixels, Scale, ScaleSource, Target


@dataclass(frozen=True, kw_only=True)
class AdaptedArchitecture(Architecture):
    """What rebuilds an `invad_med.hosts.adapted.AdaptedHost`, its schedule and weights aside.

    Args:
        network: the noise predictor.
        pixels: how an image becomes the network's or the autoencoder's.
        autoencoder: None: the model is over pixels. Of its posterior the mean is taken, never a sample.
        scale: of the latents; None over pixels.
        channels, grid_size: of the encoding, (channels, grid_size, grid_size).
        num_train_timesteps: T of the schedule.
        prediction: what the network predicts.
        learned_sigma: whether it predicts as many channels again, for a variance, which are not used.
        conditioning: what it is conditioned on at every evaluation.
        noise: what it was trained with.
        licence: of the weights, as whoever adapts them states it; empty: not stated.
        schedule: digest of alphas_cumprod.
        behaviour: what it did to a fixed input when it was calibrated, see `invad_med.hosts.behaviour`.
    """

    host: ClassVar[str] = "adapted"
    of_the_denoiser: ClassVar[frozenset[str]] = frozenset(
        (
            "network",
            "scale",
            "num_train_timesteps",
            "prediction",
            "learned_sigma",
            "noise",
            "licence",
            "schedule",
            "behaviour",
        )
    )
    network: Network
    pixels: Pixels
    autoencoder: Network | None
    scale: Scale | None
    channels: int
    grid_size: int
    num_train_timesteps: int
    prediction: Target
    learned_sigma: bool
    conditioning: Conditioned
    noise: Noise
    licence: str
    schedule: str = ""
    behaviour: tuple[float, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return the fields and the kind of host as plain values."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return {"host": self.host, **values}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> AdaptedArchitecture:
        """Return the record of plain values.

        Raises:
            ValueError: a field or a value that this version does not know.
        """
        stated = super().from_plain(values)
        records: dict[str, Any] = {}
        for name, record in _RECORDS.items():
            value = getattr(stated, name)
            if isinstance(value, Mapping):
                records[name] = record(**{key: tuple(v) if isinstance(v, list) else v for key, v in value.items()})
        if isinstance(records.get("scale"), Scale):
            records["scale"] = dataclasses.replace(records["scale"], source=ScaleSource(records["scale"].source))
        return dataclasses.replace(
            stated, prediction=Target.of(stated.prediction), noise=Noise(stated.noise), **records
        )


_RECORDS: dict[str, Any] = {
    "network": Network,
    "autoencoder": Network,
    "pixels": Pixels,
    "scale": Scale,
    "conditioning": Conditioned,
}


def plain(value: Any) -> Any:
    """Return a value made of what a checkpoint loads safely: None, bool, number, string, lists and dictionaries."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
