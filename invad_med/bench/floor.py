"""What times are compared with: a plain product of matrices of as many operations, on the same device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def product(side: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """Return the product of two random square matrices, ``side`` x ``side``, to be called."""
    matrices = (torch.randn(side, side, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    a, b = (matrix.to(device, dtype) for matrix in matrices)
    return lambda: a @ b


def product_side(device: torch.device) -> int:
    """Return the side of matrices whose product keeps a device busy: 8192 of a GPU, 2048 of a CPU's cores."""
    return 8192 if device.type == "cuda" else 2048


def operations(forward: Callable[..., object], *inputs: Tensor) -> float:
    """Return the multiplications and additions of a call, by torch's counter, attention included."""
    # The counter does not know the CPU's fused attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(*inputs)
    return float(counter.get_total_flops())
