"""What takes evaluations down, as an evaluation knows it; `invad_med.tracking.tracker` is the one there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from invad_med.evaluation.record import Evaluation

RECORD = "evaluation.json"  # among the results: what was taken down


class TrackingError(Exception):
    """Nothing can be taken down; the message says why, in a line."""


class Tracker(Protocol):
    """Takes evaluations down: asked before the work, called after it."""

    def ask(self, output_dir: Path) -> None:
        """Make sure that what is found out can be taken down.

        Raises:
            TrackingError: it cannot.
        """

    def __call__(self, evaluations: Sequence[Evaluation], files: Sequence[Path], output_dir: Path) -> str:
        """Take evaluations and files down, and return the name that they are kept under.

        Raises:
            TrackingError: they are not taken down.
        """
        ...
