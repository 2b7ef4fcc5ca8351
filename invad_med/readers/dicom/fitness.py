"""What the header says against scoring an image at all, and what a reader of its score should know.

| stated in Image Type (0008,0008), in the frames' types, or by the planes | consequence |
|---|---|
| a mosaic: many slices in one picture | not scored |
| a localiser, scout, topogram or survey; planes in three directions in one series or file | not scored |
| a map or projection derived from images (ADC, phase, perfusion, MIP, subtraction ...) | scored, noted |
| the label or overview of a slide | not scored |
| CT, MR or PET in another plane than axial, or in an axial one turned or mirrored | scored, noted |
| CT, MR or PET as secondary capture: pictures of screens, protocols, dose reports | scored, noted |
| CT that is not said to be in Hounsfield units | scored on its own scale, noted |
| CR or DX that is a lateral or oblique view, lies on its side, is mirrored, or raw detector values | scored, noted |
| Presentation LUT Shape that contradicts Photometric Interpretation | the latter holds, noted |
| Rescale Slope 0 | values as stored, noted |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from pydicom.dataset import Dataset

from invad_med.readers.dicom.stacks import normal_of, plane_of_body
from invad_med.readers.dicom.values import number, text, texts

_LOCALISERS = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVEY", "SURVIEW", "SCANOGRAM"}
_DERIVED = {
    "ADC": "an apparent diffusion coefficient map", "EADC": "a diffusion map", "FA": "a fractional anisotropy map",
    "DIFFUSION_ANISO": "a fractional anisotropy map", "TENSOR": "a diffusion tensor map", "P": "a phase image",
    "PHASE": "a phase image", "PHASE MAP": "a phase image", "REAL": "the real part of a complex image",
    "IMAGINARY": "the imaginary part of a complex image", "R": "the real part of a complex image",
    "I": "the imaginary part of a complex image", "VELOCITY": "a velocity map", "PERFUSION": "a perfusion map",
    "CBF": "a perfusion map", "CBV": "a perfusion map", "RCBF": "a perfusion map", "RCBV": "a perfusion map",
    "MTT": "a perfusion map", "TTP": "a perfusion map", "TMAX": "a perfusion map", "GBP": "a perfusion map",
    "T1 MAP": "a T1 map", "T2 MAP": "a T2 map", "T2_STAR MAP": "a T2* map", "T2* MAP": "a T2* map",
    "R2 MAP": "an R2 map", "R2_STAR MAP": "an R2* map", "MIP": "an intensity projection",
    "MINIP": "an intensity projection", "MNIP": "an intensity projection", "MAX_IP": "an intensity projection",
    "MIN_IP": "an intensity projection", "PROJECTION IMAGE": "an intensity projection",
    "MAX INTENSITY PROJECTION": "an intensity projection", "SUBTRACT": "a subtraction", "SUB": "a subtraction",
    "SUBTRACTION": "a subtraction", "FIELD_MAP": "a field map", "SWI": "a susceptibility image",
    "VOLUME_RENDER": "a rendering of a volume", "VRT": "a rendering of a volume", "SSD": "a rendering of a surface",
}  # fmt: skip
_PARTS = {"P", "R", "I", "REAL", "IMAGINARY", "PHASE", "PHASE MAP", "VELOCITY", "ADC"}  # meant so in MR alone
_VIEWS = {
    "LL": "a lateral", "RL": "a lateral", "LATERAL": "a lateral", "LAT": "a lateral", "RAO": "an oblique",
    "LAO": "an oblique", "RPO": "an oblique", "LPO": "an oblique", "RLO": "an oblique", "LLO": "an oblique",
    "LLD": "a decubitus", "RLD": "a decubitus",
}  # fmt: skip
_TURNED = {
    ("R", "F"): "mirrored left to right", ("L", "H"): "mirrored top to bottom", ("R", "H"): "upside down",
}  # fmt: skip
_TOWARDS = (("left", "right"), ("back", "front"), ("head", "feet"))  # along x, y, z of the patient, and against
_FILMS = {"CR", "DX"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and those of several frames, .1 to .4
_FEW = 20  # slices of one plane at most in a localiser
_SLICED = {"CT", "MR", "PT"}
_AXIAL = 0.8  # least share of the normal along the body: within about 37 degrees


def unfit(ds: Dataset, frames: Iterable[int] = (0,)) -> str | None:
    """Return why an image, or frames (0-based) of it, must not be scored, or None."""
    words = kinds_of(ds, frames)
    if "MOSAIC" in words:
        return "not scored: a mosaic holds many slices in one picture; split it into slices first"
    if text(ds, "Modality") == "SM" and {"LABEL", "OVERVIEW"} & set(words):
        return "not scored: the label or overview of a slide, not its tissue"
    if any(word in _LOCALISERS for kind in words for word in re.split(r"[ _]", kind)):
        return "not scored: a localiser, which is made to plan a scan"
    return None


def is_localiser(planes: Iterable[Sequence[float]]) -> bool:
    """Return whether the slices of one series point in three directions at right angles, few in each, as a localiser's.

    Args:
        planes: Image Orientation (Patient) of every slice.
    """
    normals: list[np.ndarray] = []
    count: list[int] = []
    for plane in planes:
        normal = normal_of(plane)
        near = [abs(float(normal @ other)) for other in normals]
        if all(n < 0.3 for n in near):
            normals.append(normal)
            count.append(0)
            near.append(1.0)
        count[int(np.argmax(near))] += 1
    return len(normals) >= 3 and max(count) <= _FEW


PLANES = "not scored: planes of three directions in one series, as in a localiser"


def notes(ds: Dataset, orientation: Iterable[float] | None, frames: Iterable[int] = (0,)) -> tuple[str, ...]:
    """Return sentences for the table on what an image, or frames (0-based) of it, is and how it was read."""
    modality, result = text(ds, "Modality"), []
    derived = [_DERIVED[w] for w in kinds_of(ds, frames) if w in _DERIVED and (modality == "MR" or w not in _PARTS)]
    if derived:
        result.append(f"{derived[0]}, not the image itself, on which the models were trained")
    if modality in _SLICED and orientation is not None:
        result += [note] if (note := plane_note(orientation) or turned_note(orientation)) else []
    if modality in _SLICED and str(ds.get("SOPClassUID") or "").startswith(_SECONDARY_CAPTURE):
        result.append("a secondary capture, such as a picture of a screen or of a report, not the image itself")
    if modality == "CT" and not _in_hounsfield_units(ds):
        result.append("CT that is not said to be in Hounsfield units: shown between its own percentiles")
    if modality in _FILMS:
        result += _notes_on_film(ds)
    shown = text(ds, "PhotometricInterpretation"), text(ds, "PresentationLUTShape")
    if shown in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        result.append(
            f"Photometric Interpretation {shown[0]} and Presentation LUT Shape {shown[1]} contradict each other: "
            "bright and dark may be exchanged"
        )
    if number(ds, "RescaleSlope") == 0:
        result.append("Rescale Slope (0028,1053) is 0: values are taken as they are stored")
    return tuple(result)


def _in_hounsfield_units(ds: Dataset) -> bool:
    """Return whether values are Hounsfield units; of enhanced images, whose frames have their own, it is taken so."""
    if "SharedFunctionalGroupsSequence" in ds or "PerFrameFunctionalGroupsSequence" in ds:
        return True
    known = number(ds, "RescaleSlope") is not None and number(ds, "RescaleIntercept") is not None
    return known and "ModalityLUTSequence" not in ds and text(ds, "RescaleType") in (None, "HU", "US")


def _notes_on_film(ds: Dataset) -> list[str]:
    """Return what to say of a radiograph that is no upright frontal one, or no picture yet."""
    result = []
    view = text(ds, "ViewPosition") or ""
    along = tuple(word[:1] for word in texts(ds, "PatientOrientation") or ())
    if view in _VIEWS:
        result.append(f"{_VIEWS[view]} view (View Position {view}), while the models were trained on frontal ones")
    elif len(along) == 2 and set(along) & {"A", "P"}:
        result.append("a lateral view by its Patient Orientation, while the models were trained on frontal ones")
    elif len(along) == 2 and set(along) <= {"L", "R", "H", "F"} and along != ("L", "F"):
        how = _TURNED.get(along, "lying on its side")
        result.append(f"{how} by its Patient Orientation; it is shown as it is stored")
    if text(ds, "PresentationIntentType") == "FOR PROCESSING":
        result.append("raw detector values (FOR PROCESSING), not the image that is made of them")
    return result


def turned_note(orientation: Iterable[float]) -> str | None:
    """Return what to say of axial slices that are turned in their plane by more than 37 degrees, or mirrored."""
    vectors = np.asarray(list(orientation), dtype=np.float64).reshape(2, 3)
    if not np.linalg.norm(vectors, axis=1).all() or (vectors[0, 0] >= _AXIAL and vectors[1, 1] >= _AXIAL):
        return None
    axes = np.abs(vectors).argmax(axis=1)
    row, column = (_TOWARDS[axis][int(vectors[k, axis] < 0)] for k, axis in enumerate(axes))
    return (
        f"turned or mirrored: rows run to the patient's {row}, columns to the {column}, while the models were trained "
        "on slices whose rows run to the left and columns to the back"
    )


def plane_note(orientation: Iterable[float]) -> str | None:
    """Return what to say of slices in another plane than axial, or None."""
    orientation = list(orientation)
    normal = normal_of(orientation)
    length = float(np.linalg.norm(normal))
    if length < 0.1 or abs(normal[2]) / length >= _AXIAL:
        return None
    return said_of_plane(plane_of_body(orientation) or "oblique")


def ascends(orientation: Iterable[float] | None) -> bool:
    """Return whether slices in order along their normal go from feet to head: axial ones whose normal points there.

    Args:
        orientation: Image Orientation (Patient), or None, of which it is taken so.
    """
    if orientation is None:
        return True
    orientation = list(orientation)
    return plane_note(orientation) is None and bool(normal_of(orientation)[2] >= 0.0)


def said_of_plane(plane: str) -> str:
    """Return the sentence on slices of a plane that no model was trained on."""
    plane = "oblique" if plane == "axial" else plane
    return f"{plane} slices, while the models were trained on axial ones"


def kinds_of(ds: Dataset, frames: Iterable[int] = (0,)) -> list[str]:
    """Return the words of Image Type and of the types of frames (0-based), in upper case, each once."""
    words = list(texts(ds, "ImageType") or ())
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(ds.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += [per_frame[frame] for frame in frames if frame < len(per_frame)]
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.keyword.endswith("FrameTypeSequence") and element.value:
                words += texts(element.value[0], "FrameType") or ()
    words += [w for k in ("ComplexImageComponent", "VolumetricProperties") if (w := text(ds, k))]
    return list(dict.fromkeys(w for w in words if w))
