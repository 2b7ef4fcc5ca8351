"""DICOM pixels to slices, against SimpleITK where it follows the standard, else against the header by hand."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from invad_med.data.slices import ReadError, Source
from invad_med.readers.dicom.frames import frame_order
from invad_med.readers.dicom.headers import read_header
from invad_med.readers.dicom.pixels import read

pytestmark = pytest.mark.filterwarnings("ignore")  # the clinical files break small rules of the standard


def named(name):
    return get_testdata_file(name, download=False)


def read_file(path):
    frames = read_header(path).frames
    return read(Source("dicom", (path,), "case", frames))


def changed(tmp_path, name, **elements):
    """Return the path of a copy of a pydicom test file with other values; None deletes an element."""
    ds = pydicom.dcmread(named(name))
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        elif keyword == "pixels":
            ds.PixelData = value.tobytes()
        else:
            setattr(ds, keyword, value)
    path = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.dcm"
    ds.save_as(path)
    return path


def by_simpleitk(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze().astype(np.float32)


def from_path(name):
    return read_file(Path(named(name)))


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "bad_sequence.dcm"])
def test_ct_is_in_hounsfield_units(name):
    (piece,) = from_path(name)
    ds = pydicom.dcmread(named(name))
    expected = by_simpleitk(named(name))
    padding = ds.get("PixelPaddingValue")
    inside = np.ones(expected.shape, bool)
    if padding is not None:
        inside = expected != padding * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert piece.unit == "HU"
    np.testing.assert_allclose(piece.pixels[inside], expected[inside], atol=1)  # J2K lossy decoders round differently
    assert piece.pixels.min() == piece.pixels[inside].min()
    assert piece.spacing == tuple(map(float, ds.PixelSpacing))


@pytest.mark.parametrize("syntax", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian"])
def test_lossless_syntaxes_equal_the_uncompressed_image(syntax):
    (plain,), (coded,) = from_path("MR_small.dcm"), from_path(f"MR_small_{syntax}.dcm")
    np.testing.assert_array_equal(coded.pixels, plain.pixels)
    assert (coded.unit, coded.value_range) == ("stored", plain.value_range)


def test_jpeg_lossless_equals_simpleitk():
    (piece,) = from_path("JPEG-LL.dcm")
    np.testing.assert_array_equal(piece.pixels, by_simpleitk(named("JPEG-LL.dcm")))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_jpeg_extended_with_12_bits_is_refused_rather_than_decoded_wrongly(name):
    with pytest.raises(ReadError, match=r"^no codec decodes JPEG Extended .* with 12 bits rightly; decompress"):
        from_path(name)


def test_a_modality_lut_is_applied(tmp_path):
    (piece,) = from_path("mlut_18.dcm")
    ds = pydicom.dcmread(named("mlut_18.dcm"))
    lut = ds.ModalityLUTSequence[0]
    count, first, _ = lut.LUTDescriptor
    table = np.asarray(lut.LUTData)
    np.testing.assert_array_equal(piece.pixels, table[np.clip(ds.pixel_array.astype(int) - first, 0, count - 1)])
    assert piece.unit == "stored"

    lut.LUTDescriptor, lut.LUTData = [4096, -2048, 12], list(range(4096))  # a depth NumPy has no integer for
    ds.save_as(tmp_path / "lut.dcm")
    (piece,) = read_file(tmp_path / "lut.dcm")
    np.testing.assert_array_equal(piece.pixels, np.clip(ds.pixel_array.astype(int) + 2048, 0, 4095))


RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def test_radiographs_are_windowed_and_inverted(tmp_path):
    elements = dict(Modality="CR", PixelRepresentation=0, BitsStored=12, HighBit=11, pixels=RAMP)
    elements |= dict(WindowCenter=2048, WindowWidth=1024, SmallestImagePixelValue=None, LargestImagePixelValue=None)
    (bright,) = read_file(changed(tmp_path, "MR_small.dcm", PhotometricInterpretation="MONOCHROME2", **elements))
    (dark,) = read_file(changed(tmp_path, "MR_small.dcm", PhotometricInterpretation="MONOCHROME1", **elements))
    # PS3.3 C.11.2.1.2.1 with the output range of 12 bits
    window = np.clip(((RAMP - 2047.5) / 1023 + 0.5), 0, 1) * 4095
    np.testing.assert_allclose(bright.pixels, window, atol=1e-3)
    np.testing.assert_allclose(dark.pixels, 4095 - window, atol=1e-3)
    (none,) = read_file(changed(tmp_path, "MR_small.dcm", **(elements | dict(WindowWidth=0))))
    np.testing.assert_array_equal(none.pixels, RAMP)  # a window of no width is no window


def test_a_window_leaves_ct_and_mr_alone():
    (piece,) = from_path("MR_small.dcm")
    np.testing.assert_array_equal(piece.pixels, pydicom.dcmread(named("MR_small.dcm")).pixel_array)
    assert "WindowWidth" in pydicom.dcmread(named("MR_small.dcm"))


def test_a_real_monochrome1_radiograph_shows_the_body_bright():
    (piece,) = from_path("RG1_UNCI.dcm")
    ds = pydicom.dcmread(named("RG1_UNCI.dcm"))
    assert ds.PhotometricInterpretation == "MONOCHROME1"
    assert np.corrcoef(piece.pixels.ravel(), ds.pixel_array.ravel())[0, 1] < -0.9


def test_hounsfield_units_are_not_inverted(tmp_path):
    (plain,) = from_path("CT_small.dcm")
    (piece,) = read_file(changed(tmp_path, "CT_small.dcm", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(piece.pixels, plain.pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_becomes_background(tmp_path, photometric):
    pixels = np.full((64, 64), 300, np.int16)
    pixels[0], pixels[1], pixels[2] = -2000, 100, 500
    path = changed(tmp_path, "MR_small.dcm", pixels=pixels, PhotometricInterpretation=photometric)
    ds = pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "SS", -2000)
    ds.save_as(path)
    (piece,) = read_file(path)
    low, high = (100, 500) if photometric == "MONOCHROME2" else (500, 100)
    assert [piece.pixels[r, 0] for r in range(4)] == [100, low, high, 300]


def test_overlay_bits_above_the_stored_ones_are_dropped(tmp_path):
    elements = dict(PixelRepresentation=0, BitsStored=12, HighBit=11, pixels=RAMP | 0x8000)
    elements |= dict(SmallestImagePixelValue=None, LargestImagePixelValue=None)
    (piece,) = read_file(changed(tmp_path, "MR_small.dcm", **elements))
    np.testing.assert_array_equal(piece.pixels, RAMP)


def test_eight_bit_captures_are_in_a_display_range_and_measurements_are_not(tmp_path):
    grey = (RAMP // 16).astype(np.uint8)
    elements = dict(PixelRepresentation=0, BitsAllocated=8, BitsStored=8, HighBit=7, pixels=grey)
    elements |= dict(SmallestImagePixelValue=None, LargestImagePixelValue=None)
    (piece,) = read_file(changed(tmp_path, "MR_small.dcm", Modality="OPT", **elements))
    assert (piece.unit, piece.value_range) == ("8bit", (0.0, 255.0))
    (piece,) = read_file(changed(tmp_path, "MR_small.dcm", Modality="MR", **elements))
    assert piece.unit == "stored"
    np.testing.assert_array_equal(piece.pixels, grey)


def test_a_ct_without_hounsfield_scale_claims_none(tmp_path):
    (piece,) = read_file(changed(tmp_path, "CT_small.dcm", RescaleSlope=None, RescaleIntercept=None))
    assert piece.unit == "stored"
    (piece,) = read_file(changed(tmp_path, "CT_small.dcm", RescaleType="ED"))
    assert piece.unit == "stored"


def test_enhanced_ct_frames_are_rescaled():
    pieces = from_path("eCT_Supplemental.dcm")
    expected = by_simpleitk(named("eCT_Supplemental.dcm"))
    assert [p.unit for p in pieces] == ["HU", "HU"]
    order = frame_order(pydicom.dcmread(named("eCT_Supplemental.dcm")), 2)
    assert sorted(order) == [0, 1]
    volume = np.stack([p.pixels for p in pieces])
    assert (volume.min(), volume.max()) == (expected.min(), expected.max())
    stored = pydicom.dcmread(named("eCT_Supplemental.dcm")).pixel_array
    np.testing.assert_array_equal(volume, stored[order] - 1024.0)
    assert pieces[0].spacing is not None


def test_enhanced_frames_are_sorted_and_rescaled_one_by_one(tmp_path):
    ds = pydicom.dcmread(named("emri_small.dcm"))
    stored = ds.pixel_array
    places = np.random.default_rng(0).permutation(10)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.75]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    frames = []
    for place in places:
        frame, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, float(place) * 2.5]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = float(place + 1), 10.0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([position]), Sequence([scale])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    ds.save_as(tmp_path / "enhanced.dcm")
    pieces = read_file(tmp_path / "enhanced.dcm")
    assert frame_order(ds, 10) == list(np.argsort(places))
    for place, piece in enumerate(pieces):
        frame = int(np.argsort(places)[place])
        np.testing.assert_array_equal(piece.pixels, stored[frame].astype(np.float32) * (place + 1) + 10)
        assert piece.spacing == (0.5, 0.75)


def test_colour_of_every_kind_becomes_rgb():
    (rgb,), (ybr,), (jpeg,) = map(from_path, ["SC_rgb.dcm", "SC_ybr_full_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
    np.testing.assert_array_equal(rgb.pixels, by_simpleitk(named("SC_rgb.dcm")))
    for other in (ybr, jpeg):
        assert (other.pixels.dtype, other.unit) == (np.uint8, "8bit")
        assert np.abs(other.pixels.astype(int) - rgb.pixels).mean() < 2  # rounding of YBR, JPEG loss
    (sixteen,) = from_path("SC_rgb_rle_16bit.dcm")
    np.testing.assert_array_equal(sixteen.pixels, rgb.pixels)


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "examples_palette.dcm"])
def test_a_palette_becomes_rgb(name):
    (piece,) = from_path(name)
    expected = by_simpleitk(named(name))
    expected = expected / 257 if expected.max() > 255 else expected
    assert piece.pixels.shape[2] == 3
    np.testing.assert_allclose(piece.pixels, expected, atol=1)


def test_equal_channels_become_grey(tmp_path):
    grey = np.arange(100 * 100, dtype=np.uint32).reshape(100, 100) % 256
    (piece,) = read_file(changed(tmp_path, "SC_rgb.dcm", pixels=np.dstack([grey] * 3).astype(np.uint8)))
    np.testing.assert_array_equal(piece.pixels, grey)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (dict(pixels=np.zeros(1000, np.int16)), r"^pixel data \(.*\) cannot be read \(The number of bytes of pixel"),
        (dict(Rows=65535, Columns=65535), "^1 image.* of 65535 x 65535 pixels is more than is read at once; crop"),
        (dict(NumberOfFrames=10**9), "^1000000000 image.* of 128 x 128 pixels is more than"),
        (dict(NumberOfFrames=-1), r"^Number of Frames \(0028,0008\) is -1"),
        (dict(Rows=0), "^header gives 1 image.* of 0 x 128 pixels"),
        (dict(PixelData=None), r"^pixel data \(7FE0,0010\) is missing or cut off"),
        (dict(PhotometricInterpretation="HSV"), "HSV"),
    ],
)
def test_damage_gives_a_reason(elements, message, tmp_path):
    path = changed(tmp_path, "CT_small.dcm", **elements)
    with pytest.raises(ReadError, match=message) as caught:
        read(Source("dicom", (path,), "case", 1))
    assert "\n" not in str(caught.value)
    for secret in (str(tmp_path), "changed", "CompressedSamples"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_compressed_files_cut_in_half_are_refused(name, tmp_path):
    data = Path(named(name)).read_bytes()
    (tmp_path / "half.dcm").write_bytes(data[: len(data) - 2500])
    with pytest.raises(ReadError, match=r"^file is cut off or damaged$"):
        read_file(tmp_path / "half.dcm")
    ds = pydicom.dcmread(named(name))
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    ds.save_as(tmp_path / "shorter.dcm")
    with pytest.raises(ReadError, match=r"^pixel data \(.*\) is damaged or cut off$"):
        read_file(tmp_path / "shorter.dcm")


def test_missing_transfer_syntax_is_said(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    body = tmp_path / "body"
    del ds.file_meta.TransferSyntaxUID
    pydicom.dcmwrite(body, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(ReadError, match=r"^no Transfer Syntax UID \(0002,0010\)"):
        read(Source("dicom", (body,), "case", 1))


def test_one_bad_file_does_not_spoil_its_series(tmp_path):
    good = changed(tmp_path, "CT_small.dcm")
    bad = changed(tmp_path, "CT_small.dcm", pixels=np.zeros(10, np.int16))
    first, second = read(Source("dicom", (good, bad), "case", 2))
    assert first.unit == "HU"
    assert isinstance(second, ReadError)


def test_rle_written_by_pydicom_equals_its_source(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.compress(RLELossless)
    ds.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_file(tmp_path / "rle.dcm")[0].pixels, from_path("CT_small.dcm")[0].pixels)
