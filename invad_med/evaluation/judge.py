"""One score of one data set against the truth: every figure, its replicates, its interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from invad_med.evaluation.method import Scored
from invad_med.evaluation.studies import Studies
from invad_med.evaluation.truth import SIZE, Truth
from invad_med.metrics import ranking
from invad_med.metrics.bootstrap import Figure, figure
from invad_med.metrics.pixel import PixelCounts, group_counts, pixel_figures
from invad_med.metrics.regions import FPR_LIMIT
from invad_med.metrics.summary import MAD7, by_group, mad7
from invad_med.scoring.scores import resize_map

_CHUNK = 50  # resamples at a time
_CURVE = 400  # points of a curve that is drawn


@dataclass
class Judgement:
    """Figures of one score, by name; a figure that does not exist (one class, no masks) is not there.

    Args:
        values: the figures.
        replicates: the same of every resample, (resamples,), NaN where a resample has one class only.
        error_bounds: how far binning can have moved a pixel figure, and a replicate of it (``.. replicate``).
        curves: ``roc`` and ``pro`` as (x, y), for drawing.
        groups: number of groups resampled.
    """

    groups: int
    values: dict[str, float] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    error_bounds: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure with its interval."""
        found = {name: figure(value, self.replicates[name], self.groups) for name, value in self.values.items()}
        return {name: f for name, f in found.items() if f is not None}

    def put(self, name: str, value: float | None, replicates: np.ndarray) -> None:
        """Enter a figure unless it does not exist."""
        if value is not None:
            self.values[name], self.replicates[name] = value, replicates


def judge(truth: Truth, scored: Scored, weights: np.ndarray) -> Judgement:
    """Measure one score.

    Args:
        truth: of N images.
        scored: what is said of them.
        weights: (resamples, G) as `invad_med.metrics.resample_weights` draws them.
    """
    result = Judgement(groups=weights.shape[1])
    _images(result, truth, scored, weights)
    if truth.has_masks:
        _pixels(result, truth, scored, weights)
    mean = mad7(result.values)
    if mean is not None:
        result.put("mad7", mean, np.stack([result.replicates[name] for name in MAD7]).mean(0))
    return result


def _images(result: Judgement, truth: Truth, scored: Scored, weights: np.ndarray) -> None:
    labels = truth.labels
    for prefix, (classes, scores, groups) in _levels(truth, scored).items():
        _ranking(result, prefix, classes, scores, groups, weights)
    if 0 < labels.sum() < len(labels):
        _, positive, negative = ranking.distinct(scored.scores, labels)
        result.curves["roc"] = _thinned(*ranking.roc_curve(positive, negative))
    if scored.threshold is not None:
        above = scored.scores > scored.threshold
        for name, among in (("sensitivity", labels == 1), ("false_positive_rate", labels == 0)):
            _rate(result, name, above & among, among, truth.groups, weights)


def judge_studies(result: Judgement, studies: Studies, weights: np.ndarray) -> None:
    """Enter the figures of studies, and those of the rule "any slice above" beside them.

    Args:
        result: of the score whose slices were judged together.
        studies: of the same data set.
        weights: as of `judge`.
    """
    _ranking(result, "study", studies.labels, studies.scores, studies.groups, weights, ("auroc",))
    for prefix, above in (("study", studies.above), ("naive", studies.any_above)):
        for name, among in (("sensitivity", studies.labels == 1), ("false_positive_rate", studies.labels == 0)):
            if above is not None:
                _rate(result, f"{prefix}_{name}", above & among, among, studies.groups, weights)


def _ranking(
    result: Judgement,
    prefix: str,
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str] = ("auroc", "ap", "f1max", "f1max_threshold"),
) -> None:
    """Enter figures of a ranking."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    values = scores[order][starts]
    point = _ranked(np.ones((1, len(scores))), order, starts, labels, values)
    drawn = [_ranked(w[:, groups], order, starts, labels, values) for w in _chunks(weights)]
    for name in names:
        result.put(
            f"{prefix}_{name}",
            ranking.value_or_none(point[name][0]),
            np.concatenate([replicate[name] for replicate in drawn]),
        )


def _levels(truth: Truth, scored: Scored) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return labels, scores and groups of images, and of groups where one has several images."""
    levels = {"image": (truth.labels, scored.scores, truth.groups)}
    if truth.has_studies:
        ids, labels, scores = by_group(truth.groups.tolist(), truth.labels, scored.scores)
        levels["patient"] = (labels, scores, np.array(ids))
    return levels


def _ranked(
    weights: np.ndarray, order: np.ndarray, starts: np.ndarray, labels: np.ndarray, values: np.ndarray
) -> dict[str, np.ndarray]:
    """Return AUROC, AP, largest F1 and its threshold of weighted images: each (resamples,)."""
    sorted_weights, positive = weights[:, order], labels[order] == 1
    counts = (np.add.reduceat(sorted_weights * which, starts, axis=1) for which in (positive, ~positive))
    p, n = counts
    f1, f1_max = ranking.f1_scores(p, n), ranking.f1_max(p, n)
    return {
        "auroc": ranking.auroc(p, n),
        "ap": ranking.average_precision(p, n),
        "f1max": f1_max,
        "f1max_threshold": np.where(np.isfinite(f1_max), values[f1.argmax(-1)], np.nan),
    }


def _pixels(result: Judgement, truth: Truth, scored: Scored, weights: np.ndarray) -> None:
    counts, images, overlap = PixelCounts(), [], []
    for i in range(len(truth.images)):
        mask, inside = truth.mask(i)
        values = upsampled(scored.maps[i])
        images.append(counts.add(values, mask, inside))
        if scored.map_threshold is not None:
            above, mask = (values > scored.map_threshold) & inside, mask & inside
            overlap.append((2.0 * (above & mask).sum(), float(above.sum() + mask.sum())))
    point = counts.figures()
    binned = group_counts(images, truth.groups)
    tables = (binned.positive, binned.negative, binned.regional)
    rough = pixel_figures(*(table.sum(0) for table in tables))
    drawn = [pixel_figures(*(w @ table for table in tables)) for w in _chunks(weights)]
    for name, bound in counts.error_bounds().items():
        key = "aupro" if name == "aupro" else f"pixel_{name}"
        # Replicates come from wider bins: what those did to the whole is taken off again.
        shift = (point[name] or 0.0) - float(rough[name])
        result.put(key, point[name], np.concatenate([replicate[name] for replicate in drawn]) + shift)
        result.error_bounds[key] = bound
        result.error_bounds[f"{key} replicate"] = binned.error_bounds[name]
    _, positive, negative, regional = counts.curves()
    if positive.sum() and negative.sum():
        fpr, pro = ranking.roc_curve(regional, negative)
        end = int(np.searchsorted(fpr, FPR_LIMIT)) + 1
        result.curves["pro"] = _thinned(fpr[:end], pro[:end])
    if overlap:
        both, either = np.array(overlap).T
        _rate(result, "dice", both, either, truth.groups, weights)


def upsampled(maps: np.ndarray) -> np.ndarray:
    """Return a map (h, w) on the (256, 256) square."""
    return resize_map(torch.from_numpy(maps)[None], (SIZE, SIZE))[0].numpy()


def _rate(
    result: Judgement, name: str, part: np.ndarray, whole: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> None:
    """Enter a ratio of sums over images."""
    above, below = (
        np.bincount(groups, weights=np.asarray(x, float), minlength=weights.shape[1]) for x in (part, whole)
    )
    if below.sum() > 0:
        total = weights @ below
        replicates = np.where(total > 0, (weights @ above) / np.where(total > 0, total, 1.0), np.nan)
        result.put(name, float(above.sum() / below.sum()), replicates)


def _chunks(weights: np.ndarray) -> Iterable[np.ndarray]:
    return np.array_split(weights, max(1, len(weights) // _CHUNK))


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most a few hundred points of a curve, evenly spaced along x and y together."""
    if len(x) <= _CURVE:
        return x, y
    length = x / max(x[-1], 1e-12) + y / max(y[-1], 1e-12)
    chosen = np.unique(np.append(np.searchsorted(length, np.linspace(0, length[-1], _CURVE)), len(x) - 1))
    return x[chosen], y[chosen]
