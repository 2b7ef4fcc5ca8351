"""Which timesteps an inversion visits (InvAD, arXiv 2504.05662): pairs (t, t_next) on a schedule of T steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["paper", "official", "truncated"]
Timesteps = Sequence[tuple[int, int | None]]
USUAL_STEPS = 3  # network evaluations of the paper


def inversion_timesteps(
    steps: int, mode: Mode = "paper", num_train_timesteps: int = 1000
) -> list[tuple[int, int | None]]:
    """Return the pairs (t, t_next) of an inversion with ``steps`` network evaluations.

    Args:
        steps: number of network evaluations S.
        mode: ``paper``: uniform subset, targets ``round(i (T-1) / S)``, evaluated at t and ending at T-1
            (S = 3: 0, 333, 666 -> 999). ``official``: the authors' code, both ends evaluated, built by accumulation
            (S = 3: 0, 500, 999), whose last target is pure noise (abar = 0), written as ``None``. ``truncated``: ours,
            uniform between a tenth and three tenths of T with both ends evaluated (S = 3: 100, 200, 300 of 1000), then
            pure noise: features are taken as lightly noised from the start, since noise predicted at t near 0 says
            little, and the walk ends where differences between normal and abnormal are largest.
        num_train_timesteps: T of the schedule.

    Raises:
        ValueError: an unknown mode, or a number of steps that the grid does not have.
    """
    last = num_train_timesteps - 1
    if mode == "paper":
        if not 1 <= steps <= last:
            raise ValueError(f"steps={steps} is out of range for mode='paper': 1 to {last}")
        grid = [round(i * last / steps) for i in range(steps + 1)]
        return list(itertools.pairwise(grid))
    if mode == "official":
        if not 2 <= steps <= num_train_timesteps:
            raise ValueError(f"steps={steps} is out of range for mode='official': 2 to {num_train_timesteps}")
        # By accumulation: the closed form round(i * stride) differs by one for some S.
        stride, position, grid = last / (steps - 1), 0.0, []
        for _ in range(steps):
            grid.append(round(position))
            position += stride
        return list(zip(grid, [*grid[1:], None], strict=True))
    if mode == "truncated":
        first, end = num_train_timesteps // 10, 3 * num_train_timesteps // 10
        if not 1 <= steps <= end - first + 1:
            raise ValueError(f"steps={steps} is out of range for mode='truncated': 1 to {end - first + 1}")
        # A single evaluation is made in the middle.
        grid = [round(first + (end - first) * i / (steps - 1)) for i in range(steps)] if steps > 1 else [2 * first]
        return list(zip(grid, [*grid[1:], None], strict=True))
    raise ValueError(
        f"mode={mode!r} is not a timestep grid: choose 'paper', 'official' or 'truncated', or give the pairs yourself"
    )


@dataclass(frozen=True)
class Grid:
    """What is wished for of a timestep grid; what is None is taken from the grid that a model was calibrated for.

    Args:
        steps: network evaluations S; of another mode than the model's own, the paper's three where it is None.
        mode: ``paper``, ``official`` or ``truncated``; see `inversion_timesteps`.
        timesteps: explicit pairs (t, t_next); ``steps`` and ``mode`` are then not used.
    """

    steps: int | None = None
    mode: Mode | None = None
    timesteps: Timesteps | None = None

    def resolve(self, stated: Timesteps, num_train_timesteps: int = 1000) -> list[tuple[int, int | None]]:
        """Return the pairs that are meant, for a model calibrated for the pairs ``stated``.

        Raises:
            ValueError: a grid that the schedule does not have; a number of steps alone where ``stated`` is no grid and
                does not go from a lightly noised image to noise, as ``truncated`` does.
        """
        if self.timesteps is not None:
            pairs = [(t, t_next) for t, t_next in self.timesteps]
        elif self.steps is None and self.mode is None:
            pairs = list(stated)
        else:
            own = grid_mode(stated, num_train_timesteps)
            mode = self.mode or own or _kind_of_walk(stated)
            if mode is None:
                raise ValueError(
                    f"steps={self.steps} without a mode: the model's pairs {list(stated)} are none of the grids; give "
                    f"mode as well, one of {', '.join(get_args(Mode))}"
                )
            # One step on another grid than the model's own would be none of the published ones.
            usual = len(stated) if mode == own else USUAL_STEPS
            steps = usual if self.steps is None else self.steps
            pairs = inversion_timesteps(steps, mode, num_train_timesteps)
        check_timesteps(pairs, num_train_timesteps)
        return pairs


def grid_mode(timesteps: Timesteps, num_train_timesteps: int = 1000) -> Mode | None:
    """Return the name of the grid that the pairs are, or None if they are none of them."""
    for mode in get_args(Mode):
        try:
            if inversion_timesteps(len(timesteps), mode, num_train_timesteps) == list(timesteps):
                return mode
        except ValueError:  # a grid that has no such number of steps
            continue
    return None


def _kind_of_walk(timesteps: Timesteps) -> Mode | None:
    """Return the mode of a walk of other steps that begins lightly noised and ends in noise, None of others."""
    return "truncated" if timesteps and timesteps[0][0] > 0 and timesteps[-1][1] is None else None


def check_timesteps(timesteps: Timesteps, num_train_timesteps: int) -> None:
    """Raise ValueError, with the offending pair, unless every pair lies on the schedule and walks towards noise."""
    if not timesteps:
        raise ValueError("timesteps is empty: give at least one pair (t, t_next)")
    for t, t_next in timesteps:
        inside = 0 <= t < num_train_timesteps and (t_next is None or t < t_next < num_train_timesteps)
        if not inside:
            raise ValueError(
                f"timestep pair {(t, t_next)} must satisfy 0 <= t < t_next < {num_train_timesteps} "
                "(t_next None: abar 0)"
            )
