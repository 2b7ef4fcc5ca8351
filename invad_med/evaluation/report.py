"""One self-contained HTML page per run, for a reader who does not know the code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import jinja2

from invad_med.evaluation import pictures
from invad_med.evaluation.record import OWN, Evaluation
from invad_med.evaluation.tables import comparisons_table, mean_of_nine
from invad_med.files import write_atomically
from invad_med.metrics.bootstrap import LEVEL, Figure

COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1max",
    "patient_auroc": "patient AUROC",
    "study_auroc": "study AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1max",
    "aupro": "AUPRO 0.3",
    "dice": "Dice",
    "mad7": "mean of 7",
}


def write_report(evaluations: Sequence[Evaluation], problems: dict[str, str], output_dir: Path) -> Path:
    """Write ``report.html`` and return its path. It names no file and no patient: cases go by row of scores.csv."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = shown
    table = comparisons_table(evaluations)
    page = environment.get_template("report.html.jinja").render(
        evaluations=[_section(e, table) for e in evaluations],
        problems=problems,
        columns=COLUMNS,
        level=round(100 * LEVEL),
        bmad9=mean_of_nine(evaluations),
        about={name: text for e in evaluations for name, text in e.about.items()},
    )
    path = output_dir / "report.html"
    write_atomically(path, page.encode())
    return path


def _section(e: Evaluation, table: object) -> dict[str, object]:
    figures = {name: judged.figures for name, judged in e.judged.items()}
    columns = {key: title for key, title in COLUMNS.items() if any(key in f for f in figures.values())}
    verdicts = {
        (row.calibrated_minus, row.figure): row.verdict
        for row in table.itertuples()  # type: ignore[attr-defined]
        if row.dataset == e.name
    }
    normal = e.truth.labels == 0
    return {
        "e": e,
        "title": e.truth.modality.title,
        "images": (int(normal.sum()), int((~normal).sum())),
        "groups": e.judged[OWN].groups,
        "columns": columns,
        "figures": figures,
        "verdicts": verdicts,
        "own": figures[OWN],
        "bounds": max((b for b in e.judged[OWN].error_bounds.values() if math.isfinite(b)), default=0.0),
        "curves": pictures.curves(e) if int(normal.sum()) and int((~normal).sum()) else "",
        "histogram": pictures.histogram(e),
        "calibration": pictures.calibration(e) if normal.any() else "",
        "study_calibration": pictures.study_calibration(e.studies) if e.studies else "",
        "cases": {
            title: [(i, float(e.own.scores[i]), float(e.p_values[i]), pictures.case(e, i)) for i in rows]
            for title, rows in pictures.pick_cases(e).items()
        },
    }


def shown(figure: Figure | None) -> str:
    """Return a figure as text, with its interval."""
    if figure is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
