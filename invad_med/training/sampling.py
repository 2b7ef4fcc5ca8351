"""Which image is learned from at which step: a function of seed and step alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import NamedTuple

import torch
from torch.utils.data import DistributedSampler


class Draw(NamedTuple):
    """What a sampler asks of a dataset: the sample, and the step it is for."""

    step: int
    sample: int


class StepSampler(DistributedSampler):
    """An endless stream of shuffled passes over a data set, cut into steps and shared among processes.

    Step s of P processes takes the stream's positions ``s P b`` to ``(s + 1) P b``; process r its r-th block of b. So
    every batch is full, two processes see together what one sees with the doubled batch, and a run can begin at any
    step. MONAI's trainer calls ``set_epoch``, as for every `DistributedSampler`.

    Args:
        dataset: what is sampled.
        batch_size: images a process computes at a time, b.
        accumulation_steps: an epoch's number of steps is a multiple of this.
        seed: of the order.
        num_replicas, rank: P and r; those of the process group if one is initialised, else 1 and 0.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        accumulation_steps: int = 1,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        super().__init__(
            dataset,  # type: ignore[arg-type]  # only its length is used
            num_replicas=1 if alone and num_replicas is None else num_replicas,
            rank=0 if alone and rank is None else rank,
            seed=seed,
        )
        self.images = len(dataset)
        if self.images == 0 or batch_size < 1:
            raise ValueError(f"cannot draw batches of {batch_size} from {self.images} images")
        self.batch_size, self.epoch, self.start = batch_size, 1, 0
        together = batch_size * self.num_replicas * accumulation_steps
        self.steps_per_epoch = math.ceil(self.images / together) * accumulation_steps
        self.settings = {  # the rank is left out: all processes are one run
            "images": self.images,
            "batch_size": batch_size,
            "accumulation_steps": accumulation_steps,
            "seed": seed,
            "processes": self.num_replicas,
        }

    def __len__(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def epochs(self, steps: int) -> int:
        """Return how many epochs hold so many steps."""
        return math.ceil(steps / self.steps_per_epoch)

    def start_at(self, step: int) -> None:
        """Leave out the steps before ``step`` (counted from 0 over all epochs)."""
        self.start = step

    def __iter__(self) -> Iterator[Draw]:
        first = max((self.epoch - 1) * self.steps_per_epoch, self.start)  # MONAI counts epochs from 1
        for step in range(first, self.epoch * self.steps_per_epoch):
            block = (step * self.num_replicas + self.rank) * self.batch_size
            for position in range(block, block + self.batch_size):
                yield Draw(step, self._image(position))

    def _image(self, position: int) -> int:
        turn, place = divmod(position, self.images)
        if getattr(self, "_turn", None) != turn:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + turn) % 2**63)
            self._turn, self._order = turn, torch.randperm(self.images, generator=generator).tolist()
        return self._order[place]
