"""How a noise predictor is trained: the record that a preset brings, and that a run fills in for itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from invad_med.networks.features import Merge


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training; the defaults are the paper's (arXiv 2504.05662) and its code's.

    What is None depends on the run, until `resolve` fills it in.

    Raises:
        ValueError: a value out of its range, by name.
    """

    learning_rate: float  # peak rate of AdamW
    images_per_step: int  # images that an optimiser step averages over, where accumulation_steps is None
    batch_size: int  # images that a process computes at a time; the rest is accumulated
    accumulation_steps: int | None = None  # batches of every process to an optimiser step; None: by images_per_step
    epochs: int = 1  # passes over the training images, where steps is None
    steps: int | None = None  # optimiser steps; a number where data sets are small and unequal
    backbone: str = "tf_efficientnet_b4.aa_in1k"  # timm name of the frozen features
    merge: Merge = "point"  # how its finer taps are resized, see FrozenFeatures
    focus: tuple[int, int] | None = None  # timesteps [first, end) that most of training draws; None: all alike
    focus_share: float = 0.75  # of the draws; the others fall on any timestep, so that every grid can be walked
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    weight_decay: float = 0.0  # of AdamW
    warmup_steps: int | None = None  # optimiser steps of linear warm-up; None: by warmup_fraction
    warmup_fraction: float = 40 / 300  # of the optimiser steps
    warmup_multiplier: float = 0.02  # rate of the first step over the peak rate
    gradient_norm: float = 1.0  # L2 norm over all parameters, which a gradient's is scaled down to
    ema_momentum: float | None = None  # 1 - decay of the averaged weights; None: by the two values below
    ema_least_momentum: float = 0.001  # the paper's; smaller than that it never is
    ema_renewals: float = 20.0  # how often a run renews its average, lest that be of its own beginning
    ema_momentum_warmup: float = 0.2  # momentum of the first step, from which it falls during the warm-up
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    compiled: bool = False  # fuse the operations of each block (torch.compile, needs a C++ compiler)
    fully_sharded: bool = False  # divide weights among processes (FSDP), where one device does not hold them

    def __post_init__(self) -> None:
        for name, (kind, least, most) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name in _OF_THE_RUN:
                continue
            number = isinstance(value, int | kind) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                shown = f"{'a whole number' if kind is int else 'a number'} of at least {least:g}"
                raise ValueError(f"{name}={value!r} must be {shown}" + f" and at most {most:g}" * (most < math.inf))
        if self.merge not in get_args(Merge):
            raise ValueError(f"merge={self.merge!r} must be {' or '.join(get_args(Merge))}")
        if self.focus is not None and not _is_range(self.focus):
            raise ValueError(f"focus={self.focus!r} must be two whole numbers, 0 <= first < end")
        for name in ("activation_checkpointing", "compiled", "fully_sharded"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas={self.betas!r} must be two numbers of at least 0 and below 1")

    def override(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with other values; None leaves what is there.

        Raises:
            ValueError: a name that is none of the fields.
        """
        known = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(f"a recipe has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        given = {name: _from_word(name, value) for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **given)

    def resolve(self, images: int, processes: int = 1) -> Recipe:
        """Return the recipe of one run: nothing in it is None.

        Args:
            images: training images.
            processes: that train together.
        """
        accumulation, steps = self.accumulation(processes), self.optimiser_steps(images, processes)
        return dataclasses.replace(
            self,
            accumulation_steps=accumulation,
            steps=steps,
            warmup_steps=self.warmup(steps),
            ema_momentum=self.momentum(steps),
        )

    def accumulation(self, processes: int) -> int:
        """Return how many batches of every process make an optimiser step, at least 1."""
        if self.accumulation_steps is not None:
            return self.accumulation_steps
        return max(1, round(self.images_per_step / (self.batch_size * processes)))

    def optimiser_steps(self, images: int, processes: int) -> int:
        """Return the number of optimiser steps of a run over ``images`` training images."""
        if self.steps is not None:
            return self.steps
        return self.epochs * math.ceil(images / (self.batch_size * self.accumulation(processes) * processes))

    def warmup(self, steps: int) -> int:
        """Return how many of ``steps`` optimiser steps the learning rate rises in."""
        return round(steps * self.warmup_fraction) if self.warmup_steps is None else self.warmup_steps

    def momentum(self, steps: int) -> float:
        """Return 1 - decay of the averaged weights after the warm-up, in a run of ``steps``; by default at most 0.5."""
        if self.ema_momentum is not None:
            return self.ema_momentum
        return max(self.ema_least_momentum, min(0.5, self.ema_renewals / steps))

    @property
    def iterations(self) -> int:
        """Batches that a process computes in the run, once that is resolved."""
        return _resolved(self.steps) * _resolved(self.accumulation_steps)

    @property
    def warmup_iterations(self) -> int:
        """Batches that a process computes in the warm-up, once the run is resolved."""
        return _resolved(self.warmup_steps) * _resolved(self.accumulation_steps)


_OF_THE_RUN = ("accumulation_steps", "steps", "warmup_steps", "ema_momentum")
_NUMBERS: dict[str, tuple[type, float, float]] = {  # least and largest value
    "learning_rate": (float, 0.0, math.inf),
    "images_per_step": (int, 1, math.inf),
    "batch_size": (int, 1, math.inf),
    "accumulation_steps": (int, 1, math.inf),
    "epochs": (int, 1, math.inf),
    "steps": (int, 1, math.inf),
    "focus_share": (float, 0.0, 1.0),
    "weight_decay": (float, 0.0, math.inf),
    "warmup_steps": (int, 0, math.inf),
    "warmup_fraction": (float, 0.0, 1.0),
    "warmup_multiplier": (float, 0.0, 1.0),
    "gradient_norm": (float, 0.0, math.inf),
    "ema_momentum": (float, 0.0, 1.0),
    "ema_least_momentum": (float, 0.0, 1.0),
    "ema_renewals": (float, 0.0, math.inf),
    "ema_momentum_warmup": (float, 0.0, 1.0),
}


def _is_range(value: Any) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(type(number) is int for number in value)
    return pair and 0 <= value[0] < value[1]


def _resolved(value: int | None) -> int:
    if value is None:
        raise ValueError("the recipe is not resolved for a run: call Recipe.resolve first")
    return value


def _from_word(name: str, value: Any) -> Any:
    """Return a value as a configuration or command line gives it: a switch may be a word, a tuple a list."""
    if isinstance(value, str) and value.lower() in ("true", "false") and name != "backbone":
        return value.lower() == "true"
    return tuple(value) if isinstance(value, list) else value
