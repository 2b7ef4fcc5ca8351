"""Say what a folder in BMAD's layout holds, beside the published counts, and what is wrong with it.

Every file is opened. Exit status 0: no problem (counts that differ from the published ones are none); 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from invad_med.data.bmad import BmadDataset, TreeProblem, inspect_tree
from invad_med.data.copies import notes_on_copies
from invad_med.data.masks import read_mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="a data set, or a folder of several")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of text")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="threads (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 0 only without problems."""
    datasets = check(arguments.root, workers=arguments.workers, progress=not arguments.quiet)
    if arguments.json:
        print(json.dumps([describe(dataset) for dataset in datasets], indent=1))
    else:
        print("\n\n".join(_text(dataset) for dataset in datasets))
    return 1 if any(dataset.problems for dataset in datasets) else 0


def check(root: Path, workers: int = 4, progress: bool = False) -> list[BmadDataset]:
    """Read a tree and open every file of it.

    Args:
        root: a data set, or a folder of several.
        workers: threads that decode.
        progress: show a bar on standard error.

    Returns:
        What `invad_med.data.bmad.inspect_tree` found, with unreadable files among the problems and masks that
        contradict their class among the notes.
    """
    return [_opened(dataset, workers, progress) for dataset in inspect_tree(root)]


def describe(dataset: BmadDataset) -> dict[str, Any]:
    """Return a data set as JSON values."""
    return {
        "dataset": dataset.name,
        "modality": dataset.modality.name if dataset.modality else None,
        "root": str(dataset.root),
        "dialect": dataset.dialect,
        "splits": dataset.splits,
        "published": dataset.published.counts if dataset.published else {},
        "problems": [{"reason": p.reason, "paths": [str(path) for path in p.paths]} for p in dataset.problems],
        "notes": list(dataset.notes),
    }


def _opened(dataset: BmadDataset, workers: int, progress: bool) -> BmadDataset:
    files = [(i.image, False) for i in dataset.items] + [(i.mask, True) for i in dataset.items if i.mask]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = list(
            tqdm(pool.map(_open, files), total=len(files), desc=dataset.name, unit="file", disable=not progress)
        )
    marked = {path: result for (path, mask), result in zip(files, results, strict=True) if mask}
    broken = tuple(
        TreeProblem(f"cannot be read ({result})", (path,))
        for (path, _), result in zip(files, results, strict=True)
        if isinstance(result, str)
    )
    notes = []
    for label, is_marked, text in (
        (1, False, "Ungood images have an empty mask"),
        (0, True, "good images have a mask"),
    ):
        odd = [i.mask for i in dataset.items if i.mask and i.label == label and marked[i.mask] is is_marked]
        if odd:
            notes.append(f"{len(odd)} {text}, the first: {odd[0]}")
    for sentence, images in notes_on_copies(dataset).items():
        notes.append(f"{sentence}; the first: {', '.join(map(str, images[0]))}")
    return replace(dataset, problems=dataset.problems + broken, notes=dataset.notes + tuple(notes))


def _open(file: tuple[Path, bool]) -> bool | str:
    """Decode a file; return whether anything is set (masks only), or why it cannot be read."""
    path, is_mask = file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if is_mask:
                return bool(read_mask(path).any())
            with Image.open(path) as image:
                image.load()
        return False
    except Exception as error:  # whatever a decoder raises on damaged data
        return (str(error) or type(error).__name__).replace(str(path), path.name).replace("\n", " ")


def _text(dataset: BmadDataset) -> str:
    modality = dataset.modality.name if dataset.modality else "not stated"
    lines = [f"{dataset.name}   modality {modality}   dialect {dataset.dialect}   {dataset.root}"]
    published = dataset.published.counts if dataset.published else {}
    rows = {(s, c): n for s, classes in dataset.splits.items() for c, n in classes.items()}
    keys = list(rows) + [(s, c) for s, classes in published.items() for c in classes if (s, c) not in rows]
    if keys:
        lines.append(f"  {'split':6} {'class':7} {'images':>7} {'masks':>7} {'published':>10}")
    for split, kind in keys:
        counts = rows.get((split, kind), {"images": 0, "masks": 0})
        stated = published.get(split, {}).get(kind, "-")
        lines.append(f"  {split:6} {kind:7} {counts['images']:>7} {counts['masks']:>7} {stated:>10}")
    lines += [f"  note: {note}" for note in dataset.notes]
    for problem in dataset.problems:
        lines += [f"  problem: {problem.reason}", *(f"    {path}" for path in problem.paths)]
    return "\n".join(lines)
