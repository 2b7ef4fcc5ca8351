"""From a folder of anything to `Source`s, and from a source to its `Slice`s."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from invad_med.data.identity import MANIFEST, identify
from invad_med.data.own_results import OwnResult
from invad_med.data.slices import Problem, ReadError, Slice, Source
from invad_med.readers import nifti, rasters
from invad_med.readers.decoding import ACCEPTED, reading, without_warnings
from invad_med.readers.dicom import pixels as dicom
from invad_med.readers.dicom.headers import Header, HeaderStack, read_header, stacks
from invad_med.readers.kinds import format_ending, reader_of
from invad_med.readers.spool import extended

_MASKS = {"label", "anomaly_mask"}  # of BMAD's layouts
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # of file managers


@dataclass
class Scan:
    """What a folder holds.

    Args:
        sources: sorted by name.
        problems: image files that are not read, with the reason, sorted by path.
        ignored: number of files that are no images, by what they are: ``.txt file``, ``ZIP archive, not opened``.
        results: number of files that an earlier run wrote.
        headers: of the DICOM files among the sources, of `scan_by_folder` alone.
    """

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    results: int = 0
    headers: dict[Path, Header] = field(default_factory=dict, repr=False)

    @property
    def passed_over(self) -> str:
        """What was found besides images, for the summary: ``2 .txt file, 1 ZIP archive, not opened``."""
        words = [f"{count} {kind}" for kind, count in sorted(self.ignored.items())]
        return "; ".join(words + [f"{self.results} result of earlier runs"] * bool(self.results))


def scan(dataset_dir: str | Path, progress: bool = False) -> Scan:
    """Find the images below a folder, or the one image of a file, reading headers only.

    Files are told by content and by the ending of their name: see `invad_med.readers.kinds`. Folders are followed
    through symbolic links.

    Args:
        dataset_dir: a folder, searched recursively, or a single file.
        progress: show a bar.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder holds no image, not even a damaged one.
    """
    root, paths, result = Path(dataset_dir), list[Path](), Scan()
    for own, part in _folders(root):
        paths += own
        result.problems += part.problems
        result.ignored += part.ignored
    found, _ = _found(tqdm(paths, desc="scan", unit="file", disable=not progress), root, result)
    result.sources = _named(found)
    result.problems.sort(key=lambda p: p.path)
    if not result.sources and not result.problems:
        rest = result.passed_over or "no files"
        raise ValueError(f"no image found in {root} ({rest}); looked for {ACCEPTED}")
    return result


def scan_by_folder(dataset_dir: str | Path) -> Iterator[Scan]:
    """Yield what lies in each folder itself, one folder after the other, so that no more than one is held.

    Together they are what `scan` finds, but that names which differ in case alone stay as they are across folders.

    Args:
        dataset_dir: as `scan` takes it.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    root, told = Path(dataset_dir), set[Path]()
    for paths, result in _folders(root):
        found, headers = _found(paths, root, result)
        result.sources, result.headers = _named(found), {header.path: header for header in headers}
        result.problems = [p for p in sorted(result.problems, key=lambda p: p.path) if p.path not in told]
        told |= {p.path for p in result.problems if p.path.name == MANIFEST}  # all folders below it meet it again
        yield result


def _folders(root: Path) -> Iterator[tuple[list[Path], Scan]]:
    """Yield the files of each folder from a root on, or the one file, and what else was met there."""
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}; a folder or file of {ACCEPTED} is expected")
    return iter([([root], Scan())]) if root.is_file() else _walk(root, ())


def _found(paths: Iterable[Path], root: Path, result: Scan) -> tuple[list[tuple[Source, str]], list[Header]]:
    """Return the sources among files, each with the ending that tells colliding names apart, and DICOM headers.

    What is no source is added to ``result``.
    """
    above = root.parent if root.is_file() else root
    base = Path(os.path.abspath(above))
    found: list[tuple[Source, str]] = []
    headers: list[Header] = []
    with without_warnings():  # libraries warn about every odd header value; what matters becomes a Problem
        for path in paths:
            path = base / path.relative_to(above)
            try:
                with reading("file"):  # whatever a library makes of a damaged file, the others are scored
                    item = _identify(path)
            except OwnResult:
                result.results += 1
                continue
            except ReadError as error:
                result.problems.append(Problem(path, str(error)))
                continue
            if isinstance(item, Header):
                headers.append(item)
            elif isinstance(item, Source):
                found.append((replace(item, name=_name(path, base)), format_ending(path)))
            else:
                result.ignored[item] += 1

    for stack in stacks(headers):
        found.append((_series(stack, base), format_ending(stack.headers[0].path) if len(stack.headers) == 1 else ""))
    stated = {folder: _stated_modality(folder, base, result) for folder in {s.paths[0].parent for s, _ in found}}
    return [(replace(s, stated_modality=stated[s.paths[0].parent]), e) for s, e in found], headers


def _walk(folder: Path, ancestors: tuple[str, ...]) -> Iterator[tuple[list[Path], Scan]]:
    """Yield the files of a folder, then those of each below it, in order, with what else is met there.

    A link back to a folder it lies in is not followed.
    """
    real, files, folders, met = os.path.realpath(folder), list[Path](), list[Path](), Scan()
    if real in ancestors:
        return
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        met.problems.append(Problem(folder, f"folder cannot be opened ({error.strerror})"))
        children = []
    for child in children:
        if child.name.casefold() in _JUNK or child.name.startswith("."):
            met.ignored["hidden file or folder"] += 1
        elif child.is_dir() and child.name.casefold() in _MASKS and (folder / "img").is_dir():
            met.ignored["folder of masks beside img"] += 1
        elif child.is_dir():
            folders.append(child)
        elif child.is_file():
            files.append(child)
        elif child.is_symlink():
            met.problems.append(Problem(child, "symbolic link to a file that does not exist"))
    yield files, met
    for below in folders:
        yield from _walk(below, (*ancestors, real))


def is_result(path: Path) -> bool:
    """Return whether an earlier run wrote a file; one that is damaged in any way is the user's."""
    try:
        with without_warnings(), reading("file"):
            _identify(path)
    except OwnResult:
        return True
    except ReadError:
        return False
    return False


def _identify(path: Path) -> Source | Header | str:
    """Return a source, a DICOM header, or what else a file is; raise ReadError for the rest."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ReadError(f"file cannot be opened ({error.strerror})") from None
    with file:  # once, whoever reads it
        reader = reader_of(path, file)
        if reader == "nifti":
            image = nifti.load(path, file)
            if nifti.is_own(image):
                raise OwnResult("result of an earlier run")
            slices, notes = nifti.display_shape(image)[0], nifti.notes_of(image)
            return Source("nifti", (path,), "", slices, notes=notes, ascends=nifti.ascends(image))
        if reader == "raster":
            return Source("raster", (path,), "", rasters.count_pages(path, file))
        if reader == "dicom":
            return read_header(path, file) or "DICOMDIR"
        if reader == "maybe dicom":
            try:
                return read_header(path, file) or "DICOMDIR"
            except OwnResult:
                raise
            except ReadError:
                return "file without ending"
    return reader


def _series(stack: HeaderStack, base: Path) -> Source:
    first, paths = stack.headers[0], tuple(h.path for h in stack.headers)
    stem = f"series-{_digest(first.series)}" if len(paths) > 1 else None
    name = _name(first.path, base, frozenset[str]().union(*(h.identity for h in stack.headers)), stem)
    if stack.label and (len(paths) > 1 or stack.frames is not None):
        name += f"-{stack.label}"
    return Source(
        "dicom", paths, name, stack.n_slices, first.modality, first.body_part,
        frames=stack.frames, notes=stack.notes, unfit=stack.unfit, ascends=stack.ascends,
    )  # fmt: skip


def _name(path: Path, base: Path, identity: frozenset[str] = frozenset(), stem: str | None = None) -> str:
    """Return the path below the scanned folder without ending, parts that hold the patient's identity replaced."""
    parts = (*path.relative_to(base).parts[:-1], stem or path.name.removesuffix(format_ending(path)))
    return "/".join(f"anon-{_digest(p)}" if any(word in p.casefold() for word in identity) else p for p in parts)


def _stated_modality(folder: Path, base: Path, result: Scan) -> str | None:
    """Return what the nearest folder states by its manifest or name, from this one up to the scanned one."""
    for place in [folder, *folder.parents][: len(folder.relative_to(base).parts) + 1]:
        identity = identify(place, place)
        if identity.problem and all(problem.path != place / MANIFEST for problem in result.problems):
            result.problems.append(Problem(place / MANIFEST, identity.problem))
        if identity.modality is not None:
            return identity.modality.name
    return None


def _named(found: Iterable[tuple[Source, str]]) -> list[Source]:
    """Make names unique also where upper and lower case, or forms of Unicode, are one: by the ending, else by a number.

    A name that would be that of a slice of another source (``scan_s000`` beside ``scan``) is changed likewise.
    """
    ordered = sorted(found, key=lambda f: (f[0].name, f[1], f[0].paths))
    count = Counter(_folded(source.name) for source, _ in ordered)
    taken: set[str] = {name for name, n in count.items() if n == 1}
    named: list[tuple[Source, str]] = []
    for source, ending in ordered:
        name = source.name
        if count[_folded(name)] > 1:
            name = _free(name + ending, taken)
        named.append((replace(source, name=name), ending))
    stacks = {_folded(source.name) for source, _ in named if source.n_slices > 1}
    result = []
    for source, ending in named:
        like = re.fullmatch(r"(.+)_s\d{3,}", _folded(source.name), re.DOTALL)
        if like and like[1] in stacks:
            source = replace(source, name=_free(source.name + (ending or "-2"), taken))
        result.append(source)
    return sorted(result, key=lambda s: s.name)


def _free(stem: str, taken: set[str]) -> str:
    """Return a name that is not taken, with a number if need be, and take it."""
    name, number = stem, 1
    while _folded(name) in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(_folded(name))
    return name


def _folded(name: str) -> str:
    """Return what file systems that know neither case nor forms of Unicode make of a name."""
    return unicodedata.normalize("NFC", name).casefold()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


_READERS = {"raster": rasters.read, "nifti": nifti.read}  # DICOM beside them: files may hold several sources


def read_source(source: Source, last: dicom.LastFile | None = None) -> Sequence[Slice | ReadError]:
    """Decode all slices of a source; every file of it is opened once. Nothing is kept, and any thread may call it.

    Pixels that take more than 32 MB together lie in a file without a name, see `invad_med.readers.spool`: then each
    access to a slice reads it anew, and it is held as long as the caller holds it. The pixels may be shared with other
    users of the slices and are therefore read-only: copy before writing.

    Args:
        source: as found by `scan`.
        last: keeps a DICOM file of several acquisitions for the next of them.

    Returns:
        ``source.n_slices`` slices, or in their places why one could not be read: one line that names neither file nor
        patient.
    """
    try:
        with without_warnings(), reading("file"):
            pieces = dicom.read(source, last) if source.kind == "dicom" else _READERS[source.kind](source)
            pieces = pieces[: source.n_slices]
    except ReadError as error:
        return [error.plain()] * source.n_slices
    missing = source.n_slices - len(pieces)
    said = f"holds {len(pieces)} images, {source.n_slices} when it was found"
    return extended(pieces, [ReadError(said)] * missing)


def whole_source(source: Source) -> list[Slice]:
    """Decode all slices of a source.

    Raises:
        ReadError: one of them cannot be read; see `read_source`.
    """
    pieces = read_source(source)
    slices = [piece for piece in pieces if isinstance(piece, Slice)]
    if len(slices) < len(pieces):
        raise next(piece for piece in pieces if isinstance(piece, ReadError))
    return slices


def read_slice(source: Source, index: int) -> Slice:
    """Decode a source for one of its slices; to go through a source use `read_source`, or a `SourceReader`.

    Raises:
        ReadError: see `read_source`.
        IndexError: the index is out of range.
    """
    return SourceReader().read(source, index)


def read_raster(path: Path) -> Slice:
    """Decode a PNG or JPEG file, or a TIFF of one page, of a data set.

    Raises:
        ReadError: see `read_source`. Which file it is, of what may be thousands, standard error says alone: reasons
            go into pages and MLflow, and a name may be a patient's.
    """
    try:
        return read_slice(Source("raster", (path,), path.stem, 1), 0)
    except ReadError:
        print(f"cannot be read: {path}", file=sys.stderr)
        raise


class SourceReader:
    """Gives slices one by one and decodes their source once: it holds the source asked for last, and no other.

    A file of several acquisitions is decoded once for all that follow one another.

    For callers that go through sources in order. Several threads may share one: those that ask for the same source
    wait for one decoding, and different sources are decoded side by side. A copy, as in another process, holds
    nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[Source, Future[Sequence[Slice | ReadError]]] | None = None
        self._last = dicom.LastFile()

    def get(self, source: Source, index: int) -> Slice | ReadError:
        """Return a slice, or why it could not be read, as `read_source` gives it.

        Raises:
            IndexError: the index is out of range.
        """
        if not 0 <= index < source.n_slices:
            raise IndexError(f"slice {index} of a source with {source.n_slices}")
        with self._lock:
            first = self._held is None or self._held[0] != source
            if first:
                self._held = source, Future()
            assert self._held is not None
            future = self._held[1]
        if first:
            try:
                future.set_result(read_source(source, self._last))
            except BaseException as error:  # those who wait must not wait for ever
                future.set_exception(error)
                with self._lock:
                    self._held = self._held if self._held and self._held[1] is not future else None
                raise
        return future.result()[index]

    def read(self, source: Source, index: int) -> Slice:
        """Return a slice.

        Raises:
            ReadError: see `read_source`.
            IndexError: the index is out of range.
        """
        piece = self.get(source, index)
        if isinstance(piece, ReadError):
            raise piece.plain()
        return piece

    def release(self) -> None:
        """Let go of the source that is held."""
        with self._lock:
            self._held, self._last = None, dicom.LastFile()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]
