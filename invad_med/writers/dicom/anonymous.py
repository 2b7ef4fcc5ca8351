"""A copy of a source without identity: only what draws the image and places it is kept.

What is kept is listed, not what is removed (after PS3.15 E.1, stricter): numbers, coded words and pixel data; UIDs
are replaced, the same by the same within a run; names, dates, times, free text, private elements and overlays go, and
whatever is said of the patient, of persons, institutions, visits and requests, also as codes: a code can be somebody's
number. Elements that must be present stay, empty. Burned-in text cannot be removed: an image that declares it is
refused.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from invad_med.writers.dicom.evidence import Refused, clean

_METHOD = "invad-med: identity, dates, text and private data removed, UIDs new"
_KEPT = {"CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "AT", "OW", "OF", "OD", "OL"}
_BYTES = {"PixelData", "ICCProfile", "FileMetaInformationVersion"}  # of VR OB, which can hold anything
_GROUPS = {
    0x0010,
    0x0012,
    0x0032,
    0x0038,
    0x0400,
    0x4008,
    0xFFFC,
}  # patient, trial, request, visit, signatures, padding
_OF_PEOPLE = re.compile(
    "Physician|Person|Operator|Observer|Performer|Staff|Author|Creator|Custodia|Recipient|Participant|Owner"
    "|Institution|Department|Organization|Agency|Station|Geographic|IssuerOf|Patient.*(Alias|Photo|ID|Identif)"
    "|ReferencedPatientSequence|Group.*Identification|AdmittingDiagnos|ReasonFor|Interpretation|Visit|Schedul|Request"
    "|PerformedProcedure|PlacerIdent|FillerIdent|Accession|CodingSchemeIdentification|OriginalAttributes"
)  # keywords of sequences
_CODES = {"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"}
_TEXT = {"RescaleType", "LUTExplanation"}
_DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
_MUST = {"AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime"}  # type 1, if they are there


@dataclass(frozen=True)
class Anonymiser:
    """Takes identity from datasets of one run.

    Args:
        salt: what UIDs are mixed with; a secret of the run, so that nobody can test a guess. A given one makes the
            new UIDs the same in every run.
    """

    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def uid(self, old: str) -> UID:
        """Return the UID that stands for another; those of the standard itself stay."""
        return UID(old) if old.startswith("1.2.840.10008.") else generate_uid(entropy_srcs=[self.salt, old])

    def __call__(self, ds: Dataset) -> Dataset:
        """Return a copy without identity.

        Raises:
            Refused: Burned In Annotation (0028,0301) is YES.
        """
        if str(ds.get("BurnedInAnnotation") or "").strip().upper() == "YES":
            raise Refused("Burned In Annotation (0028,0301) is YES: text in the pixels cannot be made anonymous")
        result = self._kept(ds)
        if hasattr(ds, "file_meta"):
            result.file_meta = ds.file_meta
        clean(result)
        result.PatientIdentityRemoved, result.DeidentificationMethod = "YES", _METHOD
        result.LongitudinalTemporalInformationModified = "REMOVED"
        return result

    def _kept(self, ds: Dataset, codes: bool = False) -> Dataset:
        result = Dataset()
        for element in ds:
            keyword, vr, group = element.keyword, element.VR, element.tag.group
            if element.tag.is_private or 0x6000 <= group < 0x6100 or group in _GROUPS or not keyword:
                continue
            if vr == "SQ" and _OF_PEOPLE.search(keyword) and element.value != []:
                continue
            if vr == "SQ":
                items = [self._kept(item, "CodeValue" in item) for item in element.value]
                if element.value == [] or any(len(i) for i in items):
                    result.add_new(element.tag, "SQ", [i for i in items if len(i)])
            elif vr == "UI":
                found = element.value
                many = not isinstance(found, str) and found is not None
                new = [self.uid(str(u)) for u in found] if many else self.uid(str(found)) if found else ""
                result.add_new(element.tag, "UI", new)
            elif vr in _KEPT or keyword in _BYTES or keyword in _TEXT or (codes and keyword in _CODES):
                result.add(element)
            elif keyword in _MUST:
                result.add_new(element.tag, vr, _DUMMY[vr])
        return result
