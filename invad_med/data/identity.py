"""What a data set is: called and showing what its ``manifest.json`` states, else what its folder or a link to it is.

``manifest.json`` beside the splits may state ``modality`` (what the images show, `invad_med.data.modalities`) and
``dataset`` (a published set of `invad_med.data.published_sets`, or any other name); ``data_prep`` writes both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invad_med.data.modalities import Modality, require_modality
from invad_med.data.published_sets import PublishedSet, find_published_set, modality_of_folder

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Identity:
    """What a data set is called, and what that says; ``problem`` if its manifest states no modality there is."""

    name: str
    published: PublishedSet | None
    modality: Modality | None
    problem: str | None = None


def identify(place: Path, root: Path) -> Identity:
    """Say what a data set is, by its manifest, else by the name of its folder, else of one between it and the root.

    A manifest's modality wins over what the name says; a name that says otherwise is then no published set's.
    """
    manifest = _manifest(place)
    folders = [place, *place.parents]
    within = folders[: folders.index(root) + 1]
    names = [name for folder in within for name in (folder.name, folder.resolve().name)]  # of a link, then its target
    if isinstance(manifest.get("dataset"), str):
        names = [manifest["dataset"]]
    name = next((name for name in names if modality_of_folder(name)), "")
    published, modality = find_published_set(name), modality_of_folder(name)
    if manifest.get("modality") is not None:
        try:
            stated = require_modality(str(manifest["modality"]))
        except ValueError as error:
            return Identity("custom", None, None, str(error))
        if modality is not stated:
            return Identity("custom", None, stated)
    if modality is None:
        return Identity("custom", None, None)
    return Identity(published.name if published else modality.name, published, modality)


def _manifest(place: Path) -> dict[str, Any]:
    try:
        content = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # there is none, or it is of something else
    return content if isinstance(content, dict) else {}
