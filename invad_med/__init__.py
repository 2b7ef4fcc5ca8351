"""Medical anomaly detection by diffusion inversion in feature space (InvAD, arXiv 2504.05662), as a MONAI bundle."""

from invad_med.lazy import offer

__version__ = "0.2.0"
__all__ = ["Prediction", "load"]
__getattr__ = offer(__name__, {"load": "inference.predictor", "Prediction": "data.prediction"})
