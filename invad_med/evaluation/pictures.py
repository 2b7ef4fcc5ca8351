"""The report's pictures: curves, histograms, the calibration plot, and cases with image, map and mask side by side."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from PIL import Image
from scipy import stats

from invad_med.data.own_results import png_mark
from invad_med.data.transforms import to_image
from invad_med.evaluation.judge import upsampled
from invad_med.evaluation.record import OWN, Evaluation
from invad_med.evaluation.studies import Studies
from invad_med.evaluation.truth import SIZE
from invad_med.metrics.regions import FPR_LIMIT
from invad_med.writers import canvas
from invad_med.writers.svg import svg

# Of scores in their order, our own first; further ones begin anew.
_COLOURS = ("#d1495b", "#2e6f95", "#7b8794", "#b8860b", "#6a994e", "#3d3d8f", "#a44a9c", "#00898a", "#8c5a3c")
_NORMAL, _ABNORMAL = "#4f9d69", "#d1495b"
_MASK = np.array((90, 225, 120), np.uint8)


def curves(e: Evaluation) -> str:
    """Return ROC (images) and, where there are masks, PRO (regions) of every score, as SVG."""
    has_pro = any("pro" in judged.curves for judged in e.judged.values())

    def draw(figure: Canvas) -> None:
        axes = figure.subplots(1, 2 if has_pro else 1, squeeze=False)[0]
        for colour, (name, judged) in zip(itertools.cycle(_COLOURS), e.judged.items(), strict=False):
            style: dict[str, Any] = {"color": colour, "lw": 2.2 if name == OWN else 1.2, "label": name}
            if "roc" in judged.curves:
                axes[0].plot(*judged.curves["roc"], **style)
            if has_pro and "pro" in judged.curves:
                axes[1].plot(*judged.curves["pro"], **style)
        axes[0].plot([0, 1], [0, 1], color="#bbb", lw=1, ls=":")
        axes[0].set(xlabel="false-positive rate (images)", ylabel="sensitivity", title="ROC, images", aspect="equal")
        axes[0].legend(fontsize=8, frameon=False, loc="lower right")
        if has_pro:
            axes[1].set(xlabel="false-positive rate (pixels)", ylabel="mean overlap with regions", title="PRO, regions")
            axes[1].set(xlim=(0, FPR_LIMIT), ylim=(0, 1))

    return svg(draw, 9.0 if has_pro else 4.6, 4.0)


def histogram(e: Evaluation) -> str:
    """Return the calibrated scores of normal and abnormal images, with the threshold, as SVG."""
    own, labels = e.own, e.truth.labels

    def draw(figure: Canvas) -> None:
        axes = figure.subplots()
        edges = np.histogram_bin_edges(own.scores, bins=min(40, max(8, len(labels) // 6))).tolist()
        for label, name, colour in ((0, "normal", _NORMAL), (1, "abnormal", _ABNORMAL)):
            values = own.scores[labels == label]
            if len(values):
                share = np.full(len(values), 1.0 / len(values))
                axes.hist(values, list(edges), weights=share, color=colour, alpha=0.55, label=f"{name} ({len(values)})")
        if own.threshold is not None:
            axes.axvline(own.threshold, color="#222", lw=1.2)
            text = f" threshold, {e.plan.false_positive_rate:.0%} of normals"
            axes.text(own.threshold, axes.get_ylim()[1] * 0.97, text, fontsize=8, va="top")
        axes.set(xlabel="calibrated score", ylabel="share of images", title="Scores")
        axes.legend(fontsize=8, frameon=False)

    return svg(draw, 4.6, 3.4)


def calibration(e: Evaluation) -> str:
    """Return the share of normal images with a p-value of at most alpha, against alpha, as SVG.

    The band is where 95 % of such curves lie, point by point, if the promise holds exactly (binomial); for groups of
    dependent images it is too narrow.
    """
    return _calibration(e.p_values[e.truth.labels == 0], "images")


def study_calibration(studies: Studies) -> str:
    """Return the share of normal studies with a p-value of at most alpha, against alpha, as SVG, as `calibration`."""
    return _calibration(studies.p_values[studies.labels == 0], "studies")


def _calibration(p_values: np.ndarray, what: str) -> str:
    values = np.sort(p_values)

    def draw(figure: Canvas) -> None:
        axes = figure.subplots()
        grid = np.linspace(0, 1, 201)
        n = len(values)
        if n:
            low, high = (stats.binom.ppf(q, n, grid) / n for q in (0.025, 0.975))
            axes.fill_between(grid, low, high, color="#ccd6dd", label="95 % if as promised", lw=0)
            axes.step(np.append(0, values), np.arange(n + 1) / n, where="post", color=_ABNORMAL, lw=1.8, label="found")
        axes.plot([0, 1], [0, 1], color="#555", lw=1, ls=":")
        axes.set(xlabel="alpha", ylabel=f"share of normal {what}, p ≤ alpha", title=f"Calibration on normal {what}")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(fontsize=8, frameon=False, loc="upper left")

    return svg(draw, 4.0, 3.8)


def case(e: Evaluation, i: int) -> str:
    """Return image ``i``, the map over it and its mask, side by side, as a PNG data URI."""
    own, size = e.own, 2 * 96
    unit = to_image(e.truth.read(i), e.truth.modality, SIZE).transpose(1, 2, 0)
    grey = (unit * 255).round().astype(np.uint8)
    limit = own.map_threshold or float(
        np.quantile(own.maps[e.truth.labels == 0], 0.99) if (e.truth.labels == 0).any() else own.maps.max()
    )
    panels = [grey, canvas.fuse(grey, np.clip(upsampled(own.maps[i]) / limit * 127.5, 0, 255).astype(np.uint8))]
    if e.truth.has_masks:
        mask, _ = e.truth.mask(i)
        shown = grey.copy()
        shown[mask] = (0.45 * shown[mask] + 0.55 * _MASK).astype(np.uint8)
        panels.append(shown)
    joined = Image.fromarray(np.concatenate(panels, axis=1)).resize(
        (size * len(panels), size), Image.Resampling.BILINEAR
    )
    buffer = io.BytesIO()
    joined.save(buffer, format="PNG", optimize=True, pnginfo=png_mark())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pick_cases(e: Evaluation, count: int = 4) -> dict[str, list[int]]:
    """Return rows of the best and the worst cases: found, missed, false alarms, quiet normals."""
    scores, labels = e.own.scores, e.truth.labels
    order = np.argsort(-scores, kind="stable")
    abnormal, normal = order[labels[order] == 1], order[labels[order] == 0]
    picked = {
        "Best: abnormal images with the highest scores": abnormal[:count],
        "Worst: abnormal images with the lowest scores": abnormal[::-1][:count],
        "Worst: normal images with the highest scores": normal[:count],
        "Best: normal images with the lowest scores": normal[::-1][:count],
    }
    return {title: rows.tolist() for title, rows in picked.items() if len(rows)}
