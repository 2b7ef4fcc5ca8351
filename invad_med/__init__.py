"""Medical anomaly detection by diffusion inversion in feature space (InvAD, arXiv 2504.05662), as a MONAI bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invad_med.data.prediction import Prediction
    from invad_med.inference.predictor import load

__all__ = ["Prediction", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is first asked for, so that importing the package alone costs nothing."""
    if name == "load":
        from invad_med.inference.predictor import load

        return load
    if name == "Prediction":
        from invad_med.data.prediction import Prediction

        return Prediction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
