"""From a folder of anything to `Source`s, and from a source to its `Slice`s."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from invad_med.data.datasets import find_dataset
from invad_med.data.own_results import OwnResult
from invad_med.data.slices import Problem, ReadError, Slice, Source
from invad_med.readers import nifti, rasters
from invad_med.readers.decoding import ACCEPTED
from invad_med.readers.dicom import pixels as dicom
from invad_med.readers.dicom.headers import Header, HeaderStack, read_header, stacks
from invad_med.readers.kinds import format_ending, reader_of

_JUNK = {"thumbs.db", "desktop.ini", ".ds_store", "__macosx", "dicomdir"}
_CACHE_BYTES = 2**30


@dataclass
class Scan:
    """What a folder holds.

    Args:
        sources: sorted by name.
        problems: image files that are not read, with the reason, sorted by path.
        ignored: number of files that are no images, by what they are: ``.txt file``, ``ZIP archive, not opened``.
        results: number of files that an earlier run wrote.
    """

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    results: int = 0

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
    root = Path(dataset_dir)
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}; a folder or file of {ACCEPTED} is expected")
    single, result = root.is_file(), Scan()
    paths = [root] if single else list(_walk(root, (), result))
    base = Path(os.path.abspath(root.parent if single else root))

    found: list[tuple[Source, str]] = []  # with the ending that tells colliding names apart
    headers: list[Header] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about every odd header value; what matters becomes a Problem
        for path in tqdm(paths, desc="scan", unit="file", disable=not progress):
            path = base / path.relative_to(root.parent if single else root)
            try:
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
            elif item is not None:
                result.ignored[item] += 1

    for stack in stacks(headers):
        found.append((_series(stack, base), format_ending(stack.headers[0].path) if len(stack.headers) == 1 else ""))
    result.sources = _named([(replace(s, stated_dataset=_stated_dataset(s.paths[0], base)), e) for s, e in found])
    result.problems.sort(key=lambda p: p.path)
    if not result.sources and not result.problems:
        rest = result.passed_over or "no files"
        raise ValueError(f"no image found in {root} ({rest}); looked for {ACCEPTED}")
    return result


def _walk(folder: Path, ancestors: tuple[str, ...], result: Scan) -> Iterator[Path]:
    """Yield the files below a folder in order; a link back to a folder it lies in is not followed."""
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        result.problems.append(Problem(folder, f"folder cannot be opened ({error.strerror})"))
        return
    for child in children:
        if child.name.casefold() in _JUNK or child.name.startswith("._"):
            continue
        if child.name.startswith("."):
            result.ignored["hidden file or folder"] += 1
            continue
        if child.is_dir():
            yield from _walk(child, (*ancestors, real), result)
        elif child.is_file():
            yield child
        elif child.is_symlink():
            result.problems.append(Problem(child, "symbolic link to a file that does not exist"))


def _identify(path: Path) -> Source | Header | str | None:
    """Return a source, a DICOM header, what else a file is, or None of a DICOMDIR; raise ReadError for the rest."""
    try:
        with path.open("rb") as file:
            reader = reader_of(path, file)
    except OSError as error:
        raise ReadError(f"file cannot be opened ({error.strerror})") from None
    if reader == "nifti":
        image = nifti.load(path)
        if nifti.is_own(image):
            raise OwnResult("result of an earlier run")
        return Source("nifti", (path,), "", nifti.display_shape(image)[0], notes=nifti.notes_of(image))
    if reader == "raster":
        return Source("raster", (path,), "", rasters.count_pages(path))
    if reader == "dicom":
        return read_header(path)
    if reader == "maybe dicom":
        try:
            return read_header(path)
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
        frames=stack.frames, notes=stack.notes, unfit=stack.unfit,
    )  # fmt: skip


def _name(path: Path, base: Path, identity: frozenset[str] = frozenset(), stem: str | None = None) -> str:
    """Return the path below the scanned folder without ending, parts that hold the patient's identity replaced."""
    parts = (*path.relative_to(base).parts[:-1], stem or path.name.removesuffix(format_ending(path)))
    return "/".join(f"anon-{_digest(p)}" if any(word in p.casefold() for word in identity) else p for p in parts)


def _stated_dataset(path: Path, base: Path) -> str | None:
    """Return the dataset that the nearest folder states, from the file's up to the scanned one."""
    folders = list(path.parents)[: len(path.relative_to(base).parts)]
    return next((facts.name for facts in map(find_dataset, (f.name for f in folders)) if facts), None)


def _named(found: Iterable[tuple[Source, str]]) -> list[Source]:
    """Make names unique also where upper and lower case are one: by the file's ending, else by a number."""
    ordered = sorted(found, key=lambda f: (f[0].name, f[1], f[0].paths))
    count = Counter(source.name.casefold() for source, _ in ordered)
    taken: set[str] = {name for name, n in count.items() if n == 1}
    result = []
    for source, ending in ordered:
        name = source.name
        if count[name.casefold()] > 1:
            stem = name + ending
            name, number = stem, 1
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.casefold())
        result.append(replace(source, name=name))
    return sorted(result, key=lambda s: s.name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


_READERS = {"raster": rasters.read, "nifti": nifti.read, "dicom": dicom.read}
_Decoded = list[Slice | ReadError]
_cache: OrderedDict[tuple, _Decoded | ReadError] = OrderedDict()
_lock = threading.Lock()


def read_slice(source: Source, index: int) -> Slice:
    """Decode one slice; the last sources are kept decoded (1 GiB per process), so a volume is decoded once.

    The pixels are shared with later callers and therefore read-only: copy before writing into them. Thread-safe.

    Args:
        source: as found by `scan`.
        index: 0 <= index < source.n_slices.

    Raises:
        ReadError: with a one-line reason that names neither file nor patient.
        IndexError: the index is out of range.
    """
    if not 0 <= index < source.n_slices:
        raise IndexError(f"slice {index} of a source with {source.n_slices}")
    with _lock:
        decoded = _decoded(source)
    if isinstance(decoded, ReadError):
        raise ReadError(str(decoded))
    if index >= len(decoded):
        raise ReadError(f"holds {len(decoded)} images, {source.n_slices} when it was found")
    piece = decoded[index]
    if isinstance(piece, ReadError):
        raise ReadError(str(piece))
    return piece


def _decoded(source: Source) -> _Decoded | ReadError:
    try:
        state = source.paths[0].stat()
    except OSError as error:
        return ReadError(f"file cannot be opened ({error.strerror})")
    key = (source, state.st_mtime_ns, state.st_size)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded: _Decoded | ReadError = _READERS[source.kind](source)
    except ReadError as error:
        decoded = ReadError(str(error))  # a fresh one holds no traceback, hence no arrays
    for piece in decoded if isinstance(decoded, list) else []:
        if isinstance(piece, Slice):
            piece.pixels.flags.writeable = False
    _cache[key] = decoded
    while len(_cache) > 1 and sum(map(_size, _cache.values())) > _CACHE_BYTES:
        _cache.popitem(last=False)
    return decoded


def _size(decoded: _Decoded | ReadError) -> int:
    return sum(s.pixels.nbytes for s in decoded if isinstance(s, Slice)) if isinstance(decoded, list) else 0
