"""What the header says against scoring an image at all, and what a reader of its score should know.

| stated in Image Type (0008,0008), in the frames' types, or by the planes | consequence |
|---|---|
| a mosaic: many slices in one picture | not scored |
| a localiser, scout, topogram or survey; planes in three directions in one series or file | not scored |
| a map or projection derived from images (ADC, phase, perfusion, MIP, subtraction ...) | scored, noted |
| CT, MR or PET in another plane than axial | scored, noted |
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
_FEW = 20  # slices of one plane at most in a localiser
_SLICED = {"CT", "MR", "PT"}
_AXIAL = 0.8  # least share of the normal along the body: within about 37 degrees


def unfit(ds: Dataset) -> str | None:
    """Return why an image must not be scored, or None."""
    words = kinds_of(ds)
    if "MOSAIC" in words:
        return "not scored: a mosaic holds many slices in one picture; split it into slices first"
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


def notes(ds: Dataset, orientation: Iterable[float] | None) -> tuple[str, ...]:
    """Return sentences for the table on what an image is and how it was read."""
    modality, result = text(ds, "Modality"), []
    derived = [_DERIVED[w] for w in kinds_of(ds) if w in _DERIVED and (modality == "MR" or w not in _PARTS)]
    if derived:
        result.append(f"{derived[0]}, not the image itself, on which the models were trained")
    if modality in _SLICED and orientation is not None:
        result += [note] if (note := plane_note(orientation)) else []
    if number(ds, "RescaleSlope") == 0:
        result.append("Rescale Slope (0028,1053) is 0: values are taken as they are stored")
    return tuple(result)


def plane_note(orientation: Iterable[float]) -> str | None:
    """Return what to say of slices in another plane than axial, or None."""
    orientation = list(orientation)
    normal = normal_of(orientation)
    length = float(np.linalg.norm(normal))
    if length < 0.1 or abs(normal[2]) / length >= _AXIAL:
        return None
    return said_of_plane(plane_of_body(orientation) or "oblique")


def said_of_plane(plane: str) -> str:
    """Return the sentence on slices of a plane that no model was trained on."""
    plane = "oblique" if plane == "axial" else plane
    return f"{plane} slices, while the models were trained on axial ones"


def kinds_of(ds: Dataset) -> list[str]:
    """Return the words of Image Type and of the frames' types, in upper case."""
    words = list(texts(ds, "ImageType") or ())
    groups = [*(ds.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += [*(ds.get("PerFrameFunctionalGroupsSequence") or [])[:1]]
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.keyword.endswith("FrameTypeSequence") and element.value:
                words += texts(element.value[0], "FrameType") or ()
    words += [w for k in ("ComplexImageComponent", "VolumetricProperties") if (w := text(ds, k))]
    return [w for w in words if w]
