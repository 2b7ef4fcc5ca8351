"""What was published of some data sets, to compare a folder with: the table `published_sets.json`, BMAD's six sets.

How their images are prepared is another matter, `invad_med.data.modalities`; every row names its modality.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from invad_med.data.modalities import Modality, all_modalities, find_modality


@dataclass(frozen=True)
class PublishedSet:
    """One data set as it was published.

    Args:
        name: of the row.
        title: for people.
        modality: name of the modality of its images.
        aliases: folder names it goes by, in its archives and their re-packs; compared without case.
        counts: images, split -> class -> number.
        pixel_masks: whether it has masks of the anomaly.
        image_size: (width, height) in pixels.
        archive: name of the archive, or None.
        sources: the original data it was made from.
        licence: terms as their owners state them; unverified, read them yourself.
        obtain: where a user gets it.
    """

    name: str
    title: str
    modality: str
    aliases: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    pixel_masks: bool
    image_size: tuple[int, int]
    archive: str | None
    sources: tuple[str, ...]
    licence: str
    obtain: str


@cache
def all_published_sets() -> dict[str, PublishedSet]:
    """Return the table, name -> row, in its order; a row that is put into it is known from then on."""
    table = json.loads(Path(__file__).with_name("published_sets.json").read_text(encoding="utf-8"))
    return {name: _published_set(name, row) for name, row in table.items()}


def _published_set(name: str, row: dict[str, Any]) -> PublishedSet:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return PublishedSet(name=name, **values)


def find_published_set(name: str) -> PublishedSet | None:
    """Return the published set of a name or alias (case-insensitive), or None."""
    said = name.casefold()
    for row in all_published_sets().values():
        if said in {row.name.casefold(), *(alias.casefold() for alias in row.aliases)}:
            return row
    return None


def modality_of_folder(name: str) -> Modality | None:
    """Return the modality that a folder's name states, as the modality's own name or as a published set's, or None."""
    published = find_published_set(name)
    return find_modality(name) or (all_modalities()[published.modality] if published else None)
