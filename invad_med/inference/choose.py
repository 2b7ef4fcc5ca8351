"""Which modality an input is of, and so which model scores it, and what said so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from invad_med.data.modalities import Modality, find_modality, modality_for_dicom, require_modality
from invad_med.data.prediction import ChosenBy
from invad_med.data.slices import Source


@dataclass(frozen=True)
class Choice:
    """The modality of an input, or why there is none.

    Args:
        modality: what it shows, or None.
        chosen_by: what said so; None without a modality.
        reason: why there is none, for the user's table.
    """

    modality: Modality | None
    chosen_by: ChosenBy | None = None
    reason: str | None = None


def choose_modality(
    source: Source, named: str | None = None, default: str | None = None, available: Collection[str] | None = None
) -> Choice:
    """Choose the modality whose model is to score a source.

    What the user states (``named``, else a folder of that name) holds unless DICOM Modality (0008,0060)
    or Body Part Examined (0018,0015) contradict it; then, and where nothing is stated, they decide; of several
    modalities that they leave possible, the first of the table that there is a model for. Only files that say nothing
    at all go to the default.

    Args:
        source: what was found.
        named: modality that the user gave.
        default: modality of the default model.
        available: names of the modalities there is a model for; None: all.

    Raises:
        ValueError: ``named`` or ``default`` is no modality.
    """
    if source.unfit:
        return Choice(None, None, source.unfit)
    said_by = ChosenBy.OPTION if named else ChosenBy.FOLDER
    stated = require_modality(named) if named else find_modality(source.stated_modality or "")
    if source.modality is None:
        chosen = stated or (require_modality(default) if default is not None else None)
        if chosen is None:
            return Choice(None, None, "nothing says what the image shows: give --modality")
        if not chosen.fits(source.body_part):
            reason = f"body part {source.body_part} contradicts {chosen.title}, and no DICOM modality is stated"
            return Choice(None, None, reason)
        return Choice(chosen, said_by if stated is not None else ChosenBy.DEFAULT)
    if stated is not None and stated.allows(source.modality, source.body_part):
        return Choice(stated, said_by)
    tagged = modality_for_dicom(source.modality, source.body_part, available)
    if tagged is not None:
        return Choice(tagged, ChosenBy.DICOM)
    part = f"body part {source.body_part}" if source.body_part else "no body part stated"
    return Choice(None, None, f"no model for DICOM modality {source.modality}, {part}")
