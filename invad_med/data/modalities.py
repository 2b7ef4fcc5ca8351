"""What images show, and so how they are prepared and which model is for them: the table ``modalities.json``.

=====================  ================================================================================================
key of a row           meaning
=====================  ================================================================================================
``title``              for people
``words``              folder names that state it, beside its own name; compared without case
``dicom_modalities``   values of DICOM Modality (0008,0060)
``body_parts``         values of Body Part Examined (0018,0015), upper case; empty: any
``colour``             whether colour matters; where not, it is averaged away
``fit``                how a slice becomes a square: ``pad`` with black, or ``stretch``
``intensity``          ``{"window": [low, high]}`` in Hounsfield units, or ``{"percentile": [0.5, 99.5]}``
=====================  ================================================================================================

Where DICOM values fit several rows, the order of the table decides. What was published of such images is another
table, `invad_med.data.published_sets`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from invad_med.data.slices import PERCENTILES


@dataclass(frozen=True)
class Window:
    """Hounsfield units that become 0 and 1; what is outside is clipped.

    Raises:
        ValueError: ``high`` is not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"window {self.low:g} to {self.high:g}: the second must be the higher one")


@dataclass(frozen=True)
class Percentile:
    """Percentiles of the whole source's values that become 0 and 1; what is outside is clipped.

    Raises:
        ValueError: others than those that a reader puts into `Slice.value_range`.
    """

    low: float = PERCENTILES[0]
    high: float = PERCENTILES[1]

    def __post_init__(self) -> None:
        if (self.low, self.high) != PERCENTILES:
            raise ValueError(f"percentiles {self.low:g} and {self.high:g}: readers measure {PERCENTILES} alone")


@dataclass(frozen=True)
class Modality:
    """What a kind of image needs; the module's table explains each field."""

    name: str
    title: str
    words: tuple[str, ...] = ()
    dicom_modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    colour: bool = False
    fit: Literal["pad", "stretch"] = "pad"
    intensity: Window | Percentile = Percentile()

    def allows(self, dicom_modality: str, body_part: str | None) -> bool:
        """Return whether DICOM values leave it possible: they name it, or the body part is left open."""
        return dicom_modality in self.dicom_modalities and self.fits(body_part)

    def fits(self, body_part: str | None) -> bool:
        """Return whether Body Part Examined (0018,0015) leaves it possible: it is one of its own, or left open."""
        return not (self.body_parts and body_part) or str(body_part).upper() in self.body_parts


@cache
def all_modalities() -> dict[str, Modality]:
    """Return the table, name -> row, in its order; a row that is put into it is known from then on."""
    table = json.loads(Path(__file__).with_name("modalities.json").read_text(encoding="utf-8"))
    return {name: _modality(name, row) for name, row in table.items()}


def _modality(name: str, row: dict[str, Any]) -> Modality:
    ((kind, (low, high)),) = row["intensity"].items()
    intensity = {"window": Window, "percentile": Percentile}[kind](low, high)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Modality(name=name, **(values | {"intensity": intensity}))


def find_modality(name: str) -> Modality | None:
    """Return the modality of a name or word (case-insensitive), or None."""
    said = name.casefold()
    for modality in all_modalities().values():
        if said in {modality.name.casefold(), *(word.casefold() for word in modality.words)}:
            return modality
    return None


def require_modality(name: str) -> Modality:
    """Return the modality of a name or word.

    Raises:
        ValueError: there is none; names the choices and the nearest.
    """
    modality = find_modality(name)
    if modality is None:
        names = [word for row in all_modalities().values() for word in (row.name, *row.words)]
        near = difflib.get_close_matches(name.casefold(), names, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"modality {name!r} is none of {', '.join(all_modalities())}{meant}")
    return modality


def how_to_state(alone: bool = True) -> str:
    """Return what a user does about a data set that does not say what it shows.

    Args:
        alone: whether the program takes a modality for one data set.
    """
    names, manifest = ", ".join(all_modalities()), 'write {"modality": "NAME"} into its manifest.json'
    return f"{'give it alone with --modality NAME, or ' if alone else ''}{manifest}; NAME: {names}"


def modality_for_dicom(
    dicom_modality: str | None, body_part: str | None, available: Collection[str] | None = None
) -> Modality | None:
    """Return the modality of a DICOM image by Modality (0008,0060) and Body Part Examined (0018,0015), or None.

    Of several that they name, it is the first in the table's order that is ``available``, else the first.

    Args:
        dicom_modality, body_part: the values, None where absent. A row with body parts needs one of them.
        available: names of the modalities there is a model for; None: all.
    """
    part = (body_part or "").upper()
    named = [
        modality
        for modality in all_modalities().values()
        if dicom_modality in modality.dicom_modalities and (not modality.body_parts or part in modality.body_parts)
    ]
    usable = [modality for modality in named if available is None or modality.name in available]
    return next(iter(usable or named), None)
