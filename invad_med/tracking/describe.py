"""Evaluations as a record of a run: one parent, one nested run per data set with the same metric keys.

No patient, no file name and no path: scores become figures, and cases stay in the report by row number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from invad_med.evaluation import pictures
from invad_med.evaluation.record import OWN, Evaluation
from invad_med.evaluation.tables import mean_of_nine
from invad_med.tracking.record import DatasetRun

_LONGEST = 500  # characters of a parameter


def dataset_run(e: Evaluation, tags: Mapping[str, str], settings: Mapping[str, Any]) -> DatasetRun:
    """Return what is taken down of one data set.

    Args:
        e: measured.
        tags: of the parent run.
        settings: plain values that the run was made with.
    """
    modality = e.truth.modality.name
    own = {"modality": modality, "dataset": printable_name(e.name), "split": e.plan.split}
    texts = {"histogram.svg": pictures.histogram(e)}
    if e.truth.both_classes:
        texts["curves.svg"] = pictures.curves(e)
    if (e.truth.labels == 0).any():
        texts["calibration.svg"] = pictures.calibration(e)
    if e.studies is not None:
        texts["study_calibration.svg"] = pictures.study_calibration(e.studies)
    return DatasetRun(modality, {**tags, **own}, as_params({**settings, **run_params(e)}), run_metrics(e), texts)


def run_params(e: Evaluation) -> dict[str, Any]:
    """Return what a data set's run was made with: model, data, versions; no path and no name of a file."""
    stated = {f"model {key}": value for key, value in e.provenance.stated().items()}
    return stated | {
        "checkpoint_digest": e.checkpoint_digest,
        "data_digest": e.data_digest,
        "images": len(e.truth.images),
        "groups": int(e.truth.groups.max()) + 1,
    }


def run_metrics(e: Evaluation) -> dict[str, float]:
    """Return a data set's figures: ``image_auroc`` of the calibrated score, its ends, ``paper/image_auroc`` of others.

    The keys are the same for every data set; a figure that does not exist is left out.
    """
    metrics: dict[str, float] = {}
    for score, judged in e.judged.items():
        prefix = "" if score == OWN else f"{score}/"
        for name, f in judged.figures.items():
            metrics[prefix + name] = f.value
            if score == OWN and f.low is not None and f.high is not None:
                metrics |= {f"{name}_low": f.low, f"{name}_high": f.high}
    return metrics | {"ms_per_image": 1000.0 * e.seconds.get("scoring", 0.0) / max(1, len(e.truth.images))}


def parent_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return ``<modality>/<metric>`` of every data set, ``mean/<metric>`` over those that have it, and ``bmad9``.

    Several data sets of one modality go by their folders' names.
    """
    shown = Counter(e.truth.modality.name for e in evaluations)
    metrics: dict[str, float] = {}
    by_name: dict[str, list[float]] = {}
    for e in evaluations:
        for name, value in e.judged[OWN].values.items():
            prefix = e.truth.modality.name if shown[e.truth.modality.name] == 1 else printable_name(e.name)
            metrics[f"{prefix}/{name}"] = value
            by_name.setdefault(name, []).append(value)
    metrics |= {
        f"mean/{name}": sum(values) / len(values) for name, values in by_name.items() if "threshold" not in name
    }
    nine = mean_of_nine(evaluations)
    return metrics if nine is None else metrics | {"bmad9": nine}


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Return plain values as MLflow's parameters."""
    return {printable_name(key): str(value)[:_LONGEST] for key, value in values.items()}


def printable_name(name: str) -> str:
    """Return a folder's name in the characters MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)
