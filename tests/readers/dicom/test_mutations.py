"""Broken DICOM files by the hundred: each is read rightly or refused with a reason; none crashes or hangs."""

import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from invad_med.data.slices import ReadError, Slice
from invad_med.readers.dicom.stored import planes_of
from invad_med.readers.sources import scan, whole_source

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "emri_small.dcm", "eCT_Supplemental.dcm"]
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
ABSURD = {
    "DS": ["nan", "1e300", "-5", "abc", "", "0"], "IS": ["-1", "99999999999", "x", "", "0"],
    "US": [0, 1, 65535], "SS": [-1, 0], "CS": ["", "NONSENSE"], "UI": ["", "1.2.3"], "LO": [""],
}  # fmt: skip


def flipped(data, random):
    data = bytearray(data)
    for at in random.integers(132, min(len(data), 6000), size=random.integers(1, 12)):
        data[at] ^= 1 << int(random.integers(8))
    return bytes(data)


def cut(data, random):
    return data[: int(random.integers(0, len(data)))]


def altered(data, random):
    """Remove an element, or give it an absurd value as raw text so that pydicom does not object."""
    from io import BytesIO

    ds = pydicom.dcmread(BytesIO(data))
    tags = [e.tag for e in ds if e.VR in ABSURD] + [t for k in GEOMETRY for t in [pydicom.tag.Tag(k)] if t in ds] * 4
    tag = tags[int(random.integers(len(tags)))]
    if random.random() < 0.4:
        del ds[tag]
    else:
        choice = ABSURD[ds[tag].VR]
        value = choice[int(random.integers(len(choice)))]
        with pydicom.config.disable_value_validation():
            many = ds[tag].VM if isinstance(value, str) else 1
            raw = "\\".join([value] * max(1, many)).encode() if isinstance(value, str) else int(value).to_bytes(
                2, "little", signed=value < 0
            )  # fmt: skip
            raw += b" " * (len(raw) % 2)
            ds[tag] = pydicom.dataelem.RawDataElement(tag, ds[tag].VR, len(raw), raw, 0, False, True)
    out = BytesIO()
    ds.save_as(out, enforce_file_format=False)
    return out.getvalue()


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_broken_files_are_read_rightly_or_refused(count, tmp_path):
    originals = [Path(get_testdata_file(n, download=False)).read_bytes() for n in NAMES]
    random = np.random.default_rng(count)
    accepted = refused = 0
    for number in range(count):
        data = originals[number % len(originals)]
        try:
            broken = [flipped, cut, altered][number % 3](data, random)
        except (AttributeError, TypeError, ValueError, OverflowError):
            broken = flipped(data, random)  # pydicom cannot write the absurdity
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(broken)
        start = time.monotonic()
        reason = read_right(path)
        assert time.monotonic() - start < 20, number
        path.unlink()
        if reason is None:
            accepted += 1
        else:
            refused += 1
            assert reason.strip() and "\n" not in reason and str(tmp_path) not in reason, (number, reason)
    assert accepted > count / 20 and refused > count / 20  # the test would say nothing if all were of one kind


def read_right(path):
    """Return why a file is refused, or None after checking what was read of it against its header."""
    found = scan(path)
    if found.problems:
        return found.problems[0].reason
    if not found.sources:
        return "passed over: a DICOMDIR or no image"
    (source,) = found.sources
    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    try:
        pieces = whole_source(source)
        planes = planes_of(pieces)
    except ReadError as error:
        return str(error)
    for piece in pieces:
        assert isinstance(piece, Slice)
        assert piece.pixels.shape[:2] == (int(header.Rows), int(header.Columns))
        assert np.isfinite(piece.pixels).all()
        assert piece.spacing is None or (np.isfinite(piece.spacing).all() and min(piece.spacing) > 0)
    for plane in planes or []:
        assert abs(plane.along_row @ plane.along_column) <= 0.01 and np.isfinite(plane.position).all()
        assert abs(np.linalg.norm(plane.along_row) - 1) < 0.01 and min(plane.spacing) > 0
        if source.n_slices == 1 and "ImagePositionPatient" in header:
            np.testing.assert_allclose(plane.position, [float(v) for v in header.ImagePositionPatient], rtol=1e-9)
            np.testing.assert_allclose(plane.spacing, [float(v) for v in header.PixelSpacing], rtol=1e-9)
    return None
