"""Medical anomaly detection by diffusion inversion in feature space (InvAD, arXiv 2504.05662), as a MONAI bundle."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
__all__ = ["Prediction", "load"]
_HOMES = {"load": "invad_med.inference.predictor", "Prediction": "invad_med.data.prediction"}


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is first asked for: the package itself stands below all of its rooms."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
