"""The anomaly map itself as a DICOM Parametric Map (PS3.3 A.75): float32 on the source's grid and planes.

Values are dimensionless, at least 0, and mapped to themselves; the window runs from 0 to twice the map threshold, as
the colour scale of the pictures does. A palette belongs to integer pixels only, so colours come with `blending`.

Order and place of the frames: see `invad_med.writers.dicom.places`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from invad_med.files import whole_file
from invad_med.writers.dicom.common import Author, Pixels, Series, write
from invad_med.writers.dicom.evidence import Refused
from invad_med.writers.dicom.places import as_one_plane, put_in_place, require_in_place

QUANTITY = hd.sr.CodedConcept("anomaly", "99INVAD", "Anomaly map of inverted features, larger if less normal")
NO_UNITS = hd.sr.CodedConcept("1", "UCUM", "no units")

SERIES = Series("parametric_map", 2, "Anomaly map", sided=True)


@dataclass(frozen=True)
class ParametricMap:
    """The object: everything but its pixels, with its UID, and these."""

    header: Dataset
    pixels: Pixels


def make_parametric_map(author: Author) -> ParametricMap:
    """Return the object, a frame for each slice.

    Raises:
        Refused: several slices without a place in the patient.
    """
    account, evidence = author.account, author.evidence
    require_places(author)
    limit, count, (rows, columns) = account.limit, len(account.slices), account.shape
    highest = account.slices[account.highest[0]].highest
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation="Anomaly map, not calibrated in any unit",
        unit=NO_UNITS,
        value_range=(0.0, max(highest, 2 * limit)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=QUANTITY,
    )
    ds = hd.pm.ParametricMap(
        source_images=as_one_plane(evidence) if evidence.planes else [_held(evidence.first, author)],
        pixel_array=np.zeros((count, 1, 1), np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=limit, window_width=2 * limit)],
        content_label="ANOMALY_MAP",
        content_description="Anomaly map, research use only",
        image_flavor="VOLUME",
        **author.keywords(SERIES),
    )
    del ds.FloatPixelData
    ds.Rows, ds.Columns = rows, columns
    if not evidence.planes:
        _release(ds, evidence.first)
    author.finish(ds, SERIES, "Window: 0 to twice the threshold.")
    slices, maps = put_in_place(ds, author), account.maps
    assert maps is not None
    pixels = Pixels("FloatPixelData", "OF", 4 * count * rows * columns, lambda: (maps[i].tobytes() for i in slices))
    return ParametricMap(author.settle(ds, pixels), pixels)  # other objects refer to it


def _held(image: Dataset, author: Author) -> Dataset:
    """Return a header with a place in space, which highdicom 0.28 needs; `_release` takes it off the object again.

    Without one it makes a dimension index that it then refuses ("Unexpected mismatch between dimension index values").
    """
    held = Dataset()
    held.update(copy.deepcopy(dict(image.items())))
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"):
        if keyword in held:
            del held[keyword]
    held.FrameOfReferenceUID = author.uid("held")
    held.ImagePositionPatient, held.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    held.PixelSpacing, held.SliceThickness, held.Rows, held.Columns = [1, 1], 1, 1, 1
    return held


def _release(ds: Dataset, image: Dataset) -> None:
    """Take the place that `_held` gave off an object: a projection has no frame of reference."""
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator
    shared, (frame,) = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence
    for item, keyword in ((shared, "PlaneOrientationSequence"), (frame, "PlanePositionSequence")):
        if keyword in item:
            del item[keyword]
    spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing")
    if spacing:
        shared.PixelMeasuresSequence[0].PixelSpacing = spacing
        del shared.PixelMeasuresSequence[0].SliceThickness
    else:
        del shared.PixelMeasuresSequence
    frame.FrameContentSequence[0].FrameLabel = "1"
    index = ds.DimensionIndexSequence[0]
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209453, 0x00209111  # Frame Label, Frame Content
    index.DimensionDescriptionLabel = "Frame Label"


def write_parametric_map(made: ParametricMap, author: Author, folder: Path) -> list[Path]:
    """Write ``<folder>/parametric_map.dcm``.

    Args:
        made: by `make_parametric_map`.
        author: of it.
        folder: made if need be.

    Raises:
        Refused: it cannot be read back, or takes more bytes than an element can hold.
        OSError: it cannot be written.
    """
    path = folder / "parametric_map.dcm"
    with whole_file(path) as partial:
        write(made.header, partial, lambda read: require_in_place(read, author), made.pixels)
    return [path]


def require_places(author: Author) -> None:
    """Raise `Refused` where slices cannot be told apart by their place."""
    planes = author.evidence.planes
    if planes is None:
        if len(author.account.slices) > 1:
            raise Refused(
                "slices have no common frame of reference or no position and orientation, so that no object can place "
                "them; ask for secondary_capture or overlay"
            )
        return
    along = np.sort([float(np.dot(planes[0].normal, plane.position)) for plane in planes])
    if len(along) > 1 and np.diff(along).min() < 1e-4:
        raise Refused("several slices or frames lie at one position, which no object can tell apart")
