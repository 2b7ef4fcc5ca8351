"""Every file of the development data: read as independent decoders read it, or refused with a reason.

``python tests/dicom/test_shared_files.py > docs/dicom_files.md`` writes the table that the test compares.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from invad_med.data.slices import ReadError
from invad_med.readers import sources
from invad_med.readers.dicom.headers import read_header
from invad_med.readers.kinds import format_ending
from invad_med.readers.sources import read_source, scan

RAW = Path(os.environ.get("INVAD_SHARED", "../shared")) / "data" / "raw"
DOC = Path(__file__).parents[3] / "docs" / "dicom_files.md"
DCMTK = {"JPEG": "dcmdjpeg", "JPEG-LS": "dcmdjpls", "RLE": "dcmdrle"}
HEAD = """\
# Every file of the development data

Written by `python tests/dicom/test_shared_files.py > docs/dicom_files.md`; `python -m pytest -m shared
tests/dicom/test_shared_files.py` fails if a line is no longer true. **equal**: every value of every frame is what the
independent decoder gives (to float32 rounding, one part in a million). "dcmtk" decompressed the file (JPEG, JPEG-LS,
RLE), "SimpleITK" (GDCM, for JPEG 2000 with OpenJPEG as ours) decoded it and applied rescale and palette. To those
values the test itself applies what the reader does beyond them: modality table, the window of radiographs (PS3.3
C.11.2.1.2), inversion of MONOCHROME1, 16-bit palettes to 8 bit, frames in order of position. Pixels marked as padding
are left out.
"""


def independent(path, ds):
    """Return (N, H, W[, 3]) values of a DICOM file in stored order, and who decoded them."""
    name = ds.file_meta.TransferSyntaxUID.name
    tool = None if "2000" in name else next((t for word, t in reversed(DCMTK.items()) if name.startswith(word)), None)
    with tempfile.TemporaryDirectory() as folder:
        file = path
        if tool:
            file = Path(folder) / "x.dcm"
            subprocess.run([tool, str(path), str(file)], check=True, capture_output=True)
        image = sitk.ReadImage(str(file))
    values = sitk.GetArrayFromImage(image)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":  # GDCM inverts within the stored bits, then rescales
        slope, intercept = rescale(ds)
        values = (2**ds.BitsStored - 1) * slope + 2 * intercept - values
    return (values if image.GetDimension() == 3 else values[None]), "dcmtk, SimpleITK" if tool else "SimpleITK"


def rescale(ds):
    return float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)


def places(ds):
    """Return the stored number of each frame in order of position along the normal."""
    groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = (ds.get("SharedFunctionalGroupsSequence") or [{}])[0]
    planes = [(g.get("PlanePositionSequence"), g.get("PlaneOrientationSequence") or
               shared.get("PlaneOrientationSequence")) for g in groups]  # fmt: skip
    if not planes or not all(p and o for p, o in planes):
        return list(range(int(ds.get("NumberOfFrames") or 1)))
    o = np.array(planes[0][1][0].ImageOrientationPatient, float)
    along = [round(np.cross(o[:3], o[3:]) @ np.array(p[0].ImagePositionPatient, float), 2) for p, _ in planes]
    return sorted(range(len(along)), key=lambda i: (along[i], i))


def expected(path, ds):
    """Return what the reader promises, from an independent decoder's values: images, pixels that count, decoder."""
    values, decoder = independent(path, ds)
    values, inside = values[places(ds)], None
    if ds.PhotometricInterpretation == "PALETTE COLOR" and values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    if ds.get("ModalityLUTSequence"):
        table = ds.ModalityLUTSequence[0]
        first = np.int16(np.uint16(table.LUTDescriptor[1] & 0xFFFF))
        values = np.array(table.LUTData)[np.clip(values.astype(int) - first, 0, table.LUTDescriptor[0] - 1)]
    slope, intercept = rescale(ds)
    if isinstance(ds.get("PixelPaddingValue"), int):
        inside = values != ds.PixelPaddingValue * slope + intercept
    if ds.get("Modality") in ("CR", "DX", "MG") and ds.get("WindowWidth"):
        centre, width = (float(np.atleast_1d(ds[k].value)[0]) for k in ("WindowCenter", "WindowWidth"))
        low, high = intercept, (2.0**ds.BitsStored - 1) * slope + intercept
        values = np.clip(((values - (centre - 0.5)) / (width - 1) + 0.5), 0, 1) * (high - low) + low
    if ds.PhotometricInterpretation == "MONOCHROME1":
        full = (0, 255) if ds.BitsStored == 8 else (values.min(), values.max())
        values = sum(full) - values
    return values, inside, decoder


def difference(found, meant, inside):
    """Return the largest difference, relative to the largest value where that exceeds 1."""
    worst = 0.0
    for i, (a, b) in enumerate(zip(found, meant, strict=True)):
        a = np.stack([a] * 3, -1) if b.ndim == 3 and a.ndim == 2 else a  # colour of equal channels is read as grey
        assert a.shape == b.shape
        off = np.abs(a.astype(float) - b)
        worst = max(worst, float(off[inside[i]].max() if inside is not None else off.max()) / max(1.0, np.abs(b).max()))
    return worst


def image_rows(source):
    """Yield (path, what it is, result, decoder) of every file of a source."""
    pieces = [str(p) if isinstance(p, ReadError) else p.pixels for p in read_source(source)]
    for number, path in enumerate(source.paths):
        mine = pieces if len(source.paths) == 1 else pieces[number : number + 1]
        kind = describe(path) if source.kind == "dicom" else f"NIfTI, {source.n_slices} slices"
        refused = {p for p in mine if isinstance(p, str)}
        if refused:
            (reason,) = refused
            yield path, kind, f"refused: {reason}", ""
            continue
        if source.kind == "dicom":
            meant, inside, decoder = expected(path, pydicom.dcmread(path, force=True))
        else:
            image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
            meant, inside, decoder = sitk.GetArrayFromImage(image), None, "SimpleITK"
        off = difference(mine, meant, inside)
        yield path, kind, "equal" if off < 1e-6 else f"**differs by {off:.3g}**", decoder


def describe(path):
    ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    uid = ds.file_meta.get("TransferSyntaxUID")
    syntax = uid.name.split(" (")[0].split(",")[0] if uid else "no transfer syntax"
    frames = f", {ds.NumberOfFrames} frames" if int(ds.get("NumberOfFrames") or 1) > 1 else ""
    return f"{ds.get('Modality') or '?'}, {ds.PhotometricInterpretation}, {ds.BitsStored} bit, {syntax}{frames}"


def rows():
    """Return a line of the table for every file, by its name without what could name a patient."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = scan(RAW)
    base = Path(os.path.abspath(RAW))
    rows = {p.path: ("", f"refused: {p.reason}", "") for p in found.problems}
    for source in found.sources:
        rows |= {path: tuple(rest) for path, *rest in image_rows(source)}
    lines = []
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
        kind, result, decoder = rows.get(path, ("", "passed over: no image", ""))
        try:
            header = read_header(path)
        except ReadError:
            header = None
        name = sources._name(path, base, header.identity if header else frozenset()) + format_ending(path)
        lines.append(f"| {name} | {kind} | {result} | {decoder} |")
    return lines


def table():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = rows()
    equal, refused, passed = (sum(f"| {w}" in line for line in lines) for w in ("equal", "refused", "passed over"))
    counts = f"\n{len(lines)} files: {equal} equal, {refused} refused, {passed} passed over.\n\n"
    return HEAD + counts + "\n".join(["| file | what it is | read | decoder |", "|---|---|---|---|", *lines]) + "\n"


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not all(map(shutil.which, DCMTK.values())), reason="dcmtk is not installed")
def test_every_file_is_read_rightly_or_refused_with_a_reason():
    assert RAW.is_dir(), f"no folder {RAW}: name the development data by INVAD_SHARED"
    said = table()
    assert "differs" not in said
    assert said == DOC.read_text()


if __name__ == "__main__":
    sys.stdout.write(table())
