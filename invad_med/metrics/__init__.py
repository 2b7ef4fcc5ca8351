"""How well an anomaly detector does: figures of images, pixels and regions, with intervals."""

from invad_med.metrics.bootstrap import Figure, interval, paired_difference, resample_weights
from invad_med.metrics.image import auroc, average_precision, f1_max
from invad_med.metrics.pixel import PixelCounts
from invad_med.metrics.summary import bmad9, by_group, mad7

__all__ = [
    "Figure",
    "PixelCounts",
    "auroc",
    "average_precision",
    "bmad9",
    "by_group",
    "f1_max",
    "interval",
    "mad7",
    "paired_difference",
    "resample_weights",
]
