"""The averaged weights that are validated and kept: ignite's exponential moving average, once an optimiser step."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from ignite.handlers.ema_handler import EMAWarmUp
from torch import nn


class AveragedWeights(EMAHandler):
    """Exponential moving average of a network's weights, in ``ema_model``.

    Its momentum is a function of the step alone, so that a resumed run averages as an uninterrupted one does.

    Args:
        model: the network, not wrapped.
        momentum: 1 - decay, after the warm-up.
        momentum_warmup: at the first step; falls linearly.
        warmup_steps: optimiser steps until ``momentum`` is reached.
        accumulation_steps: iterations to an optimiser step.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.001,
        momentum_warmup: float = 0.2,
        warmup_steps: int = 0,
        accumulation_steps: int = 1,
    ) -> None:
        super().__init__(model, momentum=momentum)
        self.schedule = EMAWarmUp(momentum_warmup if warmup_steps else momentum, warmup_steps, momentum)
        self.every = accumulation_steps
        self.settings = {
            "momentum": momentum,
            "momentum_warmup": momentum_warmup,
            "warmup_steps": warmup_steps,
            "accumulation_steps": accumulation_steps,
        }

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._average)

    def _average(self, engine: Engine) -> None:
        setattr(engine.state, "ema_momentum", self.schedule(engine.state.iteration // self.every))  # noqa: B010
        self._update_ema_model(engine, "ema_momentum")
