"""Writing a data set: every file atomic, every finished case remembered, everything in a manifest with hashes.

A build is a list of `Case`s, each a few input files and a function that turns them into `Picture`s. Cases run in
parallel; what has been finished is remembered in ``.journal.jsonl`` and, once all is done, in ``manifest.json``. A case
whose inputs, parameters and outputs are what they were is not made again, so a killed build goes on where it stopped
and a second build writes nothing. The same inputs and parameters give the same bytes, however many workers there are::

    train/good/*.png   {valid,test}/{good,Ungood}/img/*.png   {valid,test}/Ungood/label/*.png (0 or 255)
    manifest.json      dataset, modality, recipe, parameters; per case sha256 of inputs and outputs
    manifest.csv       one row per image (`COLUMNS`, then those of the source)
    datalist.json      the same as lists of image, mask, label and group, paths relative to the folder
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from invad_med.data.published_sets import modality_of_folder

COLUMNS = (
    "split", "class", "name", "group", "finding", "source", "slice", "position", "mask_px", "image_sha256",
    "mask_sha256",
)  # fmt: skip
SPLITS = ("train", "valid", "test")
_JOURNAL, _MANIFEST = ".journal.jsonl", "manifest.json"
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class PrepError(Exception):
    """A source that cannot be prepared; the message names the file or folder and what to do."""


@dataclass(frozen=True)
class Picture:
    """One image to write.

    Args:
        split: ``train``, ``valid`` or ``test``.
        kind: ``good`` or ``Ungood``.
        name: of the file, without extension; unique within split and class.
        pixels: (H, W), (H, W, 3) or (H, W, 4) uint8.
        mask: (H, W), anything but 0 is anomalous; (H, W, 4) for a mask drawn in colours; or None. Not written for
            good images.
        group: patient, slide or other unit that must not be in two splits.
        source: input it was made from, as the manifest names it.
        slice: index in the source, or None.
        position: of the slice along its stack, see `invad_med.data.places.place_along`, or None.
        finding: finer class, where the source has one.
        facts: whatever else the source knows of it: further columns of ``manifest.csv``, which hold text.
    """

    split: str
    kind: str
    name: str
    pixels: np.ndarray
    mask: np.ndarray | None
    group: str
    source: str
    slice: int | None = None
    position: float | None = None
    finding: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A unit of work that is done or not.

    Args:
        name: unique within the build.
        inputs: name for the manifest -> file. Names hold no patient identity and no path of this machine.
        make: module-level function (it travels to other processes) from the case to its pictures.
        parameters: whatever else `make` depends on, as JSON values.
    """

    name: str
    inputs: dict[str, Path]
    make: Callable[[Case], Iterable[Picture]]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a build did: counts per split and class, cases made and found finished, and what went wrong."""

    counts: dict[str, dict[str, int]]
    made: int
    kept: int
    problems: tuple[str, ...]


def build(
    output: Path,
    cases: list[Case],
    *,
    dataset: str,
    recipe: str,
    parameters: dict[str, Any],
    modality: str | None = None,
    workers: int = 1,
    progress: bool = True,
    problems: Iterable[str] = (),
) -> Report:
    """Write a data set.

    Args:
        output: its folder, made if need be. Images in it that belong to no case are from an earlier build: removed.
        cases: in the order of the manifest.
        dataset: name of a published set, ``phantom`` or ``custom``.
        recipe: ``bmad``, ``clean``, or another name.
        parameters: of the whole build, as JSON values; part of every case's identity.
        modality: name of what the images show; None: what the data set's name says, if it says any.
        workers: processes; 1 stays in this one.
        progress: show a bar on standard error.
        problems: found while planning, to be reported with those found while writing.

    Raises:
        PrepError: ``output`` holds images that were not written by a build; two cases or pictures of one name.
    """
    output = Path(output)
    _refuse_foreign(output)
    if len({case.name for case in cases}) != len(cases):
        raise PrepError("two inputs of the same name; put one of them elsewhere")
    identity = {"dataset": dataset, "recipe": recipe, "parameters": parameters}
    by_name = modality_of_folder(dataset)
    stated = {"dataset": dataset, "modality": modality or (by_name.name if by_name else None)}
    known = _remembered(output)
    jobs = [(case, known.get(case.name), output, identity) for case in cases]
    done: dict[str, dict[str, Any]] = {}
    failed = list(problems)
    made = 0
    output.mkdir(parents=True, exist_ok=True)
    (output / _JOURNAL).touch()  # from the first file on, the folder is known to be ours
    for (case, *_), result in run_all(_work, jobs, workers, progress, dataset):
        if isinstance(result, Exception):
            failed.append(f"{case.name}: {result}")
            continue
        record, is_new = result
        done[case.name] = record
        if is_new:
            made += 1
            with (output / _JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write("\n" + json.dumps({case.name: record}))  # after whatever line a kill has torn
    records = {case.name: done[case.name] for case in cases if case.name in done}
    rows = [row for record in records.values() for row in record["images"]]
    _refuse_twice(rows)
    _sweep(output, {path for row in rows for path in _paths(row)})
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        classes = counts.setdefault(row["split"], {})
        classes[row["class"]] = classes.get(row["class"], 0) + 1
    write_if_changed(output / "manifest.csv", _csv(rows))
    write_if_changed(output / "datalist.json", _json(_datalist(rows)))
    write_if_changed(output / _MANIFEST, _json({**stated, **identity, "counts": counts, "cases": records}))
    (output / _JOURNAL).unlink(missing_ok=True)
    return Report(counts, made, len(done) - made, tuple(failed))


def run_all(
    function: Callable[[_In], _Out], jobs: list[_In], workers: int, progress: bool, what: str
) -> Iterator[tuple[_In, _Out | Exception]]:
    """Apply a module-level function to every job, in parallel, and yield (job, result or error) as they come."""
    with tqdm(total=len(jobs), desc=what, unit="case", disable=not progress) as bar:
        if workers <= 1:
            for job in jobs:
                yield job, _attempt(function, job)
                bar.update()
            return
        # spawn: a forked copy of a process with threads (torch, tqdm) may hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            pending = {pool.submit(partial(_attempt, function), job): job for job in jobs}
            try:
                for future in as_completed(pending):
                    yield pending[future], future.result()
                    bar.update()
            except BaseException:  # Ctrl-C ends after the cases at work, not after all
                pool.shutdown(cancel_futures=True)
                raise


def _attempt(function: Callable[[_In], _Out], job: _In) -> _Out | Exception:
    try:
        return function(job)
    except Exception as error:  # one broken file of thousands must not end the build
        return PrepError(f"{type(error).__name__}: {error}" if not isinstance(error, PrepError) else str(error))


def _work(job: tuple[Case, dict[str, Any] | None, Path, dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Make a case unless it is there as it should be; return its record and whether it was made."""
    case, known, output, identity = job
    inputs = {name: file_hash(path) for name, path in sorted(case.inputs.items())}
    key = hashlib.sha256(_json({**identity, "case": case.parameters, "inputs": inputs})).hexdigest()
    if known and known["key"] == key and all(_as_written(output, row) for row in known["images"]):
        return known, False
    return {"key": key, "inputs": inputs, "images": [_write(output, picture) for picture in case.make(case)]}, True


def _write(output: Path, picture: Picture) -> dict[str, Any]:
    mask = picture.mask if picture.kind == "Ungood" and picture.split != "train" else None
    row: dict[str, Any] = {
        "split": picture.split,
        "class": picture.kind,
        "name": picture.name,
        "group": picture.group,
        "finding": picture.finding,
        "source": picture.source,
        "slice": "" if picture.slice is None else picture.slice,
        "position": "" if picture.position is None else f"{picture.position:.4f}",
        "mask_px": "" if mask is None else int((_grey(mask) != 0).sum()),
        "image_sha256": "",
        "mask_sha256": "",
        **picture.facts,
    }
    written = {"image": picture.pixels}
    if mask is not None:
        row["mask_sha256"] = "-"  # so that _paths names it
        written["mask"] = mask if mask.ndim == 3 else (mask != 0).astype(np.uint8) * 255
    for (what, pixels), path in zip(written.items(), _paths(row), strict=True):
        content = png_bytes(pixels)
        write_atomically(output / path, content)
        row[f"{what}_sha256"] = hashlib.sha256(content).hexdigest()
    return row


def _grey(mask: np.ndarray) -> np.ndarray:
    return mask[..., :3].max(axis=-1) if mask.ndim == 3 else mask


def _paths(row: dict[str, Any]) -> list[str]:
    """Files of a row, relative to the output: image, then mask if it has one."""
    name = f"{row['name']}.png"
    if row["split"] == "train":
        return [f"train/{row['class']}/{name}"]
    folder = f"{row['split']}/{row['class']}"
    return [f"{folder}/img/{name}"] + [f"{folder}/label/{name}"] * bool(row["mask_sha256"])


def _as_written(output: Path, row: dict[str, Any]) -> bool:
    hashes = [row["image_sha256"], row["mask_sha256"]]
    files = [output / path for path in _paths(row)]
    return all(f.is_file() and file_hash(f) == h for f, h in zip(files, hashes, strict=False))


def _remembered(output: Path) -> dict[str, dict[str, Any]]:
    """Finished cases of earlier builds; the last line of a journal may be torn."""
    known: dict[str, dict[str, Any]] = {}
    if (output / _MANIFEST).is_file():
        known |= _cases(output / _MANIFEST)
    if (output / _JOURNAL).is_file():
        for line in (output / _JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                known |= json.loads(line)
            except ValueError:
                continue
    return known


def _cases(manifest: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return dict(content["cases"])
    except (ValueError, KeyError, TypeError):
        return {}  # not written by a build


def _refuse_foreign(output: Path) -> None:
    ours = (output / _JOURNAL).exists() or bool(_remembered(output))  # a manifest.json alone may be the user's own
    if not ours and any(next((output / split).rglob("*.png"), None) for split in SPLITS):
        raise PrepError(f"{output} holds images that were not written by this command; choose another --output")


def _refuse_twice(rows: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for row in rows:
        path = _paths(row)[0].casefold()
        if path in seen:
            raise PrepError(f"two images would be written to {_paths(row)[0]}; rename one of their sources")
        seen.add(path)


def _sweep(output: Path, belonging: set[str]) -> None:
    """Remove images of earlier builds and what a killed one left half written."""
    for split in SPLITS:
        for path in sorted((output / split).rglob("*")):
            stale = path.name.endswith(".partial") or (
                path.suffix == ".png" and path.relative_to(output).as_posix() not in belonging
            )
            if stale and path.is_file():
                path.unlink()
    for path in sorted(output.glob(".*.partial")):
        path.unlink()


def _datalist(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    lists: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for row in rows:
        image, *mask = _paths(row)
        lists[row["split"]].append(
            {
                "image": image,
                "label": int(row["class"] == "Ungood"),
                "mask": mask[0] if mask else "",
                "group": row["group"],
            }
        )
    return lists


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    columns = dict.fromkeys((*COLUMNS, *(name for row in rows for name in row)))
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode (H, W), (H, W, 3) or (H, W, 4) uint8 as PNG without metadata, the same bytes every time."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written; its folder is made if need be.

    What a killed process leaves is named ``.*.partial`` and removed by the next build.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial_file.write_bytes(content)
    os.replace(partial_file, path)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write atomically unless the file holds these bytes already."""
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
