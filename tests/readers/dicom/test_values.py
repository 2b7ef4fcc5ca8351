"""Values as the file means them: odd lookup tables and rescales, and nothing of it on the console."""

import logging

import numpy as np
import pydicom
import pytest
from dicom_results import named
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from invad_med.data.slices import ReadError
from invad_med.readers.sources import read_slice, scan

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard
RAMP = (np.arange(64 * 64).reshape(64, 64) % 4096).astype(np.uint16)


def write(folder, pixels=RAMP, modality="DX", syntax=None, **elements):
    ds = pydicom.dcmread(named("MR_small.dcm"))
    ds.remove_private_tags()
    for keyword in ("WindowCenter", "WindowWidth", "PixelPaddingValue", "SmallestImagePixelValue",
                    "LargestImagePixelValue"):  # fmt: skip
        if keyword in ds:
            delattr(ds, keyword)
    ds.Modality, ds.PixelRepresentation, ds.BitsStored, ds.HighBit = modality, int(pixels.dtype.kind == "i"), 16, 15
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    folder.mkdir(exist_ok=True)
    ds.save_as(folder / "x.dcm")
    return folder


def table(entries, bits, first=0, packed=False):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    if packed:
        item.add_new(0x00283006, "OW", np.asarray(entries, np.uint8).tobytes())
    else:
        item.add_new(0x00283006, "US", [int(e) for e in entries])
    return item


def pixels_of(folder):
    (source,) = scan(folder).sources
    return read_slice(source, 0)


EIGHT = np.round(np.linspace(255, 0, 4096)).astype(int)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 13), (10, 7)])
def test_values_that_do_not_end_at_the_lowest_bit_are_refused(stored, high, tmp_path):
    write(tmp_path, RAMP << max(high + 1 - stored, 0), BitsStored=stored, HighBit=high)
    with pytest.raises(ReadError, match=f"High Bit .* is {high} with {stored} bits stored"):
        pixels_of(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_eight_bits_with_4096_entries(packed, tmp_path):
    write(tmp_path, VOILUTSequence=[table(EIGHT, 8, packed=packed)])
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, EIGHT[RAMP])


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_table_on_rescaled_fractions_rounds(bits, tmp_path):
    entries = (np.arange(512) * (2**bits - 1) // 511)[::-1]
    write(tmp_path, VOILUTSequence=[table(entries, bits, first=0)], RescaleSlope="0.1", RescaleIntercept="3.96")
    index = np.clip(np.rint(RAMP * 0.1 + 3.96), 0, 511).astype(int)
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, entries[index])


def test_a_table_of_65536_entries_and_signed_values(tmp_path):
    signed = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    entries = np.arange(65536) // 2
    write(tmp_path, signed, VOILUTSequence=[table(entries, 16, first=-32768)])
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, entries[signed.astype(int) + 32768])


def test_a_modality_table_of_many_entries_and_few_bits(tmp_path):
    write(tmp_path, modality="MR", ModalityLUTSequence=[table(EIGHT, 8)])
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, EIGHT[RAMP])


def test_a_table_that_is_cut_off_is_refused(tmp_path):
    item = table(EIGHT, 16)
    item.LUTDescriptor = [5000, 0, 16]
    write(tmp_path, VOILUTSequence=[item])
    with pytest.raises(ReadError, match="lookup table holds 4096 entries, its descriptor says 5000"):
        pixels_of(tmp_path)


@pytest.mark.parametrize("modality", ["MR", "CT", "DX", "PT"])
@pytest.mark.parametrize(("slope", "intercept"), [("0", "0"), ("0", "5"), ("0.0", "-1024"), ("-0", "0")])
def test_a_slope_of_zero_scales_nothing(modality, slope, intercept, tmp_path):
    write(tmp_path, modality=modality, RescaleSlope=slope, RescaleIntercept=intercept)
    piece = pixels_of(tmp_path)
    np.testing.assert_array_equal(piece.pixels, RAMP)
    assert piece.unit == "stored"
    (source,) = scan(tmp_path).sources
    assert any("Rescale Slope (0028,1053) is 0" in note for note in source.notes)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_rescale_that_is_no_number_scales_nothing(value, tmp_path):
    ds = pydicom.dcmread(write(tmp_path) / "x.dcm")
    ds.RescaleSlope, ds.RescaleIntercept = "1", "7"
    ds.save_as(tmp_path / "x.dcm")
    content = (tmp_path / "x.dcm").read_bytes()
    old = b"\x28\x00\x53\x10DS\x02\x001 "
    assert content.count(old) == 1
    (tmp_path / "x.dcm").write_bytes(content.replace(old, b"\x28\x00\x53\x10DS\x04\x00" + value.ljust(4).encode()))
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, RAMP)


def test_nothing_of_it_reaches_the_console(tmp_path, capfd, caplog):
    write(
        tmp_path, VOILUTSequence=[table(EIGHT, 8)], RescaleSlope="0.5", RescaleIntercept="0", PatientName="Doe^J" * 20
    )
    with caplog.at_level(logging.WARNING):
        pixels_of(tmp_path)
    assert capfd.readouterr().err == "" and not caplog.records


def test_a_big_endian_table(tmp_path):
    ds = pydicom.dcmread(named("MR_small_bigendian.dcm"))
    stored = ds.pixel_array.astype(int)
    entries = np.arange(4096)[::-1] * 3
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.add_new(0x00283006, "OW", entries.astype(">u2").tobytes())
    ds.Modality, ds.VOILUTSequence = "DX", [item]
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    ds.save_as(tmp_path / "x.dcm")
    np.testing.assert_array_equal(pixels_of(tmp_path).pixels, entries[np.clip(stored, 0, 4095)])


def test_the_shape_of_pixels_is_known_without_their_size(tmp_path):
    write(tmp_path, PixelSpacing=None, PixelAspectRatio=[2, 1])
    assert pixels_of(tmp_path).spacing == (2.0, 1.0)
