"""Scores of an inversion's end point, and what they mean on normal images."""

from invad_med.scoring.calibration import Calibration
from invad_med.scoring.familiarity import Familiarity
from invad_med.scoring.scores import anomaly_map, max_min, nll, paper_score, resize_map, top_mean

__all__ = ["Calibration", "Familiarity", "anomaly_map", "max_min", "nll", "paper_score", "resize_map", "top_mean"]
