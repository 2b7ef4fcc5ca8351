"""PNG, JPEG and TIFF as slices."""

import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from invad_med.data.slices import ReadError, Source
from invad_med.readers import rasters

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def read(path):
    return rasters.read(Source("raster", (path,), "case", rasters.count_pages(path)))


def test_grey_in_every_dress_is_the_same_slice(tmp_path):
    rgb = np.stack([GREY] * 3, axis=-1)
    pictures = {
        "l.png": Image.fromarray(GREY),
        "rgb.png": Image.fromarray(rgb),
        "rgba.png": Image.fromarray(np.dstack([rgb, np.full_like(GREY, 7)])),
        "p.png": Image.fromarray(GREY).convert("P"),
        "l.tif": Image.fromarray(GREY),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        (piece,) = read(tmp_path / name)
        np.testing.assert_array_equal(piece.pixels, GREY.astype(np.float32), err_msg=name)
        assert (piece.unit, piece.value_range) == ("8bit", (0.0, 255.0))


def test_colour_stays_colour(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    (piece,) = read(tmp_path / "c.png")
    np.testing.assert_array_equal(piece.pixels, colour)


def test_sixteen_bits_are_kept(tmp_path):
    deep = np.linspace(0, 60000, 48).reshape(6, 8).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "d.png")
    (piece,) = read(tmp_path / "d.png")
    np.testing.assert_array_equal(piece.pixels, deep.astype(np.float32))
    assert piece.unit == "stored"
    assert piece.value_range == pytest.approx(tuple(np.percentile(deep, [0.5, 99.5])))


def test_pages_of_a_tiff_are_slices(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), v, dtype=np.uint8)) for v in (10, 20, 30)]
    pages[0].save(tmp_path / "p.tiff", save_all=True, append_images=pages[1:])
    assert [float(s.pixels[0, 0]) for s in read(tmp_path / "p.tiff")] == [10.0, 20.0, 30.0]


def test_a_turned_photograph_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to display
    Image.fromarray(GREY).save(tmp_path / "t.jpg", exif=exif, quality=100)
    (piece,) = read(tmp_path / "t.jpg")
    assert piece.pixels.shape == (8, 6)
    np.testing.assert_allclose(piece.pixels, np.rot90(GREY, -1), atol=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"these are words", "not a PNG, JPEG or TIFF image"), (None, "image data cannot be read")],
)
def test_broken_files_give_a_reason(content, message, tmp_path):
    path = tmp_path / "broken.png"
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:1000]
    path.write_bytes(content)
    with pytest.raises(ReadError, match=message):
        read(path)


def test_one_bit_and_transparent_images(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    (piece,) = read(tmp_path / "b.png")
    np.testing.assert_array_equal(piece.pixels, np.where(GREY > 100, 255, 0))
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read(tmp_path / "c.png")[0].pixels, colour[..., :3])


def test_float_tiffs_must_be_finite(tmp_path):
    values = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "f.tif")
    (piece,) = read(tmp_path / "f.tif")
    np.testing.assert_array_equal(piece.pixels, values)
    assert piece.unit == "stored"
    values[2, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "n.tif")
    with pytest.raises(ReadError, match="NaN or infinite"):
        read(tmp_path / "n.tif")


def test_white_is_zero_in_some_tiffs(tmp_path):
    deep = (GREY.astype(np.uint16) + 1) * 200
    for values in (GREY, deep):
        tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
        (piece,) = read(tmp_path / "w.tif")
        np.testing.assert_array_equal(piece.pixels, np.iinfo(values.dtype).max - values.astype(np.float32))


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2  # width and height in IHDR
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ReadError, match=r"^header claims too many pixels"):
        rasters.count_pages(tmp_path / "bomb.png")


STACK = np.stack([GREY + i for i in range(5)])


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (STACK, dict(imagej=True, truncate=True), "says it holds 5 pictures and has 1 page"),
        (STACK, dict(truncate=True), "says it holds 5 pictures and has 1 page"),
        (np.stack([STACK, STACK], 1), dict(imagej=True, metadata={"axes": "ZCYX"}), "channels, times or depths"),
        (np.stack([STACK, STACK]), dict(imagej=True, metadata={"axes": "TZYX"}), "channels, times or depths"),
        (np.stack([STACK, STACK], 1), dict(ome=True, metadata={"axes": "ZCYX"}), "channels, times or depths"),
        (np.stack([GREY] * 16), dict(volumetric=True, tile=(16, 16, 16)), "16 planes in one page"),
    ],
)
def test_pages_that_are_not_all_or_not_slices_alone_are_refused(array, options, said, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", array, **options)
    with pytest.raises(ReadError, match=said):
        rasters.count_pages(tmp_path / "x.tif")


COLOUR = np.stack([GREY, GREY[::-1], GREY], axis=-1)


@pytest.mark.parametrize(
    ("array", "options", "pages"),
    [
        (STACK, dict(imagej=True), 5),
        (STACK, dict(imagej=True, metadata={"axes": "TYX"}), 5),
        (STACK, dict(ome=True, metadata={"axes": "ZYX"}), 5),
        (STACK, dict(), 5),
        (COLOUR, dict(photometric="rgb"), 1),
        (COLOUR, dict(photometric="rgb", ome=True, metadata={"axes": "YXS"}), 1),
        (np.stack([COLOUR, COLOUR]), dict(photometric="rgb"), 2),
        (COLOUR.transpose(2, 0, 1).copy(), dict(photometric="rgb", planarconfig="separate"), 1),
        (GREY, dict(description='{"shape": "none"}', metadata=None), 1),
        (GREY, dict(description="{no json", metadata=None), 1),
    ],
)
def test_pages_that_are_slices_are_read(array, options, pages, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", array, **options)
    assert rasters.count_pages(tmp_path / "x.tif") == pages


def test_an_animation_is_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    with pytest.raises(ReadError, match="PNG of 2 pictures"):
        rasters.count_pages(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg"])
@pytest.mark.parametrize(
    ("resolution", "orientation", "ratio"),
    [((100, 100), 1, None), ((100, 200), 1, 0.5), ((200, 100), 1, 2.0), ((100, 200), 6, 2.0), ((100, 1), 1, None)],
)
def test_pixels_that_are_not_square_have_their_shape(name, resolution, orientation, ratio, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GREY).save(tmp_path / name, dpi=resolution, **({} if name == "x.tif" else {"exif": exif}))
    if name == "x.tif":
        tifffile.imwrite(
            tmp_path / name, GREY, resolution=resolution, resolutionunit=2, extratags=[(274, 3, 1, orientation, True)]
        )
    (piece,) = read(tmp_path / name)
    if ratio is None:
        assert piece.spacing is None
    else:
        rows, columns = piece.spacing
        assert rows / columns == pytest.approx(ratio, rel=0.01)
