"""Deep, signed and odd samples of PNG and TIFF: their own values, or a reason."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from invad_med.data.modalities import find_modality
from invad_med.data.slices import ReadError, Source
from invad_med.data.transforms import to_unit
from invad_med.readers import rasters

DEEP = np.random.default_rng(0).integers(0, 4096, (10, 12, 4)).astype(np.uint16)  # 12 bits in 16
GREY = np.ascontiguousarray(DEEP[..., 0])
RGB = np.ascontiguousarray(DEEP[..., :3])


def png(path, array, filters=(0,)):
    """Write a 16-bit PNG of 1 to 4 channels with given row filters (0 none, 1 sub, 2 up)."""
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    size = 2 * channels
    above, lines = np.zeros(width * size, np.uint8), []
    for y in range(height):
        line = np.frombuffer(array[y].astype(">u2").tobytes(), np.uint8)
        kind = filters[y % len(filters)]
        left = np.concatenate([np.zeros(size, np.uint8), line[:-size]])
        lines.append(bytes([kind]) + (line - {0: np.uint8(0), 1: left, 2: above}[kind]).astype(np.uint8).tobytes())
        above = line

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def read(path):
    return rasters.read(Source("raster", (path,), "case", rasters.count_pages(path)))


def same_picture(piece, grey):
    unit, twin = (to_unit(p, find_modality("brain")) for p in (piece, grey))
    np.testing.assert_allclose(unit, twin, atol=1e-6)


@pytest.fixture
def twin(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "twin.png")
    return read(tmp_path / "twin.png")[0]


@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_grey_in_a_deep_png_of_colour_or_alpha_is_its_grey_twin(channels, filters, twin, tmp_path):
    array = np.dstack([GREY] * 3 + [DEEP[..., 3]]) if channels > 2 else np.dstack([GREY, DEEP[..., 3]])
    png(tmp_path / "x.png", np.ascontiguousarray(array[..., :channels]), filters)
    (piece,) = read(tmp_path / "x.png")
    np.testing.assert_array_equal(piece.pixels, GREY.astype(np.float32))
    assert (piece.unit, piece.value_range) == ("stored", twin.value_range)
    same_picture(piece, twin)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(byteorder=">"),
        dict(compression="zlib"),
        dict(compression="zlib", byteorder=">"),
        dict(compression="zlib", predictor=True),
        dict(bigtiff=True),
        dict(rowsperstrip=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("alpha", [False, True])
def test_grey_in_a_deep_tiff_of_colour_is_its_grey_twin(options, alpha, twin, tmp_path):
    array = np.dstack([GREY] * 3 + ([DEEP[..., 3]] if alpha else []))
    extra = dict(extrasamples=["unassalpha"]) if alpha else {}
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", **options, **extra)
    (piece,) = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(piece.pixels, GREY.astype(np.float32))
    same_picture(piece, twin)


def test_tiles_and_pages_of_deep_colour(tmp_path):
    large = np.ascontiguousarray(np.tile(np.dstack([GREY] * 3), (4, 4, 1)))
    tifffile.imwrite(tmp_path / "tiles.tif", large, photometric="rgb", tile=(16, 16))
    np.testing.assert_array_equal(read(tmp_path / "tiles.tif")[0].pixels, large[..., 0])
    pages = np.stack([np.dstack([GREY + k] * 3) for k in (0, 300, 7)])
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="rgb")
    for k, piece in enumerate(read(tmp_path / "pages.tif")):
        np.testing.assert_array_equal(piece.pixels, pages[k, ..., 0])


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_real_colour_is_shown_on_the_scale_of_its_values(name, tmp_path):
    path = tmp_path / name
    png(path, RGB) if name.endswith("png") else tifffile.imwrite(path, RGB, photometric="rgb")
    (piece,) = read(path)
    low, high = np.percentile(RGB.astype(np.float32), [0.5, 99.5])
    expected = np.clip((RGB - low) / (high - low), 0, 1) * 255
    assert piece.unit == "8bit" and piece.pixels.dtype == np.uint8
    np.testing.assert_allclose(piece.pixels, expected, atol=0.51)


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.uint32) * 1_000_000,
        (GREY.astype(np.int32) - 2000) * 100_000,
        GREY.astype(np.int16) - 2000,
        (GREY >> 4).astype(np.uint8).view(np.int8),
        GREY.astype(np.float32) * -1.5,
    ],
    ids=lambda v: str(v.dtype),
)
@pytest.mark.parametrize("options", [{}, dict(compression="zlib")], ids=str)
def test_signed_and_wide_grey_keeps_its_values(values, options, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", values, **options)
    (piece,) = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(piece.pixels, values.astype(np.float32))
    assert piece.unit == "stored"


def test_eight_bit_colour_in_separate_planes(tmp_path):
    colour = (RGB >> 4).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", colour.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(tmp_path / "x.tif")[0].pixels, colour)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (RGB.transpose(2, 0, 1), dict(photometric="rgb", planarconfig="separate"), "3 16-bit .* in separate planes"),
        (DEEP, dict(photometric="separated"), "4 16-bit unsigned"),
        (RGB.astype(np.int16), dict(photometric="rgb"), "3 16-bit signed"),
        (RGB.astype(np.float32), dict(photometric="rgb"), "3 32-bit floating-point"),
        ((RGB >> 5).astype(np.int8), dict(photometric="rgb"), "3 8-bit signed"),
        (GREY.astype(np.float16), {}, "1 16-bit floating-point"),
        (GREY.astype(np.float64), {}, "1 64-bit floating-point"),
        (GREY.astype(np.uint64), {}, "1 64-bit unsigned"),
        (GREY.astype(np.uint32), dict(photometric="miniswhite"), "1 32-bit unsigned integer sample with white as zero"),
        (GREY.astype(np.int16), dict(photometric="miniswhite"), "1 16-bit signed integer sample with white as zero"),
    ],
)
def test_what_is_not_read_says_what_it_is(values, options, reason, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", values, **options)
    with pytest.raises(ReadError, match=f"^pixels of {reason}.* not read; save it as 8-bit or 16-bit grey"):
        read(tmp_path / "x.tif")
