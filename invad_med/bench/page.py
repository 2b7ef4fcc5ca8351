"""A benchmark as one self-contained page: its plots and its tables."""

from __future__ import annotations

from html import escape

import numpy as np
from matplotlib.figure import Figure

from invad_med.bench.contestants import OURS
from invad_med.bench.growth import name_of
from invad_med.bench.record import Bench, Growth, Kind, Network
from invad_med.bench.tables import Table, described, tables_of
from invad_med.writers.svg import svg

_OURS, _OTHERS = "#d1495b", "#2e6f95"
_STYLE = """body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; max-width: 1180px;
margin: 2rem auto; padding: 0 1.5rem; } table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0; }
th, td { text-align: right; padding: .28rem .5rem; border-bottom: 1px solid #e3e3e3; }
th:first-child, td:first-child { text-align: left; } h2 { margin-top: 2.5rem; }
svg { max-width: 100%; height: auto; display: block; }"""


def to_html(bench: Bench) -> str:
    """Return the page."""
    plots = []
    if bench.network:
        plots.append(network_bars(bench.network))
    if bench.growth:
        plots += [growth_curves(bench.growth, kind) for kind in dict.fromkeys(run.kind for run in bench.growth.runs)]
    body = "\n".join([*plots, *(_table(table) for table in tables_of(bench))])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>invad-med benchmark</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>What it costs</h1>\n"
        f"<p>{escape(described(bench.machine, bench.seconds))}</p>\n{body}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return f"<h2>{escape(table.title)}</h2>\n<table>\n{row(table.head, 'th')}\n{rows}\n</table>\n{notes}"


def network_bars(network: Network) -> str:
    """Return core-milliseconds of one image at batch 1, median and 95th percentile, as SVG."""
    times = sorted((t for t in network.times if t.batch == 1 and not t.from_file), key=lambda t: -t.core_ms.p50)
    names = [f"{t.name}, {t.engine}" + (f", {t.evaluations} eval." if t.evaluations is not None else "") for t in times]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        p50, p95 = (np.array([getattr(t.core_ms, name) for t in times]) for name in ("p50", "p95"))
        colours = [_OURS if t.name == OURS else _OTHERS for t in times]
        axes.barh(names, p50, xerr=[0 * p50, p95 - p50], color=colours, error_kw={"ecolor": "#555", "lw": 1})
        floors = [t.core_ms.p50 / t.of_floor if t.of_floor else np.nan for t in times]
        axes.plot(floors, names, "|", color="#000", ms=9, label="floor: a matrix product of as many operations")
        axes.set(xscale="log", xlabel="core-ms an image, p50 and p95", title="One image, batch 1, one thread")
        axes.legend(fontsize=8, frameon=False, loc="upper right")

    return svg(draw, 9.0, 1.2 + 0.3 * len(times))


def growth_curves(growth: Growth, kind: Kind) -> str:
    """Return core-seconds and peak memory against slices or files, one thread, as SVG."""
    runs = [run for run in growth.runs if run.kind == kind and run.threads == 1]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for build, colour in (("this", _OURS), ("former", _OTHERS)):
            own = sorted((run for run in runs if run.build == build), key=lambda run: run.count)
            for axes, field in zip(panels, ("core_s", "peak_mb"), strict=True):
                if own:
                    values = [getattr(run, field) for run in own]
                    axes.plot([run.count for run in own], values, "o-", color=colour, label=build)
        for axes, title in zip(panels, ("core-seconds of the run", "peak memory, MB"), strict=True):
            axes.set(xlabel=name_of(kind), title=title, xlim=(0, None), ylim=(0, None))
            axes.legend(fontsize=8, frameon=False)

    return svg(draw, 9.0, 3.4)
