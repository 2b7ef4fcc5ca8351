"""Where the frames of a written object lie: each where its slice lies, with its own spacing, in ascending order.

highdicom (0.28) takes orientation, spacing and thickness of the first source image for all frames, and leaves frames in
an order of its own. The standard leaves the order free and states the place of each; OHIF 3.12.10 lays frames over its
volume in stored order without looking at that, so ours ascend along the normal of the planes (row cross column).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from invad_med.readers.dicom.frames import functional_group
from invad_med.readers.dicom.values import number, numbers
from invad_med.writers.dicom.common import Author
from invad_med.writers.dicom.evidence import Evidence, Refused


def as_one_plane(evidence: Evidence) -> list[Dataset]:
    """Return the source images as highdicom takes them: of one pixel, orientation and measures of the first for all.

    It refuses images whose cosines differ in a late decimal, and wants what frames share in the shared groups.
    `put_in_place` gives each frame its own again. Of one pixel, so that it makes the header of an object of as many
    frames from an array of almost nothing; what is in the frames is written one by one.
    """
    first, one = evidence.first, {"Rows": 1, "Columns": 1}
    if evidence.planes is None:
        return [_with(image, one) for image in evidence.images]
    if evidence.frames is None:
        common = {"ImageOrientationPatient": first.ImageOrientationPatient, **one}
        return [_with(image, common) for image in evidence.images]
    if "PerFrameFunctionalGroupsSequence" not in first:
        return [_with(first, one)]
    names = ("PlaneOrientationSequence", "PixelMeasuresSequence")
    shared_by_all = {name: [functional_group(first, 0, name)] for name in names}
    per_frame = [_without(frame, names) for frame in first.PerFrameFunctionalGroupsSequence]
    shared = _with((first.get("SharedFunctionalGroupsSequence") or [Dataset()])[0], shared_by_all)
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": per_frame}
    return [_with(first, groups | one)]


def _with(ds: Dataset, elements: dict[str, Any]) -> Dataset:
    """Return a dataset with other values; all else is shared with the one it is made from."""
    result = _without(ds, tuple(elements))
    for keyword, value in elements.items():
        setattr(result, keyword, value)
    return result


def _without(ds: Dataset, keywords: tuple[str, ...]) -> Dataset:
    result = Dataset()
    result.update({element.tag: element for element in ds if element.keyword not in keywords})
    if hasattr(ds, "file_meta"):
        result.file_meta = ds.file_meta
    return result


def put_in_place(ds: Dataset, author: Author) -> list[int]:
    """Sort the frames of an object along the normal, and give each the orientation and spacing of its own slice.

    The last dimension index is the position, so that it is numbered anew.

    Args:
        ds: header of a parametric map or segmentation, changed in place; left as it is where slices have no place.
        author: of it.

    Returns:
        for each frame of it, the position of its slice among the result's.
    """
    slices = slices_of(ds, author)
    if slices is None:
        return [0]  # without a place of every slice there is but one
    if author.evidence.planes is None:
        return slices
    planes = author.evidence.planes
    normal = planes[0].normal
    order = np.argsort([np.dot(normal, planes[i].position) for i in slices], kind="stable")
    _reorder(ds, [int(k) for k in order])
    slices = [slices[k] for k in order]
    _own_planes(ds, author, slices)
    return slices


def require_in_place(read: Dataset, author: Author) -> None:
    """Raise `Refused` unless every frame of an object that was read back lies where its slice lies."""
    slices = slices_of(read, author)
    if slices is None or author.evidence.planes is None:
        return
    for frame, i in enumerate(slices):
        plane = author.evidence.planes[i]
        groups = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        places = [functional_group(read, frame, name) or Dataset() for name in groups]
        meant = plane.position, np.concatenate([plane.along_row, plane.along_column]), np.array(plane.spacing)
        for what, item, keyword, values, tolerance in zip(
            ("position", "orientation", "pixel spacing"),
            places,
            ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
            meant,
            (1e-3, 1e-4, 1e-4 * min(plane.spacing)),
            strict=True,
        ):
            written = numbers(item, keyword, len(values))
            if written is None or not np.allclose(written, values, rtol=0, atol=tolerance):
                raise Refused(f"a frame would have another {what} than its slice, which would misplace the map")


def slices_of(ds: Dataset, author: Author) -> list[int] | None:
    """Return for each frame of an object the position of its slice among the result's; None where none is said."""
    sources = frame_sources(ds, author)
    frames = author.evidence.frames
    if sources is None or frames is None:
        return sources
    position = {frame: i for i, frame in enumerate(frames)}
    return [position[source] for source in sources]


def frame_sources(ds: Dataset, author: Author) -> list[int] | None:
    """Return for each frame of an object the position of the source frame it refers to; None where it refers to none.

    Of single-frame sources that is the position among ``evidence.images``, else the frame of ``evidence.images[0]``.
    The object is a finished one, which refers to the frames of the file.
    """
    evidence = author.evidence
    place = {str(image.SOPInstanceUID): i for i, image in enumerate(evidence.images)}
    sources = []
    for frame in ds.PerFrameFunctionalGroupsSequence:
        if "DerivationImageSequence" not in frame:
            return None
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        stored = item.get("ReferencedFrameNumber")
        index = place[str(item.ReferencedSOPInstanceUID)] if stored is None else int(stored) - 1
        sources.append(index if stored is None else evidence.frame_within(index))
    return sources


def _reorder(ds: Dataset, order: list[int]) -> None:
    frames = list(ds.PerFrameFunctionalGroupsSequence)
    ds.PerFrameFunctionalGroupsSequence = [frames[k] for k in order]
    for rank, k in enumerate(order, start=1):
        index = frames[k].FrameContentSequence[0].DimensionIndexValues
        values = [int(v) for v in index] if hasattr(index, "__iter__") else [int(index)]
        frames[k].FrameContentSequence[0].DimensionIndexValues = [*values[:-1], rank]


def _own_planes(ds: Dataset, author: Author, slices: list[int]) -> None:
    """Move orientation and measures from the shared groups into the frames' where slices differ in them."""
    planes, shared = author.evidence.planes or (), ds.SharedFunctionalGroupsSequence[0]
    frames = list(ds.PerFrameFunctionalGroupsSequence)
    cosines = [np.concatenate([planes[i].along_row, planes[i].along_column]) for i in range(len(planes))]
    if not all(np.allclose(c, cosines[0], rtol=0, atol=1e-6) for c in cosines):
        shared.pop("PlaneOrientationSequence", None)
        for frame, i in zip(frames, slices, strict=True):
            item = Dataset()
            item.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in cosines[i]]
            frame.PlaneOrientationSequence = [item]
    thickness = [_thickness(author, i) for i in range(len(planes))]
    measures = [(*p.spacing, t or 0.0) for p, t in zip(planes, thickness, strict=True)]
    if not all(np.allclose(m, measures[0], rtol=1e-6, atol=0) for m in measures):
        common = shared.PixelMeasuresSequence[0]
        del shared.PixelMeasuresSequence
        for frame, i in zip(frames, slices, strict=True):
            item = copy.deepcopy(common)
            item.PixelSpacing = [format_number_as_ds(float(v)) for v in planes[i].spacing]
            if thickness[i] is not None:
                item.SliceThickness = format_number_as_ds(float(thickness[i] or 0))
            frame.PixelMeasuresSequence = [item]


def _thickness(author: Author, position: int) -> float | None:
    evidence = author.evidence
    if evidence.frames is None:
        return number(evidence.images[position], "SliceThickness")
    group = functional_group(evidence.first, evidence.frames[position], "PixelMeasuresSequence")
    return number(group, "SliceThickness")
