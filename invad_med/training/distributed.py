"""How a network is shared by the processes that train it together."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from invad_med.hosts.adapted import NoisePredictor
from invad_med.networks.blocks import blocks_of


def share_network(
    network: nn.Module, average: nn.Module, device: str | torch.device, fully_sharded: bool = False
) -> nn.Module:
    """Return the network as every process of the group trains it.

    Args:
        network: the same in every process.
        average: the network of averaged weights; sharded with it, else left alone.
        device: this process's.
        fully_sharded: divide weights, gradients and optimiser state among the processes (FSDP), block by block, for
            networks that a single device does not hold; else each process holds all of them (DDP).

    Raises:
        ValueError: a network without blocks is to be sharded, or one of an adapted host, which one process trains.
    """
    if isinstance(network, NoisePredictor):
        raise ValueError("a host of another library is trained by one process: run train.json without torchrun")
    if not fully_sharded:
        devices = [device] if torch.device(device).type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)
    for module in (network, average):
        for block in blocks_of(module):
            fully_shard(block)
        # The root would stay whole after a forward pass in expectation of a backward one; the average has none.
        fully_shard(module, reshard_after_forward=module is average)
    return network
