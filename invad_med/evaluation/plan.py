"""What to do with every data set of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What to do with every data set.

    Args:
        split: to measure on.
        baselines: whether to measure the baselines too.
        false_positive_rate: of the thresholds.
        resamples, seed: of the bootstrap.
        batch_size: images at a time.
        cache_dir: folder for the training features of the baselines, or None.
    """

    split: str = "test"
    baselines: bool = False
    false_positive_rate: float = 0.05
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 16
    cache_dir: str | None = None
