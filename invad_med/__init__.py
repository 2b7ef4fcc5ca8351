"""Medical anomaly detection by diffusion inversion in feature space (InvAD, arXiv 2504.05662), as a MONAI bundle."""

__version__ = "0.2.0"
