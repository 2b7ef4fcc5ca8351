"""Images of equal content under different names: one image twice, whoever it is said to be of."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from invad_med.data.bmad import BmadDataset, BmadItem


def copies(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return the files of equal bytes, together: tuples of at least two, each in the order given.

    Only files of one size are opened. Empty files, of which nothing can be read, are nobody's copies.
    """
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(files):
        sizes[path.stat().st_size].append(path)
    contents: dict[bytes, list[Path]] = defaultdict(list)
    for size, same in sizes.items():
        for path in same if size and len(same) > 1 else ():
            contents[hashlib.sha256(path.read_bytes()).digest()].append(path)
    return [tuple(same) for same in contents.values() if len(same) > 1]


def notes_on_copies(dataset: BmadDataset) -> dict[str, list[tuple[Path, ...]]]:
    """Return what images of equal content make of a data set, a sentence each, and which they are."""
    items: dict[Path, BmadItem] = {item.image: item for item in dataset.items}
    divided: list[tuple[Path, ...]] = []
    contradicting: list[tuple[Path, ...]] = []
    repeated: list[tuple[Path, ...]] = []
    for same in copies(items):
        splits, labels = ({getattr(items[path], what) for path in same} for what in ("split", "label"))
        kind = contradicting if len(labels) > 1 else divided if len(splits) > 1 else repeated
        kind.append(same)
    found = {
        f"{len(divided)} images are in more than one split, under names of their own: what is measured on them was "
        "learnt, or chosen, on them": divided,
        f"{len(contradicting)} images are both good and Ungood, under names of their own": contradicting,
        f"{len(repeated)} images are in one split more than once, under names of their own: they count as often, and "
        "intervals may be too narrow": repeated,
    }
    return {sentence: images for sentence, images in found.items() if images}
