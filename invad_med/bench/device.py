"""A device that networks are measured on: its name, calls that wait for it, what they take of its memory."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable

import torch
from torch import nn


def device_name(device: torch.device) -> str:
    """Return what the device is called."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{platform.machine()} CPU"


def awaited(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return a call that ends when the device has done what ``call`` asked of it."""

    def wait() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return wait


def peak_gb(call: Callable[[], object], module: nn.Module, device: torch.device) -> float | None:
    """Return the most memory of a GPU that a call takes with its module, in 10^9 bytes; None on a CPU.

    What else lies on the GPU is not in it. The call should have been made before, as the first takes more.
    """
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    awaited(call, device)()
    own = sum(tensor.nbytes for tensor in itertools.chain(module.parameters(), module.buffers()))
    return (own + torch.cuda.max_memory_allocated(device) - before) / 1e9
