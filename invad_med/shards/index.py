"""The index of an archive: what each slice is and where it lies, from headers alone, and which shard it is in."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import secrets
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from invad_med import __version__
from invad_med.data.slices import Kind, Problem, Source
from invad_med.files import flush, whole_file
from invad_med.readers.dicom.headers import Header
from invad_med.readers.sources import scan_by_folder
from invad_med.shards.parquet import from_table, pa, pq, schema_of, to_table
from invad_med.writers.dicom.anonymous import SECRET, own_secret
from invad_med.writers.table import relative_name

INDEX, _SECRET = "index.parquet", "secret"
_ABOUT = ("version", "folders", "copies", "passed_over")  # what the file says of itself


@dataclass(frozen=True)
class Entry:
    """One slice, or one file that cannot be read.

    Args:
        shard: number of the shard, from 0.
        source: number of the source that it is a slice of, in the archive, from 0.
        slice: its place in the source, from 0.
        input: name of the source, as the table of slices has it, free of identity.
        kind: which reader decodes it; empty of a file that cannot be read.
        path: of the file, absolute, as the file system encodes it.
        frame: number of the stored frame in a DICOM file, from 1, as DICOM counts; None of other files.
        instance, series_uid, study_uid: UIDs (0008,0018), (0020,000E), (0020,000D); None where not stated.
        series, study: digests of those two, which lead back to nobody without the secret.
        modality, body_part, stated_modality, notes, unfit, ascends: of the source, `invad_med.data.slices.Source`.
        whole: whether the source is all frames of its file.
        frames, rows, columns, syntax: Number of Frames, Rows, Columns, Transfer Syntax UID of a DICOM file.
        size: of the file in bytes.
        changed: when the file was written last, in ns.
        error_class, reason: why the file cannot be read; None of a slice.
    """

    shard: int
    source: int
    slice: int
    input: str
    kind: str
    path: bytes
    frame: int | None = None
    instance: str | None = None
    series_uid: str | None = None
    study_uid: str | None = None
    series: str | None = None
    study: str | None = None
    modality: str | None = None
    body_part: str | None = None
    stated_modality: str | None = None
    notes: tuple[str, ...] = ()
    unfit: str | None = None
    ascends: bool = True
    whole: bool = True
    frames: int | None = None
    rows: int | None = None
    columns: int | None = None
    syntax: str | None = None
    size: int = 0
    changed: int = 0
    error_class: str | None = None
    reason: str | None = None


class Index:
    """The index in a working folder, read shard by shard.

    Args:
        work: the folder.

    Attributes:
        folders: that were indexed.
        copies: how many slices have the UID and frame of another.
        shards: how many there are.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it cannot be read.
    """

    def __init__(self, work: Path) -> None:
        path = work / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{work} holds no index: make one with python -m invad_med archive index DIR --out")
        try:
            self._file = pq.ParquetFile(path)
            about = {name: self._file.metadata.metadata[name.encode()].decode() for name in _ABOUT}
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index of an archive, or damaged: {type(error).__name__}") from None
        self.folders = tuple(Path(os.fsdecode(bytes.fromhex(word))) for word in about["folders"].split())
        self.copies, self.passed_over = int(about["copies"]), about["passed_over"]
        self.shards = self._file.num_row_groups
        self.secret = (work / _SECRET).read_text()

    def slices(self, shard: int) -> int:
        """Return the number of rows of a shard."""
        return int(self._file.metadata.row_group(shard).num_rows)

    def entries(self, shard: int) -> list[Entry]:
        """Return the rows of a shard."""
        return from_table(Entry, self._file.read_row_group(shard))

    def columns(self, shard: int, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return some columns of a shard."""
        read: dict[str, list[Any]] = self._file.read_row_group(shard, list(names)).to_pydict()
        return read


def write_index(
    folders: Sequence[Path], work: Path, shard_slices: int, said: Callable[[int], object] = lambda rows: None
) -> Index:
    """Search folders and write what is found, whole sources into shards of about ``shard_slices`` slices.

    One folder's headers and one shard's rows are held at a time. Names are those that ``python -m invad_med score``
    gives, after ``1/``, ``2/`` ... for each of several folders.

    Args:
        folders: searched below.
        work: the working folder, made if need be.
        shard_slices: at least 1; a larger source is a shard of its own.
        said: told how many rows were added.

    Raises:
        FileExistsError: the folder holds an index.
        FileNotFoundError: there is no such folder.
        ValueError: nothing was found, or the number is none; ``INVAD_UID_SECRET`` is too short.
        OSError: the index cannot be written.
    """
    if shard_slices < 1:
        raise ValueError(f"shard_slices is {shard_slices}: at least 1")
    if any((work / name).exists() for name in (INDEX, "scores", "state", "settings.json")):
        raise FileExistsError(f"{work} holds an index, or scores of one, already: take another folder for another one")
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"no such file or folder: {folder}")
    work.mkdir(parents=True, exist_ok=True)
    secret = own_secret() if os.environ.get(SECRET, "").strip() else secrets.token_hex(32)
    passed, keys, total = Counter[str](), array("Q"), 0
    with whole_file(work / INDEX) as partial:
        with pq.ParquetWriter(partial, schema_of(Entry)) as writer:
            for shard in _shards(_sources(folders, secret, passed), shard_slices):
                writer.write_table(to_table(Entry, shard), row_group_size=len(shard))
                keys.extend(_short(entry) for entry in shard if entry.instance)
                total += len(shard)
                said(len(shard))
            known = {
                "version": __version__,
                "folders": " ".join(os.fsencode(os.path.abspath(folder)).hex() for folder in folders),
                "copies": str(len(keys) - len(np.unique(np.frombuffer(keys, np.uint64)))) if keys else "0",
                "passed_over": "; ".join(f"{count} {kind}" for kind, count in sorted(passed.items())),
            }
            writer.add_key_value_metadata(known)
        if not total:
            raise ValueError(f"no image found in {', '.join(map(str, folders))} ({known['passed_over'] or 'no files'})")
        _keep_secret(work, secret)
        flush(partial)
    flush(work)
    return Index(work)


def sources_of(entries: Iterable[Entry]) -> Iterator[tuple[Source, list[Entry]]]:
    """Yield the sources of a shard as the readers found them, each with its rows; of a file that cannot be read too."""
    for _, group in itertools.groupby(entries, key=lambda entry: entry.source):
        own = list(group)
        first = own[0]
        paths = [Path(os.fsdecode(entry.path)) for entry in own]
        frames = None if first.whole else tuple(entry.frame - 1 for entry in own if entry.frame is not None)
        yield (
            Source(
                cast(Kind, first.kind or "raster"),
                tuple(dict.fromkeys(paths)),
                first.input,
                len(own),
                first.modality,
                first.body_part,
                first.stated_modality,
                frames,
                first.notes,
                first.unfit,
                first.ascends,
            ),
            own,
        )


def digest(secret: str, uid: str, digits: int = 16) -> str:
    """Return what stands for a UID: the same for the same secret, and nobody can test a guess without that."""
    return hmac.new(secret.encode(), uid.encode(), "sha256").hexdigest()[:digits]


def key_of(entry: Entry, secret: str | None = None) -> str:
    """Return ``SOPInstanceUID#frame`` of a slice, the UID replaced by its digest where a secret is given.

    Of a file that states no such UID it is ``file:input#slice``, counted from 1, with the `input_of` there.
    """
    if not entry.instance:
        return f"file:{input_of(entry, secret)}#{entry.slice + 1}"
    return f"{digest(secret, entry.instance, 32) if secret else entry.instance}#{entry.frame}"


def input_of(entry: Entry, secret: str | None = None) -> str:
    """Return the name of a slice's source, or with a secret its digest: names of folders may be a patient's."""
    return f"input-{digest(secret, entry.input)}" if secret else entry.input


def _sources(folders: Sequence[Path], secret: str, passed: Counter[str]) -> Iterator[list[Entry]]:
    """Yield the rows of each source, and of each file that cannot be read, shard and number left open."""
    for number, folder in enumerate(folders, 1):
        before = f"{number}/" if len(folders) > 1 else ""
        base = Path(os.path.abspath(folder.parent if folder.is_file() else folder))
        for found in scan_by_folder(folder):
            passed.update(found.ignored + Counter({"result of earlier runs": found.results}))
            for source in found.sources:
                yield _rows(replace(source, name=_plain(before + source.name)), found.headers, secret)
            for problem in found.problems:
                yield [_unread(problem, before, base)]


def _rows(source: Source, headers: Mapping[Path, Header], secret: str) -> list[Entry]:
    """Return the rows of a source."""
    several = len(source.paths) > 1
    facts = [_facts(path, headers.get(path), secret) for path in source.paths]
    first = headers.get(source.paths[0])
    order: Sequence[int] = range(source.n_slices)
    if source.frames is not None:
        order = source.frames
    elif first is not None and first.frames > 1:
        order = first.stacks[0].members
    common = Entry(
        0, 0, 0, source.name, source.kind, b"", modality=source.modality, body_part=source.body_part,
        stated_modality=source.stated_modality, notes=source.notes, unfit=source.unfit, ascends=source.ascends,
        whole=source.frames is None,
    )  # fmt: skip
    return [
        replace(common, slice=i, frame=None if first is None else 1 if several else order[i] + 1, **facts[several * i])
        for i in range(source.n_slices)
    ]


def _facts(path: Path, header: Header | None, secret: str) -> dict[str, Any]:
    """Return what a file's own columns hold."""
    try:
        stat = path.stat()
        known = {"path": os.fsencode(path), "size": stat.st_size, "changed": stat.st_mtime_ns}
    except OSError:  # gone since it was read, which scoring finds
        known = {"path": os.fsencode(path)}
    if header is None:
        return known
    uids = {"instance": header.instance, "series_uid": header.series, "study_uid": header.study}
    digests = {"series": digest(secret, header.series), "study": digest(secret, header.study)}
    rows, columns = header.shape
    shape = {"frames": header.frames, "rows": rows, "columns": columns, "syntax": header.syntax}
    return known | shape | {name: _plain(uid) or None for name, uid in uids.items()} | digests


def _unread(problem: Problem, before: str, base: Path) -> Entry:
    name = _plain(before + relative_name(problem.path, base))
    return Entry(0, 0, 0, name, "", os.fsencode(problem.path), error_class="ReadError", reason=_plain(problem.reason))


def _plain(text: str) -> str:
    """Return text that encodes as UTF-8, which names of files need not; of two texts two."""
    try:
        text.encode()
    except UnicodeEncodeError:
        content = text.encode("utf-8", "surrogatepass")
        return f"{content.decode('utf-8', 'replace')}-{hashlib.sha256(content).hexdigest()[:8]}"
    return text


def _short(entry: Entry) -> int:
    key = f"{entry.instance}#{entry.frame}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _keep_secret(work: Path, secret: str) -> None:
    """Write the secret where only this user reads it."""
    with whole_file(work / _SECRET) as partial:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
        flush(partial)


def _shards(sources: Iterable[list[Entry]], most: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    number = 0
    for place, rows in enumerate(sources):
        if shard and len(shard) + len(rows) > most:
            yield shard
            shard, number = [], number + 1
        shard += [replace(row, shard=number, source=place) for row in rows]
    if shard:
        yield shard
