"""Plots as SVG that stands in a page, drawn alike."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.figure import Figure


def svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """Return what ``draw`` makes of an empty figure as an ``<svg>`` element.

    Args:
        draw: puts axes on the figure and plots into them.
        width, height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        axes.tick_params(labelsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
