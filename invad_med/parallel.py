"""Several processes that work together: how many, which one is this, wait for each other, share an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def processes() -> int:
    """Return the number of processes that work together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def barrier() -> None:
    """Wait until every process is here."""
    if processes() > 1:
        dist.barrier()


def together(compute: Callable[[], T]) -> list[T]:
    """Return what ``compute`` gives in every process, by rank; an error in one is raised in all, and each must call."""
    if processes() == 1:
        return [compute()]
    found: tuple[T | None, Exception | None]
    try:
        found = compute(), None
    except Exception as error:  # the others must not wait for what will never come
        found = None, error
    everyone: list[Any] = [None] * processes()
    dist.all_gather_object(everyone, found)
    for _, raised in everyone:
        if raised is not None:
            raise raised
    return [value for value, _ in everyone]


def mean_over_processes(value: float) -> float:
    """Return the mean of every process's ``value``; each must call."""
    if processes() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return float(total) / processes()
