"""The table of a run's studies: one row per study, the most abnormal first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from invad_med.data.study import Study
from invad_med.files import write_atomically
from invad_med.writers.table import as_csv, as_json, six_digits

COLUMNS = tuple(
    "study source slices scored score p_value threshold abnormal above expected_above first_slice reason".split()
)


def write_studies(studies: Iterable[Study], output_dir: str | Path) -> Path:
    """Write ``studies.csv`` and, with the same rows, ``studies.json``; return the path of the first.

    ``source`` is the input that the study is, as the table of slices names it, and ``first_slice`` one of its slices,
    0-based. Of a folder ``source`` is the number of its inputs, ``first_slice`` the name of one. What is withheld is
    empty, in JSON null, with the reason. Numbers have 6 significant digits. Each file appears whole or not at all.

    Args:
        studies: in the order of the rows.
        output_dir: made if need be.

    Raises:
        OSError: a file cannot be written.
    """
    rows = [_row(study) for study in studies]
    path = Path(output_dir) / "studies.csv"
    write_atomically(path, as_csv(rows, COLUMNS))
    write_atomically(path.with_suffix(".json"), as_json(rows))
    return path


def _row(study: Study) -> dict[str, Any]:
    alone, first = study.is_source, study.first_slice
    values = {
        "study": study.name,
        "source": study.name if alone else len(study.sources) + study.unread,
        "abnormal": study.abnormal,
        "first_slice": None if first is None else first[1] if alone else first[0].name,
        "reason": study.withheld,
    }
    numbers = {name: six_digits(getattr(study, name)) for name in ("score", "p_value", "threshold", "expected_above")}
    counts = {name: getattr(study, name) for name in ("slices", "scored", "above")}
    return {name: (values | numbers | counts)[name] for name in COLUMNS}
