"""What a host does to a fixed input, noted when it is calibrated and compared when it is loaded.

Names and shapes of weights do not tell heads, groups, a function's closure or the code of a module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invad_med.hosts.host import Host

_IMAGES = 2
_PLACES = 8  # values noted of each thing that is observed
_TOLERANCE = 0.02  # of the largest noted value; another device or thread count stays far below


@torch.no_grad()
def encoding_of_fixed_images(host: Host) -> Tensor:
    """Return the raw encoding of images that are always the same: (2, `Host.raw_channels`, h, w)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_IMAGES, 3, 8, 8, generator=generator)
    size = (host.image_size, host.image_size)
    return host.raw(nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False).to(host.device))


@torch.no_grad()
def observe(host: Host, timesteps: Sequence[int]) -> tuple[float, ...]:
    """Return values of the encoding of fixed images, and of the noise that is predicted in fixed noise.

    Args:
        host: in evaluation mode.
        timesteps: at which it predicts.

    Raises:
        ValueError: it does not return the same for the same input, or what it returns for an image depends on others.
    """
    raw = encoding_of_fixed_images(host)
    shape = (_IMAGES, host.channels, host.grid_size, host.grid_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(raw)

    def predict(part: slice) -> Tensor:
        eps, own = host.predictor(raw[part]), x[part]
        return torch.cat([eps(own, torch.full((len(own),), t, device=own.device)) for t in timesteps], dim=1)

    together, again = predict(slice(None)), predict(slice(None))
    alone = torch.cat([predict(slice(i, i + 1)) for i in range(_IMAGES)])
    if not torch.isfinite(together).all():
        raise ValueError("the network predicts NaN or infinite values for noise of N(0, 1)")
    if _differ(together, again):
        raise ValueError(
            "the network returns something else each time for the same input, as dropout in training mode does: call "
            "its eval() and take randomness out of the function"
        )
    if _differ(together, alone):
        raise ValueError(
            "what the network returns for an image depends on the others in its batch, as BatchNorm in training mode "
            "does: call its eval()"
        )
    return (*_places(raw), *_places(together))


def deviation(noted: Sequence[float], seen: Sequence[float]) -> str | None:
    """Return by how much what is seen differs from what was noted, in words, or None where they agree."""
    if len(noted) != len(seen):
        return f"{len(seen)} values instead of {len(noted)}"
    for what, half in (("encoding", slice(None, _PLACES)), ("predicted noise", slice(_PLACES, None))):
        then, now = torch.tensor(noted[half]), torch.tensor(seen[half])
        if _differ(then, now):
            off, largest = (values.abs().max() for values in (then - now, then))
            return f"{what} of a fixed input off by up to {off:.2g}, its largest value {largest:.2g}"
    return None


def quieted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, networks it is seen to call in evaluation mode; of ``network.forward`` the network itself."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(function, "__name__", "") in ("forward", "__call__"):
        return owner
    for module in _modules_of(function):
        module.eval()
    return function


def _modules_of(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, partial):
        parts = [function.func, *function.args, *function.keywords.values()]
    else:
        used: Mapping[str, Any] = {}
        if inspect.isfunction(getattr(function, "__func__", function)):
            variables = inspect.getclosurevars(function)
            used = {**variables.nonlocals, **variables.globals}
        parts = [*used.values(), getattr(function, "__self__", None), *getattr(function, "__dict__", {}).values()]
    for part in parts:
        if isinstance(part, nn.Module):
            yield part
        elif isinstance(part, partial):
            yield from _modules_of(part)


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > _TOLERANCE * one.abs().max().clamp(min=1e-6))


def _places(values: Tensor) -> list[float]:
    flat = values.float().flatten()
    return [float(f"{v:.6g}") for v in flat[torch.linspace(0, len(flat) - 1, _PLACES).long().to(flat.device)].tolist()]
