"""An engine computes end points: images in, z_T out. Everything after it (map, scores) is the calibration's.

`ENGINES` names them; one of your own is an entry, made before a detector is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from invad_med.detection.host import Host
from invad_med.diffusion import Timesteps, invert


class Engine(Protocol):
    """Computes the end points of images."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return z_T (B, C, h, w) float32 of ``image`` (B, 3, image_size, image_size) in [0, 1], on its device."""


@runtime_checkable
class FromRaw(Protocol):
    """An engine that can go on from an encoding, which is then computed once for all that need it."""

    def from_raw(self, raw: Tensor) -> Tensor:
        """Return z_T (B, C, h, w) float32 of what `invad_med.hosts.host.Host.raw` made of images, (B, C, h, w)."""


class EagerEngine:
    """The reference: PyTorch as it stands, in the host's own dtype, differentiable by nothing, exportable.

    Args:
        host: whose encoding is inverted.
        timesteps: pairs (t, t_next) of the inversion.
    """

    def __init__(self, host: Host, timesteps: Timesteps) -> None:
        self.host, self.timesteps = host, list(timesteps)

    def __call__(self, image: Tensor) -> Tensor:
        """Return z_T of ``image``."""
        return self.from_raw(self.host.raw(image))

    def from_raw(self, raw: Tensor) -> Tensor:
        """Return z_T of the images that ``raw`` was made of."""
        return invert(self.host.predictor(raw), self.host.normalise(raw), self.timesteps, self.host.alphas_cumprod)


class CompiledEngine(EagerEngine):
    """The host's networks compiled in place by ``torch.compile``, on a CPU or a GPU.

    The first image, and the first batch of another size, wait for a compiler, which must be installed: minutes.
    """

    def __init__(self, host: Host, timesteps: Timesteps) -> None:
        super().__init__(host, timesteps)
        host.encoder.compile()
        host.denoiser.compile()


ENGINES: dict[str, Callable[[Host, Timesteps], Engine]] = {"eager": EagerEngine, "compile": CompiledEngine}


def make_engine(name: str, host: Host, timesteps: Timesteps) -> Engine:
    """Return an engine by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ENGINES:
        raise ValueError(f"engine={name!r} is none of {', '.join(ENGINES)}")
    return ENGINES[name](host, timesteps)
