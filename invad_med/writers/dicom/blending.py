"""An advanced blending presentation state (PS3.3 A.33.5): the parametric map in colours over the source.

It refers to the parametric map of the same run, which is written with it.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib import colormaps
from pydicom.dataset import Dataset

from invad_med.writers.dicom.common import Author, Series, save
from invad_med.writers.dicom.evidence import Refused
from invad_med.writers.dicom.presentation_state import stored_range

_OPACITY = 0.5

SERIES = Series("blending", 7, "Anomaly map over source", sided=True)


def write_blending(author: Author, folder: Path, parametric_map: Dataset) -> list[Path]:
    """Write ``<folder>/blending.dcm``.

    Args:
        author: of the result.
        folder: made if need be.
        parametric_map: header of what `make_parametric_map` made.

    Raises:
        Refused: colour; a source without frame of reference, which such a state needs.
        OSError: it cannot be written.
    """
    evidence = author.evidence
    if evidence.planes is None:
        raise Refused("the source has no frame of reference with a place of every slice, which blending needs")
    if int(evidence.first.get("SamplesPerPixel") or 1) != 1:
        raise Refused("the source is in colour, over which no colours are blended; ask for secondary_capture")
    images = list(evidence.images)
    windows = None if _has_window(images[0]) else [hd.pr.SoftcopyVOILUTTransformation(*stored_range(images[0]))]
    below = hd.pr.AdvancedBlending(
        referenced_images=images,
        blending_input_number=1,
        voi_lut_transformations=windows,
        palette_color_lut_transformation=palette("gray"),
    )
    above = hd.pr.AdvancedBlending(
        referenced_images=[parametric_map],
        blending_input_number=2,
        modality_lut_transformation=None,
        voi_lut_transformations=[hd.pr.SoftcopyVOILUTTransformation(author.account.limit, 2 * author.account.limit)],
        palette_color_lut_transformation=palette("inferno"),
    )
    display = hd.pr.BlendingDisplay(
        blending_mode="FOREGROUND",
        blending_display_inputs=[hd.pr.BlendingDisplayInput(2), hd.pr.BlendingDisplayInput(1)],
        relative_opacity=_OPACITY,
    )
    ds = hd.pr.AdvancedBlendingPresentationState(
        referenced_images=[*images, parametric_map],
        blending=[below, above],
        blending_display=[display],
        content_label="ANOMALY",
        content_description="Anomaly map over source, research use only",
        **author.keywords(SERIES),
    )
    author.finish(ds, SERIES)

    def check(read: Dataset) -> None:
        if [int(i.BlendingInputNumber) for i in read.AdvancedBlendingSequence] != [1, 2]:
            raise Refused("blending inputs read back differ from those that were meant")

    return [save(ds, author, folder / "blending.dcm", check)]


def palette(name: str) -> hd.PaletteColorLUTTransformation:
    """Return a colour map of Matplotlib as 256 entries of 16 bits, high and low byte alike."""
    colours = np.round(colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint16) * 257
    red, green, blue = (
        hd.PaletteColorLUT(first_mapped_value=0, lut_data=np.ascontiguousarray(colours[:, i]), color=colour)
        for i, colour in enumerate(("red", "green", "blue"))
    )
    return hd.PaletteColorLUTTransformation(red, green, blue)


def _has_window(ds: Dataset) -> bool:
    shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
    return "WindowCenter" in ds or "VOILUTSequence" in ds or (shared is not None and "FrameVOILUTSequence" in shared)
