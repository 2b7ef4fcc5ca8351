"""What came out of an ablation: rows with intervals and paired differences, as CSV, JSON and one page."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from invad_med.evaluation.ablating import FIGURES, WayMeasured
from invad_med.evaluation.ablation import IN_FEATURES, OWN_RULE, PAPER, TITLES, Group, Kind, Row, Way
from invad_med.evaluation.design_tables import difference
from invad_med.evaluation.tables import verdict
from invad_med.files import write_atomically
from invad_med.metrics.bootstrap import Figure, interval
from invad_med.scoring.rules import DEFAULT_RULE
from invad_med.writers.svg import svg

Done = Mapping[tuple[str, Way], WayMeasured]
COLUMNS = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP"}
SCORE_NAMES = {PAPER: "paper's", DEFAULT_RULE: "calibrated", OWN_RULE: "own rule", IN_FEATURES: "paper's, in features"}
_COLOURS = {PAPER: "#2e6f95", DEFAULT_RULE: "#d1495b"}


@dataclass(frozen=True)
class Outcome:
    """A row of one data set, measured or not.

    Args:
        row: what it is.
        why_not: why it was not measured; empty where it was.
        images: of ``test`` that were measured.
        evaluations: of the network, an image.
        core_ms: from a file to what is scored.
        level: that the reconstruction noises to.
        figures: with intervals.
        differences: to the default row, paired; none of that row itself.
    """

    row: Row
    why_not: str = ""
    images: int = 0
    evaluations: int = 0
    core_ms: float = 0.0
    level: int | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    differences: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What else the reader should know."""
        return self.why_not or (f"r = {self.level}" if self.level is not None else "")

    @property
    def score(self) -> str:
        """Name of the score, for the reader."""
        return SCORE_NAMES.get(self.row.score, self.row.score)


@dataclass(frozen=True)
class OfDataset:
    """The tables of one data set.

    Args:
        name: of its folder.
        about: what was measured on, in sentences.
        outcomes: in the order of the tables.
    """

    name: str
    about: Sequence[str]
    outcomes: Sequence[Outcome]

    def of(self, group: Group) -> list[Outcome]:
        """Return the rows of a table."""
        return [outcome for outcome in self.outcomes if outcome.row.group == group]


def outcome_of(row: Row, done: Done, why_not: Mapping[tuple[str, Way, str], str]) -> Outcome:
    """Return what came out of a row.

    Args:
        row: of a table.
        done: what was measured of the data set, by design and way.
        why_not: why others were not, by score too.
    """
    measured = done.get((row.design, row.way))
    if measured is None or row.score not in measured.reached:
        return Outcome(row, why_not.get(row.measured, "not asked for"))
    reached = measured.reached[row.score]
    figures = {n: Figure(s.value, *(interval(s.replicates) or (None, None))) for n, s in reached.samples.items()}
    design, way, score = row.against
    first = done.get((design, way))
    differences: dict[str, Figure] = {}
    if first is not None and score in first.reached and not row.is_default:
        theirs = first.reached[score].samples
        differences = {n: difference(s, theirs[n]) for n, s in reached.samples.items() if n in theirs}
    core_ms = measured.encode_ms + reached.walk_ms
    return Outcome(row, "", measured.images, reached.evaluations, core_ms, reached.level, figures, differences)


def table_of(datasets: Sequence[OfDataset]) -> pd.DataFrame:
    """Return one row per data set, table and row; what was not measured says why."""
    rows: list[dict[str, Any]] = []
    for dataset in datasets:
        for o in dataset.outcomes:
            found: dict[str, Any] = {
                "dataset": dataset.name, "table": str(o.row.group), "row": o.row.label, "score": o.row.score,
                "model": o.row.design, "default": o.row.is_default, "images": o.images or None,
                "evaluations": None if o.why_not else o.evaluations, "core_ms": None if o.why_not else o.core_ms,
                "level": o.level,
            }  # fmt: skip
            for name in FIGURES:
                for end, f in (("", o.figures.get(name)), ("_difference", o.differences.get(name))):
                    key = name + end
                    found |= {key: f and f.value, f"{key}_low": f and f.low, f"{key}_high": f and f.high}
            rows.append(found | {"not_measured": o.why_not})
    return pd.DataFrame(rows)


def write_ablation(
    datasets: Sequence[OfDataset], about: Sequence[str], failed: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write ablation.csv, ablation.json and ablation.html into a folder and return them.

    Args:
        datasets: measured.
        about: the run, in sentences.
        failed: data sets that could not be measured, and why.
        folder: made if need be.
    """
    plain = {
        "about": list(about),
        "failed": dict(failed),
        "datasets": [dataclasses.asdict(dataset) for dataset in datasets],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["verdict"] = lambda f: verdict(f).replace(" ", "-")
    page = environment.get_template("ablation.html.jinja").render(
        datasets=datasets,
        about=about,
        failed=failed,
        columns=COLUMNS,
        titles={group: title for group, title in TITLES.items() if any(d.of(group) for d in datasets)},
        plot=plot,
    )
    texts = {
        "ablation.csv": table_of(datasets).to_csv(index=False, lineterminator="\n", float_format="%.6g"),
        "ablation.json": json.dumps(plain, indent=1, allow_nan=False) + "\n",
        "ablation.html": page,
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def plot(outcomes: Sequence[Outcome]) -> str:
    """Return the image AUROC of a table's rows with intervals as SVG: against evaluations where these are compared."""
    shown = [o for o in outcomes if "image_auroc" in o.figures]
    if not shown:
        return ""
    if shown[0].row.group == Group.STEPS:
        return svg(lambda canvas: _curves(canvas, shown), 9.0, 3.8)
    return svg(lambda canvas: _forest(canvas, shown), 9.0, 1.0 + 0.24 * len(shown))


def _curves(canvas: Canvas, outcomes: Sequence[Outcome]) -> None:
    axes = canvas.subplots()
    for kind, score in dict.fromkeys((o.row.way.kind, o.row.score) for o in outcomes):
        own = [o for o in outcomes if (o.row.way.kind, o.row.score) == (kind, score)]
        inverted = kind != Kind.RECONSTRUCTION
        name = "inversion" if inverted else "reconstruction"
        figures = [o.figures["image_auroc"] for o in own]
        axes.errorbar(
            [o.row.way.number for o in own],
            [f.value for f in figures],
            yerr=_errors(figures),
            fmt="o-" if inverted else "s--",
            ms=4,
            lw=1.4,
            elinewidth=0.8,
            color=_COLOURS.get(score),
            label=f"{name}, {SCORE_NAMES.get(score, score)} score",
        )
    axes.set(xscale="log", xlabel="evaluations asked for", ylabel="image AUROC")
    numbers = sorted({o.row.way.number for o in outcomes})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _forest(canvas: Canvas, outcomes: Sequence[Outcome]) -> None:
    axes = canvas.subplots()
    figures = [o.figures["image_auroc"] for o in outcomes]
    places = np.arange(len(outcomes))[::-1]
    errors = _errors(figures)
    for i, (place, outcome) in enumerate(zip(places, outcomes, strict=True)):
        colour = _COLOURS.get(outcome.row.score, "#555")
        mark = "D" if outcome.row.is_default else "o"
        axes.errorbar(figures[i].value, place, xerr=errors[:, i : i + 1], fmt=mark, ms=4, color=colour, elinewidth=1)
    axes.set_yticks(places, [f"{o.row.label} ({o.score})" for o in outcomes])
    axes.set(xlabel="image AUROC, 95 % intervals over patients; diamonds: compared with")
    axes.grid(axis="x", lw=0.4, color="#ddd")


def _errors(figures: Sequence[Figure]) -> np.ndarray:
    """Return lengths of error bars (2, n), 0 where there is no interval."""
    ends = [(f.value if f.low is None else f.low, f.value if f.high is None else f.high) for f in figures]
    return np.array(
        [[max(f.value - low, 0.0), max(high - f.value, 0.0)] for f, (low, high) in zip(figures, ends, strict=True)]
    ).T


def metrics_of(dataset: OfDataset) -> dict[str, float]:
    """Return a data set's figures by ``<table>/<row>/<score>/<figure>``, and ends of intervals and differences."""
    found: dict[str, float] = {}
    for o in dataset.outcomes:
        key = f"{o.row.group}/{re.sub(r'[^a-z0-9]+', '_', o.row.label.lower())}/{o.row.score}"
        for name, f in o.figures.items():
            found[f"{key}/{name}"] = f.value
            if f.low is not None and f.high is not None:
                found |= {f"{key}/{name}_low": f.low, f"{key}/{name}_high": f.high}
        found |= {f"{key}/{name}_difference": f.value for name, f in o.differences.items()}
        if not o.why_not:
            found |= {f"{key}/evaluations": float(o.evaluations), f"{key}/core_ms": o.core_ms}
    return found


def parent_metrics(datasets: Sequence[OfDataset]) -> dict[str, float]:
    """Return ``<data set>/<score>/<figure>`` of the rows that others are compared with."""
    return {
        f"{dataset.name}/{o.row.score}/{name}": f.value
        for dataset in datasets
        for o in dataset.outcomes
        if o.row.is_default and o.row.design == dataset.outcomes[0].row.design
        for name, f in o.figures.items()
    }
