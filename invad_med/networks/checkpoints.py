"""Reading weights: the authors' denoiser checkpoints, and state dicts in general, safely and by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Tensors that the authors' code stores but never uses.
UNUSED = ("x_embedder_linear.", "y_embedder.", "cls_embed", "cond_embed.")
PREFIXES = ("module.", "net.")


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Return what a checkpoint file holds, loaded with ``weights_only=True`` (no pickled code runs).

    Args:
        path: the file.
        mmap: leave tensors on disk until they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint that loads safely.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: train one with configs/train.json, or give --ckpt_path an existing file"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read safely ({type(error).__name__}); is it a whole file?"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict")
    return content


def strip_prefixes(name: str) -> str:
    """Remove any run of ``module.`` and ``net.`` from the front of a tensor's name."""
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def load_denoiser(network: nn.Module, checkpoint: str | Path | dict[str, Any]) -> list[str]:
    """Load a published denoiser checkpoint into ``network``, strictly.

    ``net.`` and ``module.`` prefixes are removed; tensors known to be unused are dropped and logged.

    Args:
        network: a `DiT` or `TokenMLP` of the checkpoint's size.
        checkpoint: a file, or its content (also nested under ``model``, ``state_dict`` or ``ema``).

    Returns:
        The names of the tensors dropped.

    Raises:
        ValueError: any other tensor that is missing, not expected, or of another shape, by name.
    """
    content = read_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    for key in ("state_dict", "model", "ema"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {strip_prefixes(k): v for k, v in content.items()}
    dropped = sorted(k for k in tensors if k.startswith(UNUSED))
    load_strictly(network, {k: v for k, v in tensors.items() if k not in dropped})
    if dropped:
        logger.info("dropped %d tensors that the published code stores but never uses: %s", len(dropped), dropped)
    return dropped


def load_strictly(network: nn.Module, tensors: dict[str, Any]) -> None:
    """Load a state dict, naming everything that does not fit instead of loading a part.

    Raises:
        ValueError: what is missing, what is not expected, and which shapes differ.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(v.shape)} in the checkpoint, {tuple(own[k].shape)} in the network"
        for k, v in tensors.items()
        if isinstance(v, Tensor)
        and isinstance(own.get(k), Tensor)
        and v.shape != own[k].shape
        and own[k].numel()  # an empty tensor (a calibration not fitted yet) takes the checkpoint's size
    ]
    found = [
        f"{what}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("not expected", unexpected), ("other shape", shapes))
        if names
    ]
    if found:
        raise ValueError("the checkpoint does not fit the network; " + "; ".join(found))
    network.load_state_dict(tensors)


_LARGE = 4096  # values; smaller tensors (norms, biases, statistics) stay float32


def round_to_half(module: nn.Module) -> None:
    """Round the large tensors of a module to float16 in place, as `half_precision` will store them."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.numel() >= _LARGE:
                tensor.copy_(tensor.half())


def half_precision(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict on the CPU, its large float32 tensors as float16: half the file; any device loads it."""
    result = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}
    large = {
        n: v for n, v in result.items() if isinstance(v, Tensor) and v.dtype == torch.float32 and v.numel() >= _LARGE
    }
    return result | {name: value.half() for name, value in large.items()}
