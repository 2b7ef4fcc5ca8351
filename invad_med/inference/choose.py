"""Which data set's model an input belongs to, and what said so."""

from __future__ import annotations

from dataclasses import dataclass

from invad_med.data.datasets import DatasetFacts, all_datasets, dataset_for_dicom, find_dataset
from invad_med.data.slices import Source


@dataclass(frozen=True)
class Choice:
    """The data set of an input, or why there is none.

    Args:
        facts: the data set, or None.
        chosen_by: ``dicom``, ``option``, ``folder`` or ``default``; None without a data set.
        reason: why there is none, for the user's table.
    """

    facts: DatasetFacts | None
    chosen_by: str | None = None
    reason: str | None = None


def choose_dataset(source: Source, modality: str | None = None, default: str | None = None) -> Choice:
    """Choose the data set whose model is to score a source.

    What the user states (``modality``, else a folder named after a data set) holds unless DICOM Modality (0008,0060)
    or Body Part Examined (0018,0015) contradict it; then, and where nothing is stated, they decide. Only files that
    say nothing at all go to the default.

    Args:
        source: what was found.
        modality: data set's name or alias that the user gave.
        default: data set of the default model.

    Raises:
        ValueError: ``modality`` names no data set.
    """
    if modality is not None and find_dataset(modality) is None:
        raise ValueError(f"modality={modality!r} names no data set: choose one of {', '.join(all_datasets())}")
    if source.unfit:
        return Choice(None, None, source.unfit)
    stated, said_by = (modality, "option") if modality else (source.stated_dataset, "folder")
    facts = find_dataset(stated) if stated else None
    if source.modality is None:
        if facts is not None:
            return Choice(facts, said_by)
        if default is not None:
            return Choice(find_dataset(default), "default")
        return Choice(None, None, "nothing says what the image shows: give --modality")
    if facts is not None and _fits(facts, source):
        return Choice(facts, said_by)
    tagged = dataset_for_dicom(source.modality, source.body_part)
    if tagged is not None:
        return Choice(tagged, "dicom")
    part = f"body part {source.body_part}" if source.body_part else "no body part stated"
    return Choice(None, None, f"no model for DICOM modality {source.modality}, {part}")


def _fits(facts: DatasetFacts, source: Source) -> bool:
    """Return whether DICOM tags leave a stated data set possible."""
    right_part = not (facts.body_parts and source.body_part) or source.body_part in facts.body_parts
    return source.modality in facts.dicom_modalities and right_part
