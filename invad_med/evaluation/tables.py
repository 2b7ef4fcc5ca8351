"""The tables of a run: metrics.json, metrics.csv, comparisons.csv, and each data set's scores and replicates."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from invad_med.evaluation.record import OWN, Evaluation
from invad_med.evaluation.tracker import RECORD
from invad_med.files import write_atomically
from invad_med.metrics.bootstrap import Figure
from invad_med.metrics.summary import bmad9
from invad_med.writers.table import cell_of

_SCORES, _REPLICATES = "scores.csv", "replicates.npz"  # of each data set, in a folder of its name


def metrics(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return every figure: folder's name -> the calibrated score's figures, and ``scores`` -> the other scores'.

    A figure is ``{"value", "low", "high"}``; one that does not exist is not there.
    """
    found: dict[str, Any] = {}
    for e in evaluations:
        tables = {score: {n: dataclasses.asdict(f) for n, f in j.figures.items()} for score, j in e.judged.items()}
        found[e.name] = tables.pop(OWN) | {"scores": tables}
    return found


def metrics_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return one row per data set, score and figure, with interval and error bound; then the mean of nine AUROCs."""
    rows = []
    for e in evaluations:
        for score, judged in e.judged.items():
            for name, f in judged.figures.items():
                bounds = (judged.error_bounds.get(key) for key in (name, f"{name} replicate"))
                rows.append((e.name, score, name, f.value, f.low, f.high, *bounds))
    for score in {score: None for e in evaluations for score in e.judged}:
        value = mean_of_nine(evaluations, score)
        if value is not None:
            rows.append(("all", score, "bmad9", value, None, None, None, None))
    columns = ["dataset", "score", "figure", "value", "low", "high", "error_bound", "interval_error_bound"]
    return pd.DataFrame(rows, columns=columns)


def mean_of_nine(evaluations: Sequence[Evaluation], score: str = "calibrated") -> float | None:
    """Return `bmad9` of a score, or None: only sets that are BMAD's own by their counts are taken into it."""
    return bmad9({e.published: e.judged[score].values for e in evaluations if e.published and score in e.judged})


def comparisons_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return calibrated minus each other score, paired: one row per data set, score and figure."""
    rows = [
        (e.name, other, name, d.value, d.low, d.high, verdict(d))
        for e in evaluations
        for other in e.judged
        if other != OWN
        for name, d in e.differences(other).items()
    ]
    columns = ["dataset", "calibrated_minus", "figure", "difference", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(difference: Figure) -> str:
    """Return ``better`` or ``worse`` where the paired interval excludes zero, else ``not distinguishable``."""
    if difference.low is None or difference.high is None:
        return "no interval"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not distinguishable"


def scores_table(e: Evaluation) -> pd.DataFrame:
    """Return one row per image: its file in the data set, label, number of its group, every score, p-value."""
    own = e.own
    table: dict[str, Any] = {
        "image": [cell_of(path.relative_to(e.truth.root).as_posix()) for path in e.truth.images],
        "label": e.truth.labels,
        "group": e.truth.groups,
        "p_value": e.p_values,
        "above_threshold": own.scores > own.threshold if own.threshold is not None else None,
    }
    return pd.DataFrame(table | {name: scored.scores for name, scored in e.scored.items()})


def cohort_digest(e: Evaluation) -> str:
    """Return a digest of what was resampled: images' contents, labels, groups and masks in order, and the draws."""
    digest = hashlib.sha256(e.data_digest.encode())
    if e.truth.has_masks:
        for i in range(len(e.truth.images)):
            digest.update(np.packbits(e.truth.mask(i)).tobytes())
    digest.update(np.stack([e.truth.labels, e.truth.groups]).astype(np.int64).tobytes())
    digest.update(f"{e.plan.split} {e.plan.resamples} {e.plan.seed}".encode())
    return digest.hexdigest()[:16]


def write_tables(evaluations: Sequence[Evaluation], problems: dict[str, str], output_dir: Path) -> list[Path]:
    """Write every table below ``output_dir`` and return those without names of files."""
    anonymous = {
        "metrics.json": json.dumps(metrics(evaluations), indent=1, allow_nan=False) + "\n",
        "metrics.csv": _csv(metrics_table(evaluations)),
        "comparisons.csv": _csv(comparisons_table(evaluations)),
    }
    for name, text in anonymous.items():
        write_atomically(output_dir / name, text.encode())
    write_atomically(output_dir / "problems.json", (json.dumps(problems, indent=1) + "\n").encode())
    for e in evaluations:
        write_atomically(output_dir / e.name / _SCORES, _csv(scores_table(e)).encode())
        write_atomically(output_dir / e.name / _REPLICATES, _replicates(e))
    return [output_dir / name for name in anonymous]


def remove_earlier(output_dir: Path, kept: Collection[str]) -> list[str]:
    """Remove what an earlier evaluation left in a folder and this one does not replace; return names of its data sets.

    Args:
        output_dir: of the results.
        kept: names of the data sets that are written now.
    """
    (output_dir / RECORD).unlink(missing_ok=True)
    earlier = [path.parent for path in sorted(output_dir.glob(f"*/{_REPLICATES}")) if path.parent.name not in kept]
    for folder in earlier:
        for name in (_SCORES, _REPLICATES):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return [folder.name for folder in earlier]


def _replicates(e: Evaluation) -> bytes:
    arrays = {
        f"{score}/{name}": np.append(judged.values[name], replicates)
        for score, judged in e.judged.items()
        for name, replicates in judged.replicates.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, cohort=np.array(cohort_digest(e)), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
