"""Scores of an inversion's end point, and what they mean on normal images.

`conformal` and `studies` need no torch; the others do.
"""

from typing import TYPE_CHECKING

from invad_med.lazy import offer

if TYPE_CHECKING:
    from invad_med.scoring.calibration import Calibration
    from invad_med.scoring.familiarity import Familiarity
    from invad_med.scoring.scores import anomaly_map, max_min, nll, paper_score, resize_map, top_mean

__all__ = ["Calibration", "Familiarity", "anomaly_map", "max_min", "nll", "paper_score", "resize_map", "top_mean"]
__getattr__ = offer(
    __name__,
    {
        "Calibration": "calibration",
        "Familiarity": "familiarity",
        "anomaly_map max_min nll paper_score resize_map top_mean": "scores",
    },
)
