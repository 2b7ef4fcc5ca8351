"""Pixel figures over any number of images in fixed memory: counts per value, not values.

A float32's bit pattern, with the sign folded in, sorts as the number does. Its upper 24 bits (sign, exponent, 15 bits
of mantissa) are the bin: 2^24 bins that cover every float, relative width 2^-15, no range to know beforehand. Counts
add, so parts evaluated apart (batches, processes) merge to exactly what one pass gives. Figures are exact for values
rounded to 16 significant bits; how far they can be from those of unrounded values is computed from the counts
themselves (`PixelCounts.error_bounds`) and is a few millionths for a map of a quarter of a billion pixels.

For resampling, each image also keeps its counts in bins of its own: the upper 20 bits (relative width 2^-11).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from invad_med.metrics import ranking
from invad_med.metrics.regions import FPR_LIMIT, region_weights

BITS = 24
IMAGE_BITS = 20


def codes(values: np.ndarray) -> np.ndarray:
    """Return the bin of each value: uint32 in [0, 2^24), monotone in the value.

    Raises:
        ValueError: a value is NaN.
    """
    with np.errstate(over="ignore", under="ignore"):
        bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0.0)).view(np.uint32)  # -0.0 becomes 0.0
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} pixels of an anomaly map are NaN")
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return ordered >> np.uint32(32 - BITS)


def lower_edges(bins: np.ndarray) -> np.ndarray:
    """Return the smallest value of each bin (uint32, as from `codes`): float32."""
    ordered = bins.astype(np.uint32) << np.uint32(32 - BITS)
    return np.where(ordered >> 31, ordered & np.uint32(0x7FFFFFFF), ~ordered).view(np.float32)


@dataclass(frozen=True)
class ImageCounts:
    """One image's pixels by bin of 20 bits.

    Args:
        bins: (u,) uint32, ascending.
        negative, positive: (u,) normal and abnormal pixels.
        regional: (u,) abnormal pixels, each weighted by one over the size of its region.
        regions: number of 8-connected regions.
    """

    bins: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    regional: np.ndarray
    regions: int


class PixelCounts:
    """Pixels of many images by value: `add` images, `merge` parts, read `figures`.

    Memory: at most 3 x 2^24 x 8 bytes = 403 MB whatever the number of pixels, of which only the bins that occur are
    touched.
    """

    def __init__(self) -> None:
        self.negative = np.zeros(2**BITS, dtype=np.int64)
        self.positive = np.zeros(2**BITS, dtype=np.int64)
        self.regional = np.zeros(2**BITS, dtype=np.float64)
        self.regions = 0

    def add(self, values: np.ndarray, mask: np.ndarray, valid: np.ndarray | None = None) -> ImageCounts:
        """Count one image's pixels, and return them for resampling.

        Args:
            values: (H, W) anomaly map, larger is more abnormal.
            mask: (H, W) bool (or 0 and 1), true where abnormal.
            valid: (H, W) bool; pixels outside (padding) are not counted. All, if None.

        Raises:
            ValueError: shapes differ, the mask has other values, or a counted pixel is NaN.
        """
        values, mask = np.asarray(values), np.asarray(mask)
        if values.shape != mask.shape or values.ndim != 2:
            raise ValueError(f"map {values.shape} and mask {mask.shape} must be of one (H, W)")
        if mask.dtype != bool:
            if not np.isin(mask, (0, 1)).all():
                raise ValueError(f"a mask holds 0 and 1, found values up to {mask.max()}: read it with `read_mask`")
            mask = mask.astype(bool)
        weights, regions = region_weights(mask if valid is None else mask & valid) if mask.any() else (None, 0)
        inside = np.ones(mask.shape, dtype=bool) if valid is None else valid
        normal = np.sort(codes(values[inside & ~mask]))
        bins, counts = _runs(normal)
        self.negative[bins] += counts
        self.regions += regions
        image = _coarse(bins, counts)
        nothing = np.zeros(0)
        if not regions:
            none = np.zeros(len(image[0]))
            return ImageCounts(image[0], image[1], none, none, 0)
        assert weights is not None
        abnormal = codes(values[inside & mask])
        bins, index, counts = np.unique(abnormal, return_inverse=True, return_counts=True)
        weighted = np.bincount(index, weights=weights[inside & mask], minlength=len(bins)) if len(bins) else nothing
        self.positive[bins] += counts
        self.regional[bins] += weighted
        return _joined(image, _coarse(bins, counts), _coarse(bins, weighted), regions)

    def merge(self, other: PixelCounts) -> PixelCounts:
        """Add the counts of another part, and return self."""
        self.merge_sparse(other.sparse())
        return self

    def sparse(self) -> np.ndarray:
        """Return the bins that occur as (4, u) float64: bin, negative, positive, regional (what processes exchange)."""
        bins = np.flatnonzero((self.negative > 0) | (self.positive > 0))
        return np.stack([bins, self.negative[bins], self.positive[bins], self.regional[bins]]).astype(np.float64)

    def merge_sparse(self, table: np.ndarray, regions: int | None = None) -> None:
        """Add counts as `sparse` returns them (several parts' may be concatenated, bins may repeat)."""
        bins = table[0].astype(np.int64)
        np.add.at(self.negative, bins, table[1].astype(np.int64))
        np.add.at(self.positive, bins, table[2].astype(np.int64))
        np.add.at(self.regional, bins, table[3])
        self.regions += round(float(table[3].sum())) if regions is None else regions

    def curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return value, positive, negative, regional of the bins that occur, highest value first."""
        bins, negative, positive, regional = self.sparse()[:, ::-1]
        return lower_edges(bins.astype(np.uint32)), positive, negative, regional

    def figures(self, limit: float = FPR_LIMIT) -> dict[str, float | None]:
        """Return ``auroc``, ``ap``, ``f1max``, ``f1max_threshold`` and ``aupro``; None where a class is absent."""
        values, positive, negative, regional = self.curves()
        figures = {
            name: ranking.value_or_none(f) for name, f in pixel_figures(positive, negative, regional, limit).items()
        }
        best = int(np.argmax(ranking.f1_scores(positive, negative))) if figures["f1max"] is not None else None
        return figures | {"f1max_threshold": None if best is None else float(values[best])}

    def error_bounds(self, limit: float = FPR_LIMIT) -> dict[str, float]:
        """Return how far each figure can be from that of the unrounded values, by name; empty if a class is absent."""
        _, positive, negative, regional = self.curves()
        return pixel_error_bounds(positive, negative, regional, limit)


def pixel_figures(
    positive: np.ndarray, negative: np.ndarray, regional: np.ndarray, limit: float = FPR_LIMIT
) -> dict[str, np.ndarray]:
    """Return ``auroc``, ``ap``, ``f1max``, ``aupro`` of counts (..., U), highest first: NaN where a class is absent."""
    return {
        "auroc": ranking.auroc(positive, negative),
        "ap": ranking.average_precision(positive, negative),
        "f1max": ranking.f1_max(positive, negative),
        "aupro": ranking.area_to(regional, negative, limit),
    }


def pixel_error_bounds(
    positive: np.ndarray, negative: np.ndarray, regional: np.ndarray, limit: float = FPR_LIMIT
) -> dict[str, float]:
    """Return what binning can have changed in `pixel_figures` of counts (U,): see `ranking.error_bounds`."""
    bounds = ranking.error_bounds(positive, negative)
    if bounds:
        within = np.cumsum(negative) - negative < limit * negative.sum()  # bins the area reaches
        share = (regional / regional.sum()) * (negative / negative.sum())
        bounds["aupro"] = float(0.5 * share[within].sum() / limit)
    return bounds


@dataclass
class ResampledPixels:
    """Per-group counts in common bins, from which resamples of groups are evaluated.

    Args:
        positive, negative, regional: (G, K), highest bin first.
    """

    positive: np.ndarray
    negative: np.ndarray
    regional: np.ndarray
    error_bounds: dict[str, float] = field(default_factory=dict)


def group_counts(images: list[ImageCounts], groups: np.ndarray, bins: int = 1024) -> ResampledPixels:
    """Bring images' counts to common bins and add them up by group.

    Bin edges are quantiles of abnormal pixels (half of them) and of normal ones (the other half), so no bin holds more
    than 2/``bins`` of either class unless one 20-bit value does.

    Args:
        images: as `PixelCounts.add` returned them.
        groups: (N,) int in [0, G).
        bins: K at most.
    """
    every = np.concatenate([i.bins for i in images])
    used, index = np.unique(every, return_inverse=True)
    totals = {
        name: np.bincount(index, weights=np.concatenate([getattr(i, name) for i in images]), minlength=len(used))
        for name in ("positive", "negative")
    }
    edges = np.zeros(len(used), dtype=bool)
    for counts in totals.values():
        if counts.sum():
            share = np.cumsum(counts) / counts.sum()
            edges[np.searchsorted(share, np.linspace(0, 1, bins // 2, endpoint=False)[1:])] = True
    place = np.cumsum(edges) - edges  # an edge is the last value of its bin
    shape = (int(groups.max()) + 1, int(place[-1]) + 1)
    tables = {name: np.zeros(shape) for name in ("positive", "negative", "regional")}
    for image, group in zip(images, groups, strict=True):
        where = place[np.searchsorted(used, image.bins)]
        for name, table in tables.items():
            table[group] += np.bincount(where, weights=getattr(image, name), minlength=shape[1])
    flipped = {name: np.ascontiguousarray(table[:, ::-1]) for name, table in tables.items()}
    bounds = pixel_error_bounds(*(flipped[n].sum(0) for n in ("positive", "negative", "regional")))
    return ResampledPixels(**flipped, error_bounds=bounds)


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a sorted array and how often each occurs."""
    if not len(ordered):
        return ordered, np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1])
    return ordered[starts], np.diff(np.append(starts, len(ordered)))


def _coarse(bins: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add weights of ascending 24-bit bins up in 20-bit ones."""
    if not len(bins):
        return np.zeros(0, dtype=np.uint32), np.zeros(0)
    wide = (bins >> np.uint32(BITS - IMAGE_BITS)).astype(np.uint32)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(wide)) + 1])
    return wide[starts], np.add.reduceat(weights, starts).astype(np.float32)


def _joined(
    negative: tuple[np.ndarray, np.ndarray],
    positive: tuple[np.ndarray, np.ndarray],
    regional: tuple[np.ndarray, np.ndarray],
    regions: int,
) -> ImageCounts:
    bins = np.union1d(negative[0], positive[0])
    columns = []
    for where, counts in (negative, positive, regional):
        column = np.zeros(len(bins), dtype=np.float32)
        column[np.searchsorted(bins, where)] = counts
        columns.append(column)
    return ImageCounts(bins, columns[0], columns[1], columns[2], regions)
