"""Gradient clipping, which MONAI's trainer leaves to a handler."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


class GradientClipping:
    """Scale the gradient's norm down to ``max_norm`` before an optimiser step.

    Args:
        network: whose parameters.
        max_norm: L2 norm over all of them, > 0.
        accumulation_steps: iterations to an optimiser step.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0, accumulation_steps: int = 1) -> None:
        self.network, self.max_norm, self.every = network, max_norm, accumulation_steps
        self.settings = {"max_norm": max_norm, "accumulation_steps": accumulation_steps}

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        if engine.state.iteration % self.every == 0:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
