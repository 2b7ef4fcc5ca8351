"""A copy of a source without identity: only what draws the image and places it is kept.

What is kept is listed, not what is removed (after PS3.15 E.1, stricter): numbers, coded words and pixel data; UIDs
are replaced, the same by the same within a run; names, dates, times, free text, private elements and overlays go, and
whatever is said of the patient, of persons, institutions, visits and requests, also as codes: a code can be somebody's
number. Elements that must be present stay, empty. Burned-in text cannot be removed: an image that declares it is
refused.

What replaces a UID is a digest of it and of a secret, without which nobody can test a guess: new in every run, or the
user's own, from the environment variable `SECRET`, where UIDs shall be the same in every run.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from invad_med.readers.dicom.stored import has_burned_in_text
from invad_med.writers.dicom.evidence import Refused, clean

SECRET = "INVAD_UID_SECRET"  # a variable and no key: those are printed and logged
_SHORTEST = 32  # characters; of hexadecimal digits that is 128 bits
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
    """Takes identity from datasets.

    Args:
        secret: what UIDs are mixed with. A given one makes the new UIDs the same in every run.
    """

    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def mark(self) -> str:
        """What is the same for the same secret and another for another, and from which nobody learns it."""
        return hmac.new(self.secret.encode(), b"mark of a secret", "sha256").hexdigest()

    def uid(self, old: str) -> UID:
        """Return the UID that stands for another; those of the standard itself stay."""
        if old.startswith("1.2.840.10008."):
            return UID(old)
        return generate_uid(entropy_srcs=[hmac.new(self.secret.encode(), old.encode(), "sha256").hexdigest()])

    def __call__(self, ds: Dataset) -> Dataset:
        """Return a copy without identity.

        Raises:
            Refused: Burned In Annotation (0028,0301) is YES.
        """
        if has_burned_in_text(ds):
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


def own_secret() -> str:
    """Return the user's secret from the environment, which no message quotes.

    Raises:
        ValueError: there is none, or it is too short to keep a guess from being tested.
    """
    secret = os.environ.get(SECRET, "").strip()
    if len(secret) >= _SHORTEST:
        return secret
    found = f"holds {len(secret)} characters, fewer than {_SHORTEST}" if secret else "is not set"
    raise ValueError(
        f"anonymize with deterministic_uids needs a secret of your own, else anybody could test a guess of an original "
        f"UID; the environment variable {SECRET} {found}. Make one once with\n"
        '  python -c "import secrets; print(secrets.token_hex(32))"\n'
        f"keep it where only you can read it, and export it as {SECRET} in every run whose UIDs shall agree; without "
        "deterministic_uids, UIDs are new in every run and no secret is needed"
    )
