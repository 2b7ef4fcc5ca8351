"""Sources too large to be held: the slices of held ones, each file opened once, nothing kept of a slice let go of."""

import errno
import gc
import gzip
import math
import os
import pickle
import tempfile
import weakref
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_results import make_enhanced_mr, make_series
from PIL import Image
from pydicom.uid import RLELossless

from invad_med.data.slices import ReadError, Slice
from invad_med.readers import decoding, spool
from invad_med.readers.sources import SourceReader, read_source, scan
from invad_med.readers.spool import Pieces, Spool

pytestmark = pytest.mark.filterwarnings("ignore")

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 900, (5, 24, 20), dtype=np.int16)


def stored(folder, kind):
    """Write a source of several slices."""
    folder.mkdir()
    if kind == "series":
        make_series(folder / "s", VOLUME)
    elif kind == "compressed":
        make_series(folder / "s", VOLUME, syntax=RLELossless)
    elif kind == "inverted":
        make_series(folder / "s", VOLUME)
        for path in (folder / "s").iterdir():
            ds = pydicom.dcmread(path)
            ds.Modality, ds.PhotometricInterpretation, ds.PixelPaddingValue = "MR", "MONOCHROME1", int(VOLUME[0, 0, 0])
            ds.save_as(path)
    elif kind == "broken":
        make_series(folder / "s", VOLUME)
        paths = sorted((folder / "s").iterdir())
        paths[2].write_bytes(paths[2].read_bytes()[:-200])
    elif kind == "frames":
        make_enhanced_mr(folder / "frames.dcm")
    elif kind == "pages":
        pages = [Image.fromarray(page.astype(np.uint16)) for page in VOLUME]
        pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    elif kind == "colour":
        pages = [Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)) for _ in range(3)]
        pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    return folder


KINDS = ["series", "compressed", "inverted", "broken", "frames", "pages", "colour"]


def said(pieces):
    """Return all that is said of slices."""
    result = []
    for piece in pieces:
        if isinstance(piece, ReadError):
            result.append((str(piece), type(piece.origin).__name__))
            continue
        pixels = getattr(piece.origin, "pixels", None)
        result.append((
            piece.pixels.tobytes(), piece.pixels.shape, piece.pixels.dtype, piece.index, piece.unit, piece.value_range,
            piece.spacing, piece.digest, pixels if isinstance(pixels, bytes) or pixels is None else pixels.tobytes(),
            getattr(piece.origin, "frame", None), type(piece.origin).__name__,
        ))  # fmt: skip
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_a_large_source_are_those_of_one_that_is_held(tmp_path, monkeypatch, kind):
    (source,) = scan(stored(tmp_path / "in", kind)).sources
    held = read_source(source)
    monkeypatch.setattr(spool, "HELD", 0)
    pieces = read_source(source)
    assert isinstance(held, list) and isinstance(pieces, Pieces)
    assert said(pieces) == said(held) == said(pieces)
    assert len(pieces) == len(held) == source.n_slices
    piece = next(p for p in pieces if isinstance(p, Slice))
    with pytest.raises(ValueError, match="read-only"):
        piece.pixels[0, 0] = 1
    assert said([pickle.loads(pickle.dumps(piece))]) == said([piece])  # as it goes to another process


AXES = [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (4.0, 1.0, 1.0)])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_volume_is_cut_as_nibabel_turns_it(tmp_path, monkeypatch, ending, sizes, axes, sign):
    affine = np.zeros((4, 4))
    for stored_axis, axis in enumerate(axes):
        affine[axis, stored_axis] = sign * sizes[stored_axis]
    affine[3, 3] = 1
    volume = RNG.normal(size=(7, 8, 9)).astype(np.float32)
    volume[2, 3, 4], volume[:, 0, 0] = np.inf, np.nan
    image = nib.Nifti1Image(volume, affine)
    nib.save(image, tmp_path / f"v{ending}")
    (source,) = scan(tmp_path).sources
    monkeypatch.setattr(spool, "HELD", 4 * 7 * 8 * 2)  # two slabs at once
    monkeypatch.setattr(decoding, "_SAMPLE", 100)
    pieces = read_source(source)
    assert isinstance(pieces, Pieces)

    filled = np.where(np.isfinite(volume), volume, volume[np.isfinite(volume)].min())
    thick = [axes[i] for i in range(3) if sizes[i] == 4.0]
    plane = {(): "LPS", (2,): "LPS", (1,): "LIP", (0,): "PIL"}[tuple(thick)]
    turned = nib.orientations.apply_orientation(
        filled,
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(plane))),
    )
    np.testing.assert_array_equal([p.pixels for p in pieces], turned.transpose(2, 1, 0))
    step = filled.size // 100 + 1
    step += 1 - step % 2
    low, high = np.percentile(filled.ravel()[::step], [0.5, 99.5])  # of every step-th value as the array is counted
    assert pieces[0].value_range == (float(low), float(high))


def test_every_file_is_opened_once_and_not_again_for_its_slices(tmp_path, monkeypatch):
    (source,) = scan(stored(tmp_path / "in", "series")).sources
    monkeypatch.setattr(spool, "HELD", 0)
    opened, real = Counter(), Path.open

    def counting(path, *args, **options):
        opened[path] += 1
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", counting)
    reader = SourceReader()
    for _ in range(2):
        for index in range(source.n_slices):
            assert reader.read(source, index).origin.pixels
    assert opened == dict.fromkeys(source.paths, 1)


@pytest.mark.parametrize("kind", ["series", "compressed", "frames", "pages"])
def test_pixels_of_a_slice_are_gone_with_it(tmp_path, monkeypatch, kind):
    (source,) = scan(stored(tmp_path / "in", kind)).sources
    monkeypatch.setattr(spool, "HELD", 0)
    pieces, watched, origins = read_source(source), [], []
    for piece in pieces:
        watched.append(weakref.ref(piece.pixels))
        origins.append(piece.origin)  # headers may be kept: they hold no pixels
    del piece
    gc.collect()
    assert len(watched) == source.n_slices and not any(ref() is not None for ref in watched)


def test_a_folder_for_temporary_files_that_is_full_is_said(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "in" / "v.nii")
    (source,) = scan(tmp_path / "in").sources
    monkeypatch.setattr(spool, "HELD", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    reason = (
        "NIfTI data cannot be read (No space left on device in the folder for temporary files; name another in TMPDIR)"
    )
    assert {str(piece) for piece in read_source(source)} == {reason}


def test_arrays_are_held_up_to_a_limit_and_then_all_in_a_file(monkeypatch):
    monkeypatch.setattr(spool, "HELD", 95)
    arrays = [np.arange(10, dtype=np.int64), np.ones((2, 5), np.uint8), np.zeros((2, 3), bool), np.float32([[1.5]])]
    kept = Spool()
    for array in arrays[:2]:
        kept.append(array)
    assert kept.in_memory and kept[0] is arrays[0]
    for array in arrays[2:]:
        kept.append(array)
    assert not kept.in_memory
    kept.replace(1, 2 * arrays[1])
    for found, expected in zip(kept, [arrays[0], 2 * arrays[1], *arrays[2:]], strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(kept.at([3, 0])[1], arrays[0])
    unbounded = Spool(math.inf)
    unbounded.append(np.zeros(1000))
    assert unbounded.in_memory


def test_a_volume_whose_data_end_early_is_refused_with_what_it_lacks(tmp_path):
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "v.nii")
    content = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").unlink()
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(content[:-100]))  # whole as a compressed file
    (source,) = scan(tmp_path).sources
    said = f"data end after {VOLUME.nbytes - 100} of {VOLUME.nbytes} bytes: cut off or damaged"
    assert {str(piece) for piece in read_source(source)} == {said}
