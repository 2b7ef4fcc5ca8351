"""Made input is read as what it says it is, without two slices alike."""

import itertools

import numpy as np

from invad_med.bench.made import made_slice, make_files, make_series
from invad_med.readers.sources import read_raster, read_slice, scan


def test_a_series_is_one_source_of_all_its_slices(tmp_path):
    (source,) = scan(make_series(tmp_path / "a", 5, side=64)).sources
    assert source.n_slices == 5
    slices = [read_slice(source, i) for i in range(5)]
    assert all(piece.pixels.shape == (64, 64) and piece.pixels.max() > 500 for piece in slices)
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in itertools.pairwise(slices))


def test_files_differ_and_hold_the_slices(tmp_path):
    paths = sorted(make_files(tmp_path / "a", 40, side=64).rglob("*.png"))
    assert len({path.read_bytes() for path in paths}) == 40
    wanted = made_slice(7, 40, 64)
    assert np.abs(read_raster(paths[7]).pixels[1:] / 255 - wanted[1:]).max() < 1.01 / 255
