"""The table of an archive, every slice once, and of its studies the worklist."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from invad_med.data.prediction import Judged, Scores
from invad_med.files import WholeFile, flush, whole_file
from invad_med.shards.index import Entry, input_of, key_of
from invad_med.shards.parquet import from_table, pq, schema_of, to_table
from invad_med.shards.shard import Row
from invad_med.shards.work import Work
from invad_med.shards.worklist import Lacking, ListedStudy, write_worklist
from invad_med.writers.table import as_csv, cell_of, six_digits

_COLUMNS = tuple(field.name for field in fields(Row))


_MADE_BY = ("model", "calibration", "false_positive_rate", "engine", "precision", "version")
Made = dict[str, tuple[object, ...]]  # by modality


class Incomplete(ValueError):
    """Shards are not scored."""


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Args:
        slices, studies: how many.
        lacking: what is not in it.
        files: that were written.
    """

    slices: int
    studies: int
    lacking: Lacking
    files: tuple[Path, ...]


def merge(
    place: Work,
    out: Path,
    viewer_url: str | None = None,
    top: int = 500,
    hash_keys: bool = False,
    partial: bool = False,
    said: Callable[[], object] = lambda: None,
) -> Merged:
    """Write ``slices.parquet``, ``slices.csv``, ``worklist.csv`` and ``worklist.html``, each whole or not at all.

    One shard's rows are held at a time, and a record of each study.

    Args:
        place: the working folder.
        out: made if need be.
        viewer_url: of a study in a viewer, see `invad_med.shards.worklist.link`.
        top: how many studies the page lists; the table lists all.
        hash_keys: digests in place of UIDs in keys.
        partial: take what is scored so far.
        said: called after each shard.

    Raises:
        Incomplete: shards are not scored, and ``partial`` does not say that this is meant.
        ValueError: rows are not those of the index, or of two models.
        OSError: a file cannot be written.
    """
    shards = place.committed()
    missing = place.index.shards - len(shards)
    if missing and (not partial or not shards):
        raise Incomplete(
            f"{missing} of {place.index.shards} shards are not scored: go on with python -m invad_med archive score "
            f"{place.folder}, or take what there is with --partial"
        )
    slices, unread, studies, made = 0, 0, list[ListedStudy](), Made()
    kept = place.settings()
    secret = place.index.secret if hash_keys or (kept is not None and kept.hash_keys) else None
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(whole_file(out / "slices.parquet"))
        text = WholeFile(out / "slices.csv")
        stack.callback(text.abandon)
        text.write(as_csv([], _COLUMNS))
        writer = stack.enter_context(pq.ParquetWriter(path, schema_of(Row)))
        for shard in shards:
            entries, rows = place.index.entries(shard), _rows(place, shard)
            _require_same(shard, entries, rows, made, place.index.secret)
            if secret:
                rows = [_hashed(row, entry, secret) for row, entry in zip(rows, entries, strict=True)]
            writer.write_table(to_table(Row, rows))
            text.write(as_csv([_plain(row) for row in rows], _COLUMNS, header=False))
            studies += _studies(entries, rows)
            slices += len(rows)
            unread += sum(row.error_class is not None for row in rows)
            said()
        writer.close()
        flush(path)
        text.close()
    lacking = Lacking(unread, missing)
    pages = write_worklist(studies, out, viewer_url, top, lacking)
    return Merged(slices, len(studies), lacking, (out / "slices.parquet", out / "slices.csv", *pages))


def _rows(place: Work, shard: int) -> list[Row]:
    return from_table(Row, pq.read_table(place.scores(shard)))


def _hashed(row: Row, entry: Entry, secret: str) -> Row:
    """Return a row without names and UIDs; that of its map has them too."""
    return replace(row, key=key_of(entry, secret), input=input_of(entry, secret), map=None)


def _require_same(shard: int, entries: list[Entry], rows: list[Row], made: Made, secret: str) -> None:
    """Raise ValueError unless rows are those of the index, each once, and of the models of rows before."""
    same = len(rows) == len(entries) and all(
        (row.source, row.slice) == (entry.source, entry.slice) and row.key in (key_of(entry), key_of(entry, secret))
        for row, entry in zip(rows, entries, strict=True)
    )
    if not same:
        raise ValueError(f"the rows of shard {shard} are not those of the index: remove its file in scores")
    for row in rows:
        if row.modality and row.model:
            facts = tuple(getattr(row, name) for name in _MADE_BY)
            before = made.setdefault(row.modality, facts)
            if before != facts:
                what = next(name for name, one, other in zip(_MADE_BY, before, facts, strict=True) if one != other)
                raise ValueError(
                    f"shard {shard} holds scores of another {what} for {row.modality} than those before it: remove "
                    f"its file in scores, and score again"
                )


def _plain(row: Row) -> dict[str, object]:
    """Return a row as the CSV has it: numbers with 6 significant digits, names of files as no formula."""
    values = {name: getattr(row, name) for name in _COLUMNS} | {"key": cell_of(row.key)}
    return {name: six_digits(value) if isinstance(value, float) else value for name, value in values.items()}


def _studies(entries: list[Entry], rows: list[Row]) -> Iterator[ListedStudy]:
    """Yield the studies of a shard: what the slices of each source come to."""
    best: dict[int, tuple[tuple[float, ...], int]] = {}
    for row in rows:
        rank = Scores(score=row.score, threshold=row.threshold, p_value=row.p_value, paper_score=row.paper_score).rank
        best[row.source] = min(best.get(row.source, (rank, row.slice)), (rank, row.slice))
    for entry, row in zip(entries, rows, strict=True):
        if row.slice == 0 and row.study_slices:
            rank, first = best[row.source]
            verdict = Judged(score=row.study_score, threshold=row.study_threshold, p_value=row.study_p_value)
            yield ListedStudy(
                rank=(*verdict.rank, *rank),
                input=row.input,
                study=row.study,
                series=row.series,
                modality=row.modality,
                slices=row.study_slices,
                scored=row.study_scored,
                above=row.study_above,
                expected_above=row.study_expected_above,
                score=row.study_score,
                p_value=row.study_p_value,
                threshold=row.study_threshold,
                abnormal=row.study_abnormal,
                first_slice=first if row.study_scored else None,
                reason=row.study_reason,
                uids=(entry.study_uid, entry.series_uid),
            )
