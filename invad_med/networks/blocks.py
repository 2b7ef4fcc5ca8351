"""Layers that repeat: what a network offers as ``blocks`` is what can be recomputed, compiled and sharded."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.ModuleList):
    """Modules ``block(tokens, c)`` applied one after the other; in a state dict they are those of a plain list."""

    recompute = False
    """While training, keep no block's inner activations but compute them again in the backward pass."""

    def forward(self, tokens: Tensor, c: Tensor) -> Tensor:
        """Return the tokens (B, N, D) after all blocks, each given the condition ``c`` (B, D)."""
        recompute = self.recompute and self.training
        for block in self:
            tokens = checkpoint(block, tokens, c, use_reentrant=False) if recompute else block(tokens, c)
        return tokens


def blocks_of(network: nn.Module) -> Blocks:
    """Return the ``blocks`` of a network.

    Raises:
        ValueError: it offers none, so that it can be neither recomputed, compiled nor sharded by block.
    """
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, Blocks):
        raise ValueError(
            f"a {type(network).__name__} offers no blocks (invad_med.networks.blocks.Blocks), which is what activation "
            "checkpointing, compilation and sharding are for"
        )
    return blocks
