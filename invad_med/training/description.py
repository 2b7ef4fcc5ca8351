"""Any object that shapes a run as flat plain values, taken from what it is and not from what was asked for."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# They change while a run goes on, or belong to a process: no settings.
_STATE = (np.random.RandomState, np.random.Generator, torch.Generator, torch.device)
_COUNTERS = ("last_epoch", "optimizer", "lr_lambdas")  # of a learning rate schedule
_DEPTH = 8  # of objects within objects


def describe(name: str, thing: Any) -> dict[str, Any]:
    """Return what ``thing`` is set to: ``name`` -> its value or class, ``name.part`` -> each of its parts.

    An object says so in ``settings``, a mapping, if it has that; else its public attributes are read, objects within
    it likewise. Tensors and networks are told by a digest, random states not at all. Values are None, bool, number,
    string, or lists of these.
    """
    return dict(_described(name, thing, 0))


def plain(value: Any) -> Any:
    """Return a value that a checkpoint loads safely: None, bool, number, string, or lists of these.

    Raises:
        TypeError: it is no such value and has no such form.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath | torch.dtype | torch.Size):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, type | types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return _name(value)
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return f"{array.dtype}{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]}"
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _described(name: str, thing: Any, depth: int) -> Iterator[tuple[str, Any]]:
    try:
        yield name, plain(thing)
        return
    except TypeError:
        pass
    if isinstance(thing, _STATE) or depth > _DEPTH:
        return
    if isinstance(thing, list | tuple):
        thing = {str(i): item for i, item in enumerate(thing)}
    elif not isinstance(thing, Mapping):
        yield name, _name(type(thing))
        thing = _parts(thing)
    for key, part in thing.items():
        yield from _described(f"{name}.{key}", part, depth + 1)


def _parts(thing: Any) -> Mapping[str, Any]:
    """Return the settings of an object by name."""
    if isinstance(settings := getattr(thing, "settings", None), Mapping):
        return settings
    if dataclasses.is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    if isinstance(thing, functools.partial):
        return {"func": thing.func, "args": thing.args, **thing.keywords}
    if isinstance(thing, Optimizer):
        return thing.defaults
    public = _public(thing)
    if isinstance(thing, nn.Module):
        return {**public, **dict(thing.named_children()), "weights": network_digest(thing)}
    if isinstance(thing, LRScheduler):
        return {key: value for key, value in public.items() if key not in _COUNTERS}
    return public


def _public(thing: Any) -> dict[str, Any]:
    """Return the public attributes of an object by name, less whether a network is in training mode."""
    mode = "training" if isinstance(thing, nn.Module) else None
    return {key: value for key, value in sorted(vars(thing).items()) if not key.startswith("_") and key != mode}


def network_settings(network: nn.Module) -> dict[str, Any]:
    """Return what makes a network but the values of its weights, which may be sharded.

    Returns:
        ``shapes``, a digest of names, shapes and types of its tensors; and for the network and every module in it
        ``type`` and its public attributes, such as ``blocks.0.dropout.p``, which no tensor shows.
    """
    told: dict[str, Any] = {"shapes": network_digest(network, weights=False)}
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        told[f"{prefix}type"] = _name(type(module))
        told |= {f"{prefix}{key}": value for key, value in _public(module).items()}
    return told


def network_digest(network: nn.Module, weights: bool = True) -> str:
    """Return a digest of a network: names, shapes and types of all it learns or stores, and the values of these.

    Args:
        network: not sharded, where its values count.
        weights: whether the values count.
    """
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, tensor in network.state_dict().items():
        told = plain(tensor) if weights else f"{tensor.dtype}{tuple(tensor.shape)}"
        digest.update(f"{name} {told};".encode())
    return digest.hexdigest()[:16]


def _name(thing: Any) -> str:
    """Return the dotted name of a class or function; a function without one is told by its code."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    code = getattr(thing, "__code__", None)
    if code is None or "<" not in name:
        return name
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    told = repr((code.co_code, code.co_names, constants)).encode()
    return f"{name} {hashlib.sha256(told).hexdigest()[:16]}"
