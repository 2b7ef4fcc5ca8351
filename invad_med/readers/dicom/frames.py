"""The frames of a multi-frame file as acquisitions, each in order of position (PS3.3 C.7.6.16 and C.8.17.10).

Where a frame lies, in this order of preference:

| stated | position |
|---|---|
| Plane Position and Plane Orientation Sequence of every frame | in the patient, mm |
| In-Stack Position Number (0020,9057) of every frame | that number |
| Ophthalmic Frame Location Sequence (0022,0031) of parallel lines | along their perpendicular |
| none of these | frames keep their stored order, as one acquisition |

What is compared beyond that is in `invad_med.readers.dicom.stacks`: temporal position, echo, b-value, frame type and
every dimension (0020,9222) that is no position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from invad_med.data.slices import Source
from invad_med.readers.dicom.stacks import Place, Stack, Value, divide
from invad_med.readers.dicom.values import number, numbers, text, texts

_SPATIAL = {
    0x00200032, 0x00200037, 0x00209056, 0x00209057, 0x00201041, 0x00209113, 0x00209116, 0x00209301, 0x00209453,
    0x00220031, 0x00220032, 0x0048021E, 0x0048021F, 0x0040072A, 0x0040073A, 0x0040074A,
}  # fmt: skip
_NUMBERS = (  # trait, functional group, attribute
    ("echo_time", "MREchoSequence", "EffectiveEchoTime"),
    ("time", "FrameContentSequence", "TemporalPositionIndex"),
    ("b", "MRDiffusionSequence", "DiffusionBValue"),
    ("trigger", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("frame_time", "TemporalPositionSequence", "TemporalPositionTimeOffset"),
    ("flip", "MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("repetition", "MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    ("kvp", "CTXRayDetailsSequence", "KVP"),
    ("inversion_time", "MRModifierSequence", "InversionTimes"),
    ("thickness", "PixelMeasuresSequence", "SliceThickness"),
)
_FRAME_TYPES = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence", "XRay3DFrameTypeSequence",
    "MRSpectroscopyFrameTypeSequence", "IVOCTFrameTypeSequence", "OphthalmicFrameTypeSequence",
)  # fmt: skip


def functional_group(ds: Dataset, frame: int, name: str) -> Dataset | None:
    """Return one functional group of a stored frame (its own, else the shared one), or None."""
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *(ds.get("SharedFunctionalGroupsSequence") or [])[:1]):
        if groups.get(name):
            return groups[name][0]
    return None


def orientation_of(ds: Dataset, frame: int) -> tuple[float, ...] | None:
    """Return Image Orientation (Patient) of a stored frame of an enhanced file, or None."""
    plane = functional_group(ds, frame, "PlaneOrientationSequence")
    return None if plane is None else numbers(plane, "ImageOrientationPatient", 6)


def frame_stacks(ds: Dataset, count: int) -> list[Stack]:
    """Return the acquisitions of a file of ``count`` frames; members are stored frames, 0-based."""
    stored = [Stack(tuple(range(count)))]
    if count < 2 or len(ds.get("PerFrameFunctionalGroupsSequence") or []) != count:
        return stored
    where = _in_patient(ds, count) or _in_stack(ds, count) or _on_fundus(ds, count)
    if where is None:
        return stored
    declared = _dimensions(ds)
    places = []
    for frame, (orientation, position) in enumerate(where):
        measures = functional_group(ds, frame, "PixelMeasuresSequence") or Dataset()
        spacing = numbers(measures, "PixelSpacing", 2)
        places.append(
            Place(
                orientation=orientation,
                position=position,
                spacing=None if spacing is None else (spacing[0], spacing[1]),
                thickness=number(measures, "SliceThickness"),
                traits=_traits(ds, frame, declared),
                orders=_orders(ds, frame),
                tie=(frame,),
            )
        )
    return divide(places)


def frame_order(ds: Dataset, count: int) -> list[int]:
    """Return all stored frames of a file, 0-based, one acquisition after the other."""
    return [frame for stack in frame_stacks(ds, count) for frame in stack.members]


def frames_of(ds: Dataset, source: Source, count: int) -> list[int]:
    """Return the stored frames that are a source's slices, in their order."""
    return list(source.frames) if source.frames is not None else frame_order(ds, count)


_Where = list[tuple[tuple[float, ...] | None, tuple[float, float, float]]]


def _in_patient(ds: Dataset, count: int) -> _Where | None:
    result: _Where = []
    for frame in range(count):
        place = functional_group(ds, frame, "PlanePositionSequence")
        plane = functional_group(ds, frame, "PlaneOrientationSequence")
        if place is None or plane is None:
            return None
        position = numbers(place, "ImagePositionPatient", 3)
        orientation = numbers(plane, "ImageOrientationPatient", 6)
        if position is None or orientation is None:
            return None
        result.append((orientation, (position[0], position[1], position[2])))
    return result


def _in_stack(ds: Dataset, count: int) -> _Where | None:
    return _numbered(count, lambda f: number(functional_group(ds, f, "FrameContentSequence"), "InStackPositionNumber"))


def _on_fundus(ds: Dataset, count: int) -> _Where | None:
    lines = []
    for frame in range(count):
        place = functional_group(ds, frame, "OphthalmicFrameLocationSequence")
        line = None if place is None else numbers(place, "ReferenceCoordinates", 4)
        if line is None:
            return None
        lines.append(np.array(line))
    along = np.array([line[2:] - line[:2] for line in lines])
    lengths = np.linalg.norm(along, axis=1, keepdims=True)
    if (lengths == 0).any():
        return None
    along = along / lengths
    if (np.abs(along @ along[0]) < 0.999).any():
        return None  # radial scans have no order along a perpendicular
    across = np.array([along[0][1], -along[0][0]])
    across = across if across[np.argmax(np.abs(across))] > 0 else -across
    return _numbered(count, lambda f: float(across @ lines[f][:2]))


def _numbered(count: int, of: Callable[[int], float | None]) -> _Where | None:
    values = [of(frame) for frame in range(count)]
    if any(v is None for v in values):
        return None
    return [(None, (0.0, 0.0, float(v))) for v in values if v is not None]


def _dimensions(ds: Dataset) -> list[tuple[int, str]]:
    """Return which of the dimension index values are no positions, and what they are called."""
    items = ds.get("DimensionIndexSequence") or []
    pointers = [int(item.get("DimensionIndexPointer") or 0) for item in items]
    return [(i, f"dimension {i}") for i, pointer in enumerate(pointers) if pointer and pointer not in _SPATIAL]


def _traits(ds: Dataset, frame: int, declared: list[tuple[int, str]]) -> dict[str, Value]:
    traits: dict[str, Value] = {trait: number(_of(ds, frame, name), keyword) for trait, name, keyword in _NUMBERS}
    content = _of(ds, frame, "FrameContentSequence")
    traits["side"] = text(_of(ds, frame, "FrameAnatomySequence"), "FrameLaterality")
    traits["stack"] = text(content, "StackID")
    traits["kernel"] = text(_of(ds, frame, "CTReconstructionSequence"), "ConvolutionKernel")
    kinds = [item for name in _FRAME_TYPES if (item := _of(ds, frame, name)) is not None]
    traits["image_type"] = texts(kinds[0], "FrameType") if kinds else None
    traits["component"] = text(kinds[0], "ComplexImageComponent") if kinds else None
    gradient = (_of(ds, frame, "MRDiffusionSequence") or Dataset()).get("DiffusionGradientDirectionSequence")
    traits["direction"] = numbers(gradient[0], "DiffusionGradientOrientation", 3) if gradient else None
    index = _values(content, "DimensionIndexValues")
    for position, name in declared:
        traits[name] = float(index[position]) if position < len(index) else None
    return traits


def _orders(ds: Dataset, frame: int) -> dict[str, float | str | None]:
    content = _of(ds, frame, "FrameContentSequence")
    return {
        "acquisition": number(content, "FrameAcquisitionNumber"),
        "acquired": text(content, "FrameAcquisitionDateTime"),
        "content": text(content, "FrameReferenceDateTime"),
        "number": float(frame),
    }


def _of(ds: Dataset, frame: int, name: str) -> Dataset | None:
    return functional_group(ds, frame, name)


def _values(item: Dataset | None, keyword: str) -> list[Any]:
    value = None if item is None else item.get(keyword)
    if value is None:
        return []
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
