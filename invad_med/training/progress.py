"""Ignite handlers: progress of a training run."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm


class TrainingProgress:
    """Show one bar over all iterations, with the running mean of the loss, the rate and the time left.

    Args:
        description: shown before the bar.
        total: iterations of the run; those of all epochs if None.
        smoothing: weight of the past in the running mean, 0 to 1.
        enabled: show it at all.
    """

    def __init__(
        self,
        description: str = "training",
        total: int | None = None,
        smoothing: float = 0.98,
        enabled: bool = True,
    ) -> None:
        self.description, self.total = description, total
        self.smoothing, self.enabled = smoothing, enabled
        self.loss: float | None = None
        self.bar: tqdm | None = None  # until the run starts, which another handler may refuse

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output holds ``loss``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        total = self.total or (engine.state.epoch_length or 0) * (engine.state.max_epochs or 0)
        done = engine.state.iteration  # more than 0 in a resumed run
        self.bar = tqdm(total=total or None, initial=done, desc=self.description, unit="step", disable=not self.enabled)

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = float(output["loss"].detach())
        self.loss = loss if self.loss is None else self.smoothing * self.loss + (1 - self.smoothing) * loss
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
            self.bar.update()

    def _close(self, engine: Engine, *error: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()
        if error:
            raise error[0]
