"""Ignite handlers: progress of a training run."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm


class TrainingProgress:
    """Show one bar over all iterations, with the running mean of the loss, the rate and the time left."""

    def __init__(self, description: str = "training", smoothing: float = 0.98) -> None:
        self.description, self.smoothing = description, smoothing
        self.loss: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output holds ``loss``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        total = (engine.state.epoch_length or 0) * (engine.state.max_epochs or 0)
        self.bar = tqdm(total=total or None, desc=self.description, unit="step")

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = float(output["loss"].detach())
        self.loss = loss if self.loss is None else self.smoothing * self.loss + (1 - self.smoothing) * loss
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update()

    def _close(self, engine: Engine, *error: BaseException) -> None:
        self.bar.close()
        if error:
            raise error[0]
