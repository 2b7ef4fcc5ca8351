"""Which inputs of a run are done, kept beside the results, so that a run that was cut goes on where it was.

``progress.jsonl`` in the output folder has a line for every input that was begun, and one, once all of it is written,
with its scores, its files and their sizes, and two digests: of its content, and of all else that shapes its results. A
later run into the same folder does with an input that

| it finds | |
|---|---|
| unchanged, its files in place | takes the results over |
| new, begun but not done, changed, or to be scored otherwise | scores it; what lay there under its name is removed |

and it stops before anything is read or written where results of another input lie in the folder: of files that are not
there any more, or none of which is what it was. Two runs at a time do not share a folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from invad_med import __version__
from invad_med.data.own_results import is_marked_text
from invad_med.data.prediction import Prediction, Scores, Status
from invad_med.data.slices import Source
from invad_med.files import append_whole, digest_of, held, remove_partials
from invad_med.inference.inputs import Input, Inputs
from invad_med.readers.sources import is_result
from invad_med.writers.naming import results_of
from invad_med.writers.report.writer import PAGE

logger = logging.getLogger(__name__)

RECORD = "progress.jsonl"
_FOLDERS = ("heatmaps", "maps", "dicom", "report")
_TABLES = ("scores.csv", "scores.json", "studies.csv", "studies.json", "overview.png")
_ELSEWHERE = "give another --output_dir"
_ADVICE = f"{_ELSEWHERE}, or --overwrite true to remove them"


class OtherResults(ValueError):
    """The output folder holds results of another input."""


@dataclass(frozen=True)
class Done:
    """What is left of an input that was scored and written whole.

    Args:
        content: digest of its files, as `content_of`.
        settings: digest of all else that shapes its results.
        predictions: of its slices, without maps.
        files: path below the output folder -> size in bytes.
        n_slices: of the source.
        objects: how many of the files are DICOM.
        refused: DICOM objects that cannot be made of it, each with the reason.
    """

    content: str
    settings: str
    predictions: tuple[Prediction, ...]
    files: Mapping[str, int]
    n_slices: int
    objects: int = 0
    refused: tuple[tuple[str, str], ...] = ()


class Progress:
    """What is to be scored, what of it is done already, and where results lie.

    Args:
        output_dir: folder of the results, made if need be.
        inputs: everything found; none for callers that write what they scored themselves.
        settings: what shapes the results besides inputs, models and the version, as text.
        models: checkpoint of each modality.
        overwrite: remove all results that lie in the folder and score everything.
        batch_size: images that the networks take at once.

    Attributes:
        todo: what is to be scored: the inputs without batches of which everything is done. Others stay whole, as the
            last digits of a score depend on what the networks take at once; what is done is not written again.
        earlier: what is taken over of them, by name.

    Raises:
        ValueError: a batch of less than one image; images that lie where results of the same names would go.
        OtherResults: the folder holds results of another input, or another run writes to it.
        OSError: the folder cannot be written to.
    """

    def __init__(
        self,
        output_dir: str | Path,
        inputs: Inputs | None = None,
        settings: str = "",
        models: Mapping[str, Path] | None = None,
        overwrite: bool = False,
        batch_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1 image is taken at once")
        self.output_dir = Path(output_dir)
        self.todo = inputs or Inputs(Path(), (), (), ())
        self.earlier: dict[str, Done] = {}
        base = self.todo.base.parent if self.todo.base.is_file() else self.todo.base
        for name in ("heatmaps", "maps"):
            if inputs and base.resolve() == (self.output_dir / name).resolve():
                raise ValueError(f"the images lie in {base}, where their {name} would replace them: {_ELSEWHERE}")
        self._settings, self._models, self._digests = settings, dict(models or {}), dict[str, str]()
        self._items = {
            source.name: list(items) for source, items in itertools.groupby(self.todo.items, key=lambda i: i.source)
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if not overwrite and _holds_unknown(self.output_dir):
            raise OtherResults(f"{self.output_dir} holds results that do not say of which input: {_ADVICE}")
        self._record = (self.output_dir / RECORD).open("a+b", buffering=0)
        try:
            if not held(self._record):
                raise OtherResults(f"another run writes to {self.output_dir}: wait, or give another --output_dir")
            if overwrite:
                _remove_results(self.output_dir)
                self._record.truncate(0)
            self._take_over(self._read())
            self.todo = replace(self.todo, items=self._remaining(batch_size))
        except BaseException:
            self.close()
            raise

    def begin(self, source: Source) -> None:
        """Note that results of a source are about to be written.

        Raises:
            OSError: that cannot be noted.
        """
        self._note({"begun": source.name, "slices": source.n_slices})

    def finish(
        self,
        source: Source,
        content: str,
        predictions: Sequence[Prediction],
        files: Sequence[Path],
        objects: int = 0,
        refused: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Note that all is written of the source that was begun last.

        Args:
            source: it.
            content, predictions, objects, refused: see `Done`.
            files: below the output folder.

        Raises:
            OSError: that cannot be noted.
        """
        sizes = {path.relative_to(self.output_dir).as_posix(): path.stat().st_size for path in files}
        settings = self._settings_of(self._items.get(source.name, []))
        done = Done(content, settings, tuple(predictions), sizes, source.n_slices, objects, tuple(refused))
        self._note({"done": source.name, **_plain(done)})

    def close(self) -> None:
        """Let other runs write to the folder."""
        self._record.close()

    def _note(self, line: Mapping[str, Any]) -> None:
        append_whole(self._record, json.dumps(line).encode() + b"\n")

    def _read(self) -> dict[str, Done | int]:
        """Return what earlier runs noted of each input, by name; of one that is not done how many slices it had."""
        self._record.seek(0)
        content = self._record.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._record.truncate(len(whole))  # it may have been cut in the middle of a line
        known: dict[str, Done | int] = {}
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # of another version, or damaged
                stated = json.loads(line)
                if "begun" in stated:
                    known[str(stated["begun"])] = int(stated["slices"])
                else:
                    known[stated["done"]] = _from_plain(stated, self._items.get(stated["done"], []))
        return known

    def _take_over(self, known: Mapping[str, Done | int]) -> None:
        """Divide the inputs into those that are done and those that are not; see the module's table."""
        sources = {i.source.name: i.source for i in self.todo.items}
        sources |= {p.source.name: p.source for p in self.todo.unscored}
        gone = (Source("raster", (), name, _count(known[name])) for name in known.keys() - sources.keys())
        absent = sum(bool(results_of(self.output_dir, source)) for source in gone)
        if absent:
            raise OtherResults(
                f"{self.output_dir} holds results of {absent} input(s) that are not among the {len(sources)} of this "
                f"run: {_ADVICE}"
            )
        known = {name: known[name] for name in sources if name in known}
        done = {name: d for name, d in known.items() if isinstance(d, Done)}
        bar = tqdm(done.items(), desc="compare", unit="input", disable=not done, leave=False)
        same = {name for name, d in bar if content_of(_digests(sources[name])) == d.content}
        if done and not same:
            raise OtherResults(f"{self.output_dir} holds results of other files of the same names: {_ADVICE}")
        for folder in (self.output_dir, *_folders(self.output_dir)):
            remove_partials(folder)
        removed = 0
        for name, d in known.items():
            if (
                isinstance(d, Done)
                and name in same
                and d.settings == self._settings_of(self._items.get(name, []))
                and _in_place(self.output_dir, d.files)
            ):
                self.earlier[name] = d
                continue
            for path in results_of(self.output_dir, replace(sources[name], n_slices=_count(d))):
                if path.suffix != ".dcm" or is_result(path):  # the folder of objects may hold some of the user's own
                    path.unlink(missing_ok=True)
                    removed += 1
        if removed:
            logger.warning(
                "%d file(s) of inputs that an earlier run did not finish, or scored otherwise, removed", removed
            )

    def _remaining(self, batch_size: int) -> tuple[Input, ...]:
        items = self.todo.items
        batches = (items[start : start + batch_size] for start in range(0, len(items), batch_size))
        unfinished = (b for b in batches if any(item.source.name not in self.earlier for item in b))
        return tuple(itertools.chain.from_iterable(unfinished))

    def _settings_of(self, items: Sequence[Input]) -> str:
        first = items[0] if items else None
        modality = first.modality.name if first else ""
        if modality in self._models and modality not in self._digests:
            with self._models[modality].open("rb") as file:
                self._digests[modality] = digest_of(file)
        source = first.source if first else None
        stated = [
            (__version__, self._settings, modality, self._digests.get(modality, "")),
            first and str(first.chosen_by),
            source and (source.kind, source.n_slices, source.frames, source.notes),
            [item.index for item in items],
        ]
        return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


def content_of(digests: Sequence[str]) -> str:
    """Return a digest of a source: of the digests of its files, `invad_med.data.slices.Slice.digest`, in its order.

    Empty if one of them is: then nothing is known of it.
    """
    return hashlib.sha256("".join(dict.fromkeys(digests)).encode()).hexdigest() if digests and all(digests) else ""


def _digests(source: Source) -> list[str]:
    """Return the digests of a source's files; an empty one of a file that cannot be read."""
    result = []
    for path in source.paths:
        try:
            with path.open("rb") as file:
                result.append(digest_of(file))
        except OSError:
            result.append("")
    return result


def _in_place(folder: Path, files: Mapping[str, int]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except OSError:
        return False


def _plain(done: Done) -> dict[str, Any]:
    slices = [
        {
            "index": p.index,
            "status": str(p.status),
            "reason": p.reason,
            "content": p.content,
            "computed_by": p.computed_by,
            **{field.name: getattr(p, field.name) for field in dataclasses.fields(Scores)},
        }
        for p in done.predictions
    ]
    rest = {f.name: getattr(done, f.name) for f in dataclasses.fields(Done) if f.name != "predictions"}
    return {**rest, "slices": slices}


def _from_plain(stated: Mapping[str, Any], items: Sequence[Input]) -> Done:
    """Return what a line states of the input whose slices are given; if these are others, nothing that fits them."""
    by_index = {item.index: item for item in items}
    fits = set(by_index) == {piece["index"] for piece in stated["slices"]}
    predictions = tuple(
        Prediction(
            source=(item := by_index[piece["index"]]).source,
            modality=item.modality.name,
            chosen_by=item.chosen_by,
            **{**piece, "status": Status(piece["status"])},
        )
        for piece in (stated["slices"] if fits else ())
    )
    return Done(
        content=str(stated["content"]),
        settings=str(stated["settings"]) if fits else "",
        predictions=predictions,
        files={str(name): int(size) for name, size in stated["files"].items()},
        n_slices=int(stated["n_slices"]),
        objects=int(stated["objects"]),
        refused=tuple((str(kind), str(reason)) for kind, reason in stated["refused"]),
    )


def _count(known: Done | int) -> int:
    return known.n_slices if isinstance(known, Done) else known


def _folders(output_dir: Path) -> Iterator[Path]:
    """Yield the folders in an output folder that results are written to, as far as they are there."""
    for name in _FOLDERS:
        for folder, _, _ in os.walk(output_dir / name):
            yield Path(folder)


def _results(output_dir: Path) -> Iterator[Path]:
    """Yield the pictures, maps, objects and pages in an output folder that a run wrote, whatever else lies there."""
    for path in (path for folder in _folders(output_dir) for path in sorted(folder.iterdir())):
        if path.is_file() and (is_marked_text(path) if path.suffix in (".html", ".json") else is_result(path)):
            yield path


def _holds_unknown(output_dir: Path) -> bool:
    """Return whether there are results without a word on what they are of.

    An empty record is that of a run that ended before it wrote any, but for the table, or while it removed others.
    """
    record = output_dir / RECORD
    if record.exists():
        return record.stat().st_size == 0 and next(_results(output_dir), None) is not None
    return (output_dir / "scores.csv").exists() or next(_results(output_dir), None) is not None


def _remove_results(output_dir: Path) -> None:
    """Remove what runs wrote into a folder, and folders that are empty then."""
    page = output_dir / PAGE
    for path in [*_results(output_dir), *(output_dir / name for name in _TABLES), *[page] * is_marked_text(page)]:
        path.unlink(missing_ok=True)
    for folder in reversed(list(_folders(output_dir))):
        with contextlib.suppress(OSError):  # something else lies in it
            folder.rmdir()
