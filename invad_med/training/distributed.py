"""What changes when several processes train together: who writes, who waits, and how a network is shared."""

from __future__ import annotations

import torch.distributed as dist


def processes() -> int:
    """Return the number of processes that train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def barrier() -> None:
    """Wait until every process is here."""
    if processes() > 1:
        dist.barrier()
