"""All that a run needs to go on where it was cut: one file of plain tensors and values, written whole or not at all."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from invad_med.files import remove_partials, whole_file
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.parallel import barrier, rank
from invad_med.training.log import TrainingLog
from invad_med.training.sampling import StepSampler
from invad_med.training.selection import Selection

logger = logging.getLogger(__name__)

SHOWN = 30  # differences that are named; a state of another version has more
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class RunState:
    """Ignite handler: keep a run's state every so many steps, and take it up at the start if there is one.

    Attach it after the handlers whose effect it keeps.

    Args:
        path: file to keep, ``last.pt``.
        network: the trained network, wrapped for several processes or not.
        average: the network of averaged weights.
        optimizer, scheduler: the trainer's.
        sampler: told at which step to begin.
        selection: what was best so far.
        log: what was logged so far; written with the state.
        configuration: plain values that the result depends on; another run's state is refused.
        interval: steps between two writings, rounded up to whole optimiser steps; the last step is always written.
        resume: take up an existing file; False: begin anew and replace it.
        accumulation_steps: iterations to an optimiser step.

    Raises:
        ValueError: at the start of the run, if the file is of another configuration; the differences are named.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        average: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        sampler: StepSampler,
        selection: Selection,
        log: TrainingLog,
        configuration: Mapping[str, Any],
        interval: int,
        resume: bool = True,
        accumulation_steps: int = 1,
    ) -> None:
        self.path, self.network, self.average = Path(path), network, average
        self.optimizer, self.scheduler = optimizer, scheduler
        self.sampler, self.selection, self.log = sampler, selection, log
        self.configuration, self.resume = dict(configuration), resume
        self.interval = math.ceil(interval / accumulation_steps) * accumulation_steps

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        if self.resume and self.path.is_file():
            self._read(engine)
        barrier()  # nobody writes before all have read
        if rank() == 0:
            remove_partials(self.path.parent)  # of a run that was killed

    def _read(self, engine: Engine) -> None:
        content = read_checkpoint(self.path)
        different = differences(content["configuration"], self.configuration)
        if different:
            more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
            raise ValueError(
                f"{self.path} is the state of a run with another configuration "
                f"({'; '.join(different[:SHOWN])}{more}): give another "
                "--output_dir, or --resume False to begin anew and replace it"
            )
        set_state_dict(
            self.network,
            self.optimizer,
            model_state_dict=content["network"],
            optim_state_dict=content["optimizer"],
            options=WHOLE,
        )
        set_model_state_dict(self.average, content["average"], options=WHOLE)
        self.scheduler.load_state_dict(content["scheduler"])
        self.selection.load_state_dict(content["selection"])
        self.log.load_state_dict(content["log"])
        torch.set_rng_state(content["rng"])
        step = content["step"]
        self.sampler.start_at(step)
        engine.state.iteration = step
        engine.state.epoch = step // self.sampler.steps_per_epoch
        logger.info("resuming at step %d of %s", step, self.path)
        if self.selection.finished(step):
            engine.terminate()

    def _step(self, engine: Engine) -> None:
        if engine.state.iteration % self.interval == 0:
            self._write(engine)

    def _write(self, engine: Engine) -> None:
        network, optimizer = get_state_dict(self.network, self.optimizer, options=WHOLE)
        average = get_model_state_dict(self.average, options=WHOLE)
        if rank() != 0:
            return
        content = {
            "configuration": self.configuration,
            "step": engine.state.iteration,
            "network": network,
            "average": average,
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
            "selection": self.selection.state_dict(),
            "log": self.log.state_dict(),
            "rng": torch.get_rng_state(),
        }
        with whole_file(self.path) as partial:
            torch.save(content, partial)
        self.log.write()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two flat mappings, as ``key was a, is b``, in the order of keys."""
    return [
        f"{key} was {then.get(key, 'not set')}, is {now.get(key, 'not set')}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
