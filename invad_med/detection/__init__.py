"""Detectors: a diffusion model, an inversion and a calibration, joined; and the models that ship."""

from typing import TYPE_CHECKING, Any

from invad_med.data.provenance import Provenance
from invad_med.detection.detectors import Detectors
from invad_med.detection.models import ModelFiles, model_files, read_provenance
from invad_med.detection.serve import serve

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


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for: images are scored without it."""
    if name in ("AnomalyDetector", "load_detector"):
        from invad_med.detection import detector

        return getattr(detector, name)
    if name in ("FeatureHost", "Host"):
        from invad_med.detection import host

        return getattr(host, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
