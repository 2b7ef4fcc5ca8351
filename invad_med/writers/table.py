"""The table of a run: one row per slice, and one per file that could not be read."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from invad_med.data.prediction import Prediction, Scores, Status
from invad_med.data.slices import Problem
from invad_med.files import append_whole, write_atomically

_NUMBERS = tuple(field.name for field in dataclasses.fields(Scores) if field.name != "map_threshold")
_DECIDED = ("score", "threshold", "abnormal")
COLUMNS = (
    *("input", "slice", "status", "modality", "chosen_by", "computed_by", *_DECIDED),
    *(name for name in _NUMBERS if name not in _DECIDED),
    "reason",
)
_NAMES = ("input", "study", "source", "first_slice")  # columns, of this table and that of studies
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what begins one in a spreadsheet
_ESCAPED = ("Cc", "Zl", "Zp", "Cs")  # categories of characters: control, line, paragraph, half of a pair
_END = len(b"\n]\n")  # of a list in JSON


def write_table(
    predictions: Iterable[Prediction], problems: Iterable[Problem], output_dir: str | Path, base: str | Path
) -> Path:
    """Write ``scores.csv`` and, with the same rows, ``scores.json``; return the path of the first.

    Rows are sorted by input and slice. ``slice`` is 0-based, empty for a file that could not be opened; ``abnormal``
    is score > threshold, empty where one of them is withheld. Numbers have 6 significant digits. In JSON what is
    absent is null. Each file appears whole or not at all.

    Args:
        predictions: of all slices, scored or not.
        problems: files that were not read; named by their path below ``base``, as nothing else is known of them.
        output_dir: made if need be.
        base: folder that was searched, or the one file.

    Raises:
        OSError: a file cannot be written.
    """
    rows = [_row(p) for p in predictions] + [_problem_row(p, base) for p in problems]
    rows.sort(key=lambda row: (row["input"], -1 if row["slice"] is None else row["slice"]))
    path = Path(output_dir) / "scores.csv"
    write_atomically(path, as_csv(rows, COLUMNS))
    write_atomically(path.with_suffix(".json"), as_json(rows))
    return path


class GrowingTable:
    """The table of a run that goes on: both files are whole after every row, also if the process is killed.

    Rows are put behind the others in one write each, so that a long run does not write its table anew for each; at
    the end `write_table` brings them into order. After a write that fails the files are what they were before it.

    Args:
        predictions, problems, output_dir, base: what is known at the beginning, as `write_table` takes it.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(
        self, predictions: Iterable[Prediction], problems: Iterable[Problem], output_dir: str | Path, base: str | Path
    ) -> None:
        predictions, problems = list(predictions), list(problems)
        self.path = write_table(predictions, problems, output_dir, base)
        self._empty = not predictions and not problems

    def add(self, prediction: Prediction) -> None:
        """Write one more row.

        Raises:
            OSError: it cannot be written.
        """
        row = _row(prediction)
        with self.path.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            append_whole(file, as_csv([row], COLUMNS, header=False))
            try:
                with self.path.with_suffix(".json").open("r+b", buffering=0) as other:
                    append_whole(other, (b"" if self._empty else b",") + as_json([row])[1:], over=_END)
            except OSError:
                file.truncate(end)  # both have the same rows
                raise
        self._empty = False


def as_csv(rows: list[dict[str, Any]], columns: Sequence[str], header: bool = True) -> bytes:
    """Return rows as CSV in UTF-8; what is None is empty, and names are as `cell_of` writes them."""

    def cell(name: str, value: Any) -> Any:
        return cell_of(value) if name in _NAMES and isinstance(value, str) else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([list(columns)] * header)
    writer.writerows([cell(name, row.get(name)) for name in columns] for row in rows)
    return _encoded(text.getvalue())


def as_json(rows: list[dict[str, Any]]) -> bytes:
    """Return a list of rows with commas between them, whose last bytes, `_END` of them, close it."""
    lines = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    return _encoded(f"{lines}\n" if rows else "[\n]\n")


def _encoded(text: str) -> bytes:
    """Return text as UTF-8; names of files need not be valid text: what does not encode is written as \\udcXX."""
    return text.encode("utf-8", "backslashreplace")


def cell_of(name: str) -> str:
    r"""Return a file's name as CSV has it: it stays the name of one file, stands on one line, and is no formula.

    What begins with one of =, +, -, @ or their wide forms, which a spreadsheet would calculate, has ``./`` before it:
    as a path that is the same file. A backslash, what controls a terminal or breaks a line, and what is no text are
    written as in a string of Python: ``\\``, ``\n``, ``\x1b``, ``\udce4``.
    """
    escaped = (c.encode("unicode_escape").decode() if unicodedata.category(c) in _ESCAPED else c for c in name)
    text = "".join(r"\\" if c == "\\" else c for c in escaped)
    return f"./{text}" if text.startswith(_FORMULA) else text


def relative_name(path: Path, base: str | Path) -> str:
    """Return a path below ``base`` with forward slashes; only the file's name if it is ``base`` or lies elsewhere."""
    absolute, root = Path(os.path.abspath(path)), Path(os.path.abspath(base))
    inside = absolute != root and absolute.is_relative_to(root)
    return absolute.relative_to(root).as_posix() if inside else absolute.name


def _row(p: Prediction) -> dict[str, Any]:
    numbers = {name: six_digits(getattr(p, name)) for name in _NUMBERS}
    known = {
        "input": p.source.name,
        "slice": int(p.index),
        "status": str(p.status),
        "modality": p.modality,
        "chosen_by": p.chosen_by and str(p.chosen_by),
        "computed_by": p.computed_by,
        # Compared before rounding.
        "abnormal": None if numbers["score"] is None or numbers["threshold"] is None else p.abnormal,
        "reason": p.reason,
    }
    return {name: (known | numbers)[name] for name in COLUMNS}


def _problem_row(problem: Problem, base: str | Path) -> dict[str, Any]:
    known = {"input": relative_name(problem.path, base), "status": str(Status.UNREADABLE), "reason": problem.reason}
    return dict.fromkeys(COLUMNS) | known


def six_digits(value: float | None) -> float | None:
    """Return a number as the table has it, with 6 significant digits, or None if there is none."""
    return float(f"{float(value):.6g}") if value is not None and math.isfinite(value) else None
