"""What the evaluation of one data set leaves, for tables, report and tracking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from invad_med.data.datasets import DatasetFacts


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % bootstrap interval; None where it is not defined or no interval was asked for."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One data set, measured.

    Args:
        name: the data set's folder name.
        facts: its row of the table.
        split: ``valid`` or ``test``.
        images: N files.
        masks: N files, "" where there is none (a normal image, or a set without masks).
        labels: (N,) int, 1 abnormal.
        groups: N patients or volumes, "" where unknown.
        scores: by scorer (``calibrated``, ``paper``, ``official``, baselines), (N,) float64, higher is more abnormal.
        maps: by scorer, (N, h, w) float32, where it has a map.
        figures: by scorer and metric (``image_auroc``, ..., ``aupro``).
        p_values: (N,) conformal p-values of ``calibrated``, or None.
        threshold, map_threshold: of ``calibrated`` at ``false_positive_rate``, or None.
        false_positive_rate: of the thresholds.
        provenance: what the checkpoint states.
        notes: what was left out, and why.
        seconds: wall time of the data set.
    """

    name: str
    facts: DatasetFacts
    split: str
    images: tuple[Path, ...]
    masks: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]
    figures: Mapping[str, Mapping[str, Figure]]
    p_values: np.ndarray | None
    threshold: float | None
    map_threshold: float | None
    false_positive_rate: float
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
