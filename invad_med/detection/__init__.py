"""Detectors: frozen features, a noise predictor, an inversion and a calibration, joined; and the models that ship."""

from invad_med.detection.detector import AnomalyDetector, Detection

__all__ = ["AnomalyDetector", "Detection"]
