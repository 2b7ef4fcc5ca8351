"""Records of one dataclass as Parquet tables and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from invad_med.files import flush, whole_file

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError('an archive is kept as Parquet, which needs pyarrow: pip install "invad-med[archive]"') from error

Record = TypeVar("Record")
_TYPES: dict[object, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(),
    tuple[str, ...]: pa.list_(pa.string()),
}  # fmt: skip


def schema_of(kind: type) -> pa.Schema:
    """Return the columns of a dataclass: its fields, which are of `_TYPES`, or None."""
    fields = []
    for name, hint in typing.get_type_hints(kind).items():
        plain = [part for part in typing.get_args(hint) if part is not type(None)] if hint not in _TYPES else [hint]
        fields.append(pa.field(name, _TYPES[plain[0]], nullable=hint not in _TYPES))
    return pa.schema(fields)


def to_table(kind: type[Record], records: Iterable[Record]) -> pa.Table:
    """Return records as a table, a row each."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    rows = list(records)
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    return pa.table(columns, schema=schema_of(kind))


def from_table(kind: type[Record], table: pa.Table) -> list[Record]:
    """Return the rows of a table as records.

    Raises:
        ValueError: it lacks a column.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if missing := set(names) - set(table.column_names):
        raise ValueError(f"a table without {', '.join(sorted(missing))}: written by another version?")
    columns = [table[name].to_pylist() for name in names]
    lists = {name for name, hint in typing.get_type_hints(kind).items() if hint == tuple[str, ...]}
    values: Iterable[dict[str, Any]] = (
        {n: tuple(v) if n in lists else v for n, v in zip(names, row, strict=True)}
        for row in zip(*columns, strict=True)
    )
    return [kind(**row) for row in values]


def commit(table: pa.Table, path: Path) -> None:
    """Write a table that is on disk when its name is there, whole.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """
    with whole_file(path) as partial:
        pq.write_table(table, partial)
        flush(partial)
    flush(path.parent)
