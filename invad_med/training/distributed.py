"""What changes when several processes train together: who writes, who waits, and how a network is shared."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from invad_med.networks.dit import DiTBlock


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


def mean_over_processes(value: float) -> float:
    """Return the mean of every process's ``value``; each must call."""
    if processes() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return float(total) / processes()


def share_network(
    network: nn.Module, average: nn.Module, device: str | torch.device, fully_sharded: bool = False
) -> nn.Module:
    """Return the network as every process of the group trains it.

    Args:
        network: the same in every process.
        average: the network of averaged weights; sharded with it, else left alone.
        device: this process's.
        fully_sharded: divide weights, gradients and optimiser state among the processes (FSDP), for networks that a
            single device does not hold; else each process holds all of them (DDP).
    """
    if not fully_sharded:
        devices = [device] if torch.device(device).type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)
    for module in (network, average):
        for block in module.modules():
            if isinstance(block, DiTBlock):
                fully_shard(block)
        # The root would stay whole after a forward pass in expectation of a backward one; the average has none.
        fully_shard(module, reshard_after_forward=module is average)
    return network
