"""Detectors: a diffusion model, an inversion and a calibration, joined; and the models that ship."""

from typing import TYPE_CHECKING

from invad_med.data.provenance import Provenance
from invad_med.detection.detectors import Detectors
from invad_med.detection.models import ModelFiles, model_files, read_provenance
from invad_med.detection.serve import serve
from invad_med.lazy import offer

if TYPE_CHECKING:
    from invad_med.detection.detector import AnomalyDetector, load_detector
    from invad_med.detection.host import FeatureHost, Host

__all__ = [
    "AnomalyDetector",
    "Detectors",
    "FeatureHost",
    "Host",
    "ModelFiles",
    "Provenance",
    "load_detector",
    "model_files",
    "read_provenance",
    "serve",
]

__getattr__ = offer(__name__, {"AnomalyDetector load_detector": "detector", "FeatureHost Host": "host"})
