"""The loss of every step as a table, the same after a resumed run as after an uninterrupted one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from invad_med.files import write_atomically
from invad_med.parallel import mean_over_processes


class TrainingLog:
    """Ignite handler: loss, averaged over the processes, and learning rate of every iteration.

    Attach it before the learning rate is changed.

    Args:
        path: CSV file that `write` makes: ``step,loss,learning_rate``.
        optimizer: whose learning rate.

    Raises:
        ValueError: in the run, at the first loss that is not finite: what follows of such weights is no model, and
            averages that pass over NaN would call it the best.
    """

    def __init__(self, path: str | Path, optimizer: Optimizer) -> None:
        self.path, self.optimizer = Path(path), optimizer
        self.rows: list[tuple[float, float]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output holds ``loss``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = mean_over_processes(float(output["loss"].detach()))
        if not math.isfinite(loss):
            raise ValueError(
                f"training has diverged: the loss is {loss} at step {engine.state.iteration}; lower --learning_rate "
                "or raise --warmup_steps, and begin anew with --resume False"
            )
        self.rows.append((loss, float(self.optimizer.param_groups[0]["lr"])))

    def write(self) -> None:
        """Write the table."""
        lines = [f"{step},{loss:.8g},{rate:.8g}\n" for step, (loss, rate) in enumerate(self.rows, start=1)]
        write_atomically(self.path, ("step,loss,learning_rate\n" + "".join(lines)).encode())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": torch.tensor(self.rows, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the rows of a run that was cut."""
        self.rows = [(loss, rate) for loss, rate in state["rows"].reshape(-1, 2).tolist()]
