"""The one table of datasets (``datasets.json``), as frozen records looked up by name or alias."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class DatasetFacts:
    """Every fact about one dataset; see ``datasets.json``.

    Args:
        name: of the row.
        title: for people.
        aliases: folder names it goes by, in the archives and their re-packs; compared without case.
        dicom_modalities, body_parts: DICOM values (0008,0060) and (0018,0015) that lead here.
        colour: whether images have colour that matters.
        pixel_masks: whether it is published with masks of the anomaly.
        intensity: ``{"kind": "percentile"}`` or ``{"kind": "window", "low": HU, "high": HU}``.
        fit: how a slice becomes a square.
        counts: published images, split -> class -> number; empty where nothing is published.
        image_size: (width, height) of the published images in pixels.
        archive: name of the published archive, or None.
        sources: the original data it was made from.
        licence: terms as their owners state them; unverified, read them yourself.
        obtain: where a user gets it.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    dicom_modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    colour: bool
    pixel_masks: bool
    intensity: dict[str, Any]
    fit: Literal["pad", "stretch"]
    counts: dict[str, dict[str, int]]
    image_size: tuple[int, int]
    archive: str | None
    sources: tuple[str, ...]
    licence: str
    obtain: str


@cache
def all_datasets() -> dict[str, DatasetFacts]:
    """Return the table, name -> facts, in its written order."""
    table = json.loads(Path(__file__).with_name("datasets.json").read_text(encoding="utf-8"))
    return {name: _facts(name, row) for name, row in table.items()}


def _facts(name: str, row: dict[str, Any]) -> DatasetFacts:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return DatasetFacts(name=name, **values)


def find_dataset(name: str) -> DatasetFacts | None:
    """Return the facts for a dataset name or alias (case-insensitive), or None."""
    wanted = name.casefold()
    for facts in all_datasets().values():
        if wanted in {facts.name.casefold(), *(a.casefold() for a in facts.aliases)}:
            return facts
    return None


def dataset_for_dicom(modality: str | None, body_part: str | None) -> DatasetFacts | None:
    """Return the dataset a DICOM image belongs to by Modality and Body Part Examined, or None."""
    for facts in all_datasets().values():
        right_part = not facts.body_parts or (body_part or "").upper() in facts.body_parts
        if modality in facts.dicom_modalities and right_part:
            return facts
    return None
