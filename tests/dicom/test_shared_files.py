"""Every DICOM file of the development data: read as SimpleITK reads it, or refused with a reason."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from invad_med.data.slices import ReadError
from invad_med.data.sources import read_slice, scan

RAW = Path(os.environ.get("INVAD_SHARED", "../shared")) / "data" / "raw"
pytestmark = [pytest.mark.shared, pytest.mark.filterwarnings("ignore")]


def test_every_file_is_read_rightly_or_refused_with_a_reason():
    assert RAW.is_dir(), f"no folder {RAW}: name the development data by INVAD_SHARED"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = scan(RAW)
    files, kinds = Counter(), Counter()
    for problem in found.problems:
        assert problem.reason.strip() and "\n" not in problem.reason and str(problem.path) not in problem.reason
        kinds[problem.path.parent.name, "refused"] += 1
        files[problem.path] += 1
    for source in (s for s in found.sources if s.kind == "dicom"):
        for index in range(source.n_slices):
            path = source.paths[index] if len(source.paths) > 1 else source.paths[0]
            files[path] += 1
            try:
                piece = read_slice(source, index)
            except ReadError as error:
                assert str(error).strip() and "\n" not in str(error), path
                kinds[path.parent.name, "refused"] += 1
                continue
            compared = source.n_slices == len(source.paths) and against_simpleitk(path, piece.pixels)
            kinds[path.parent.name, "compared" if compared else "not compared"] += 1
    assert max(files[p] for s in found.sources if s.kind == "dicom" and len(s.paths) > 1 for p in s.paths) == 1
    print(*sorted(kinds.items()), sep="\n")


def against_simpleitk(path, pixels):
    """Return whether a file could be compared: windowed radiographs, colour and multi-frame are tested elsewhere."""
    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    grey = header.get("PhotometricInterpretation") == "MONOCHROME2" and int(header.get("NumberOfFrames") or 1) == 1
    if not grey or header.get("Modality") in ("CR", "DX", "MG") or header.get("ModalityLUTSequence"):
        return False
    try:
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze().astype(np.float32)
    except RuntimeError:
        return False
    inside = np.ones(expected.shape, bool)
    if isinstance(header.get("PixelPaddingValue"), int):
        scale = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
        inside = expected != header.PixelPaddingValue * scale[0] + scale[1]
    np.testing.assert_allclose(pixels[inside], expected[inside], atol=1.01, err_msg=path.parent.name)  # lossy rounding
    return True
