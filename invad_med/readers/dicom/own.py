"""DICOM objects that this program wrote, told by what the usual ways of removing identity leave in place.

| object | told by |
|---|---|
| all but overlays | Manufacturer (0008,0070), which the Basic Profile of PS3.15 keeps |
| overlays, copies of the source | the last value of Image Type (0008,0008), the label of the overlay (60xx,1500), |
| | the contributing equipment (0018,A001) |
| all | the beginning of Derivation Description (0008,2111) |
"""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from invad_med.readers.dicom.values import text, texts

MANUFACTURER = "invad-med"
RESEARCH = "RESEARCH USE ONLY, not for diagnosis"  # begins Derivation Description of every object of a result
OVERLAY_TYPE = "INVAD_OVERLAY"
OVERLAY_LABEL = "Anomaly (research)"
TAGS: list[Any] = ["Manufacturer", "ContributingEquipmentSequence", "DerivationDescription", "ImageType"]
TAGS += [group << 16 | 0x1500 for group in range(0x6000, 0x6020, 2)]


def is_own(ds: Dataset) -> bool:
    """Return whether a header, read with at least `TAGS`, is that of an object of a result."""
    if text(ds, "Manufacturer") == MANUFACTURER.upper() or OVERLAY_TYPE in (texts(ds, "ImageType") or ()):
        return True
    if str(ds.get("DerivationDescription") or "").startswith(f"{RESEARCH}. Anomaly map by InvAD"):
        return True
    labels = [ds[tag].value for tag in TAGS if isinstance(tag, int) and tag in ds]
    if any(str(label).strip() == OVERLAY_LABEL for label in labels):
        return True
    equipment = ds.get("ContributingEquipmentSequence") or []
    return any(text(item, "Manufacturer") == MANUFACTURER.upper() for item in equipment)
