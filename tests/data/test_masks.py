"""What a mask file marks: anything but 0 as stored, half of the range where the file is lossy."""

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from invad_med.data.bmad import read_tree
from invad_med.data.masks import read_mask
from invad_med.data.slices import ReadError
from invad_med.readers.sources import read_raster


@pytest.mark.parametrize("labels", [(0, 1), (0, 255), (0, 1, 2, 4)])
@pytest.mark.parametrize("mode", ["L", "bone", "P", "LA", "I;16"])
def test_masks_binarise_above_zero(tmp_path, labels, mode):
    values = np.array([labels, labels[::-1]], dtype=np.uint8)
    path = tmp_path / "mask.png"
    if mode == "bone":
        import matplotlib.pyplot as plt

        plt.imsave(path, values, cmap="bone")  # as BMAD did: RGBA, bluish
        assert Image.open(path).mode == "RGBA"
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 200).save(path)
    elif mode == "P":
        image = Image.fromarray(values)
        image.putpalette([v for i in range(256) for v in (i, i, i)])
        image.save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask(path), values > 0)


@pytest.mark.parametrize(
    "label", [np.uint16(65535), np.uint16(1), np.int32(-1), np.int32(2**30), np.float32(0.25), np.float32(-3)]
)
def test_any_value_but_zero_marks(tmp_path, label):
    values = np.zeros((3, 4), label.dtype)
    values[1, 2:] = label
    Image.fromarray(values).save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif"), values != 0)


@pytest.mark.parametrize("name", ["mask.jpg", "a_jpeg_called.png", "inside.tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_lossy_mask_is_cut_at_half(tmp_path, name, colour):
    values = np.zeros((64, 64), np.uint8)
    values[21:43, 18:50] = 255
    image = Image.merge("RGB", [Image.fromarray(values)] * 3) if colour else Image.fromarray(values)
    with (tmp_path / name).open("wb") as file:
        if name == "inside.tif":
            image.save(file, format="TIFF", compression="jpeg", quality=75)
        else:
            image.save(file, format="JPEG", quality=75)
    stored = np.asarray(Image.open(tmp_path / name).convert("L"))
    assert (stored > 0).sum() > 1.05 * (values > 0).sum(), "its noise is not 0, so that the case tests something"
    np.testing.assert_array_equal(read_mask(tmp_path / name), values > 0)


def test_what_does_not_say_what_is_marked_is_refused(tmp_path):
    Image.fromarray(np.array([[0, np.nan], [1, 0]], np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ReadError, match="NaN or infinite"):
        read_mask(tmp_path / "nan.tif")
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 0, 0, 1, 0, 0) for _ in range(2))  # label 1 of 65535, in red

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    with pytest.raises(ReadError, match="16 bit is not read whole: save it as grey"):
        read_mask(tmp_path / "deep.png")


@pytest.mark.parametrize("side", [16, 24])
def test_masks_stand_upright_as_their_images_do(tmp_path, side):
    """A camera's file: stored on its side, with the word that turns it; its mask saved in the same way, or upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    upright = np.zeros((16, side), np.uint8)
    upright[2:6, 1:9] = 255
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    for folder in ("train/good", "test/Ungood/img", "test/Ungood/label"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(upright).save(tmp_path / "train/good/a.png")
    for name in ("turned", "upright"):
        stored.save(tmp_path / f"test/Ungood/img/{name}.jpg", exif=exif, quality=95)
    stored.save(tmp_path / "test/Ungood/label/turned.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "test/Ungood/label/upright.png")
    (found,) = read_tree(tmp_path)
    for item in found.items[1:]:
        np.testing.assert_array_equal(read_mask(item.mask), upright > 0)
        np.testing.assert_array_equal(read_raster(item.image).pixels > 127, upright > 0)
