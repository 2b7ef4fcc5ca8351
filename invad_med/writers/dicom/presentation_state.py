"""A grayscale softcopy presentation state over the source: contours at the threshold, score and research mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom.dataset import Dataset

from invad_med.writers.dicom.account import ScoredSlice
from invad_med.writers.dicom.common import Author, Series, save
from invad_med.writers.dicom.contours import contours
from invad_med.writers.dicom.evidence import Evidence, Refused

_MOST_CONTOURS = 200  # per slice

SERIES = Series("presentation_state", 6, "Anomaly contour", sided=True)


def write_presentation_state(author: Author, folder: Path) -> list[Path]:
    """Write ``<folder>/presentation_state.dcm``, which refers to every source image.

    Raises:
        Refused: colour, or rescale values that differ from slice to slice, which one presentation state cannot hold.
        OSError: it cannot be written.
    """
    account, evidence = author.account, author.evidence
    if int(evidence.first.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(
        evidence.first.get("PhotometricInterpretation")
    ):
        raise Refused("the source is in colour, to which no grayscale presentation state applies")
    layer = hd.pr.GraphicLayer(layer_name="ANOMALY", order=1, description="Anomaly, research use only")
    annotations, count = [], 0
    assert account.maps is not None
    for position, slice_ in enumerate(account.slices):
        image, frame = evidence.image_of(position)
        lines = contours(account.maps[position], account.limit)[:_MOST_CONTOURS]
        count += len(lines)
        annotations.append(
            hd.pr.GraphicAnnotation(
                referenced_images=[image],
                graphic_layer=layer,
                referenced_frame_number=frame if int(image.get("NumberOfFrames") or 1) > 1 else None,
                graphic_objects=[
                    hd.pr.GraphicObject(graphic_type="POLYLINE", graphic_data=line, units="PIXEL") for line in lines
                ]
                or None,
                text_objects=[
                    hd.pr.TextObject(
                        text_value=text_of(slice_),
                        units="DISPLAY",
                        bounding_box=(0.02, 0.88, 0.98, 0.98),
                        text_justification="LEFT",
                    )
                ],
            )
        )
    try:
        ds = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=list(evidence.images),
            content_label="ANOMALY",
            content_description="Anomaly contours, research use only",
            graphic_annotations=annotations,
            graphic_layers=[layer],
            **_transforms(evidence),
            **author.keywords(SERIES),
        )
    except ValueError as error:
        if "inconsistent" in str(error) or "Modality LUT" in str(error):
            raise Refused(
                "rescale values differ from slice to slice; one presentation state cannot hold them"
            ) from None
        raise
    author.finish(ds, SERIES)

    def check(read: Dataset) -> None:
        found = sum(len(a.get("GraphicObjectSequence") or []) for a in read.GraphicAnnotationSequence)
        if found != count:
            raise Refused(f"{found} contours read back, {count} written")

    return [save(ds, author, folder / "presentation_state.dcm", check)]


def _transforms(evidence: Evidence) -> dict[str, Any]:
    """Return modality and VOI transforms where highdicom finds none: in multi-frame objects of the older kind."""
    first = evidence.first
    if evidence.frames is None or "SharedFunctionalGroupsSequence" in first:
        return {}
    slope, intercept = float(first.get("RescaleSlope") or 1), float(first.get("RescaleIntercept") or 0)
    centre, width = stored_range(first)
    return {
        "modality_lut_transformation": hd.ModalityLUTTransformation(
            rescale_intercept=intercept, rescale_slope=slope, rescale_type="US"
        ),
        "voi_lut_transformations": [hd.pr.SoftcopyVOILUTTransformation(window_center=centre, window_width=width)],
    }


def stored_range(ds: Dataset) -> tuple[float, float]:
    """Return centre and width of all values that the stored bits can hold, after rescale."""
    bits, signed = int(ds.BitsStored), int(ds.get("PixelRepresentation") or 0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return (ends[0] + ends[1]) / 2, max(ends[1] - ends[0], 1.0)


def text_of(slice_: ScoredSlice) -> str:
    """Return score, threshold and p-value of a slice in a line."""
    if slice_.score is None:
        said = f"calibrated score withheld: {slice_.reason or 'no calibration'}"
    else:
        said = f"anomaly score {slice_.score:.4g}"
        said += f", threshold {slice_.threshold:.4g}" if slice_.threshold is not None else ", no threshold"
        said += f", p = {slice_.p_value:.2g}" if slice_.p_value is not None else ""
    return f"{said} - research use only"
