"""The region above threshold as a binary segmentation, and the map as a fractional one (PS3.3 A.51).

Fractional: 0 is 0, 128 is the map threshold, 255 twice the threshold and more. It is declared as PROBABILITY because
the standard knows only that and OCCUPANCY; it is no calibrated probability, and the segment's description says so.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes

import invad_med
from invad_med.readers.dicom.own import MANUFACTURER, RESEARCH
from invad_med.writers.dicom.bits import packed
from invad_med.writers.dicom.common import Author, Pixels, Series, save
from invad_med.writers.dicom.evidence import Refused
from invad_med.writers.dicom.parametric_map import require_places
from invad_med.writers.dicom.places import as_one_plane, put_in_place, require_in_place

_FAMILY = codes.DCM.ArtificialIntelligence
REGION = Series("segmentation", 3, "Anomaly region")
FRACTIONAL = Series("fractional", 4, "Anomaly map, fractional")


def write_segmentation(author: Author, folder: Path) -> list[Path]:
    """Write ``<folder>/segmentation_binary.dcm`` and ``segmentation_fractional.dcm``.

    Frames without any segmented pixel are left out, as the standard asks, unless all are empty.

    Raises:
        Refused: several slices without a place in the patient; no frame of reference in a CT or MR.
        OSError: a file cannot be written.
    """
    require_places(author)
    return [
        _write(author, REGION, "BINARY", folder / "segmentation_binary.dcm"),
        _write(author, FRACTIONAL, "FRACTIONAL", folder / "segmentation_fractional.dcm"),
    ]


def _write(author: Author, series: Series, form: str, path: Path) -> Path:
    account, (rows, columns) = author.account, author.account.shape
    maps, limit = account.maps, account.limit
    assert maps is not None
    above = 0.0 if form == "FRACTIONAL" else limit
    any_in = author.evidence.in_stored_order([slice_.highest > above for slice_ in account.slices])
    algorithm = hd.AlgorithmIdentificationSequence(
        name=account.model, family=_FAMILY, version=invad_med.__version__, source=MANUFACTURER
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Anomaly (research)",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=author.uid(series.kind, "segment"),
        tracking_id="anomaly",
        display_color=hd.color.CIELabColor.from_rgb(255, 128, 0),
    )
    segment.SegmentDescription = f"{RESEARCH}. " + (
        f"Map above {limit:.6g}."
        if form == "BINARY"
        else "Map over twice its threshold (128 is the threshold); not a calibrated probability."
    )
    try:
        ds = hd.seg.Segmentation(
            source_images=as_one_plane(author.evidence),
            pixel_array=np.array(any_in, np.uint8 if form == "BINARY" else np.float64).reshape(-1, 1, 1),
            segmentation_type=form,
            segment_descriptions=[segment],
            fractional_type="PROBABILITY",
            max_fractional_value=255,
            omit_empty_frames=any(any_in),
            content_label="ANOMALY",
            content_description="Anomaly region, research use only",
            **author.keywords(series),
        )
    except ValueError as error:
        if "Frame Of Reference" in str(error):
            raise Refused("the source has no frame of reference, which its kind of image must have") from None
        raise
    del ds.PixelData
    ds.Rows, ds.Columns = rows, columns
    author.finish(ds, series)
    slices, size = put_in_place(ds, author), rows * columns
    if form == "BINARY":
        pixels = Pixels("PixelData", "OB", -(-len(slices) * size // 8), lambda: packed(maps[i] > limit for i in slices))
    else:
        pixels = Pixels("PixelData", "OB", len(slices) * size, lambda: (_scaled(maps[i], limit) for i in slices))
    return save(ds, author, path, lambda read: require_in_place(read, author), pixels)


def _scaled(values: np.ndarray, limit: float) -> bytes:
    """Return a map as the fractional segmentation stores it."""
    return np.around(np.clip(values.astype(np.float64) / (2 * limit), 0.0, 1.0) * 255).astype(np.uint8).tobytes()
