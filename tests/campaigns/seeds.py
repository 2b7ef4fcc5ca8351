"""Small good files of every kind that is read, to be damaged: made here, or cut from the files that pydicom ships."""

from __future__ import annotations

import copy
import gzip
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

# Nothing that a run says, or names a file by, may hold any of these words.
NAME, PATIENT, ROOT = "Quixbury^Zephyrine", "PID-7710394-K", "1.2.826.0.1.3680043.8.498.7749331"
IDENTITY = ("quixbury", "zephyrine", "7710394", "7749331", "acc-55817", "vexmoor", "19470313")


@dataclass(frozen=True)
class Seed:
    """A good input of one or more files.

    Args:
        name: of the kind, unique.
        format: dicom, nifti, png, jpeg or tiff, which decides how it can be damaged.
        files: name -> content.
        folder: of the modality that scores it.
    """

    name: str
    format: str
    files: dict[str, bytes]
    folder: str = "phantom"


def seeds() -> list[Seed]:
    """Return all seeds, the same ones on every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random = np.random.default_rng(14)
        return [*_dicom(random), *_nifti(random), *_png(random), *_jpeg(random), *_tiff(random)]


def picture(random: np.random.Generator, height: int = 32, width: int = 32, top: int = 255) -> np.ndarray:
    """Return a smooth disc with noise, (height, width) in 0..top."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    values = np.clip(1.1 - np.hypot(x, y * 1.2), 0, 1) * 0.8 + random.random((height, width)) * 0.2
    return np.round(values * top).astype(np.int64)


# ---- DICOM


def _shipped(name: str) -> Dataset:
    return pydicom.dcmread(get_testdata_file(name, download=False))


def _identified(ds: Dataset, number: int) -> Dataset:
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = NAME, PATIENT, "19470313", "O"
    ds.OtherPatientIDs, ds.AccessionNumber, ds.ReferringPhysicianName = ["7710394-B"], "ACC-55817", "Vexmoor^Ann"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1.{number}", f"{ROOT}.2.{number}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.{number}"
    if "FrameOfReferenceUID" in ds:
        ds.FrameOfReferenceUID = f"{ROOT}.4.{number}"
    return ds


def _base(number: int, pixels: np.ndarray, **elements: object) -> Dataset:
    ds = _shipped("MR_small.dcm")
    ds.remove_private_tags()
    for element in list(ds):
        if element.tag.group in (0x0010, 0x0040, 0x0032, 0x0088, 0x4008):
            del ds[element.tag]
    if "SmallestImagePixelValue" in ds:
        del ds.SmallestImagePixelValue, ds.LargestImagePixelValue
    _identified(ds, number)
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20240101", "101112", "1"
    ds.Rows, ds.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    ds.PixelSpacing, ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 5]
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.shape[-1] == 3:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def _bytes(ds: Dataset, syntax: UID | None = None, preamble: bool = True) -> bytes:
    ds = copy.deepcopy(ds)
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax is not None:
        ds.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue() if preamble else out.getvalue()[132:]


def _item(**elements: object) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def _enhanced(number: int, random: np.random.Generator, times: int = 1) -> Dataset:
    frames = np.stack([picture(random, 24, 24, 900) for _ in range(3 * times)]).astype(np.uint16)
    ds = _base(number, frames, NumberOfFrames=len(frames), FrameOfReferenceUID=f"{ROOT}.4.{number}")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness
    ds.SharedFunctionalGroupsSequence = [_item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness=3)],
    )]  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, 3 * (k % 3)])],
            FrameContentSequence=[
                _item(TemporalPositionIndex=k // 3 + 1, DimensionIndexValues=[k // 3 + 1, k % 3 + 1])
            ],
            PixelValueTransformationSequence=[_item(RescaleSlope=2, RescaleIntercept=-3, RescaleType="US")],
        )
        for k in range(3 * times)
    ]
    ds.DimensionIndexSequence = [_item(DimensionIndexPointer=0x00209128), _item(DimensionIndexPointer=0x00209057)]
    return ds


def _palette(number: int, random: np.random.Generator) -> Dataset:
    ds = _base(number, picture(random).astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for k, colour in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        table = (np.arange(256) * 257 // (k + 1)).astype("<u2").tobytes()
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", table)
    return ds


def _radiograph(number: int, pixels: np.ndarray, **elements: object) -> Dataset:
    ds = _base(number, pixels, Modality="CR", BodyPartExamined="CHEST", **elements)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    return ds


def _dicom(random: np.random.Generator) -> list[Seed]:
    deep = picture(random, 32, 32, 900).astype(np.uint16)
    colour = np.stack([picture(random) for _ in range(3)], -1).astype(np.uint8)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [1024, 0, 12])
    table.add_new("LUTData", "OW", (np.arange(1024, dtype="<u2") * 3).tobytes())
    made: dict[str, bytes] = {}
    plain = _base(1, deep)
    made["explicit"] = _bytes(plain)
    made["implicit"] = _bytes(plain, ImplicitVRLittleEndian)
    made["deflated"] = _bytes(plain, DeflatedExplicitVRLittleEndian)
    made["rle"] = _bytes(plain, RLELossless)
    made["jpeg2000"] = _bytes(plain, JPEG2000Lossless)
    made["jpegls"] = _bytes(plain, JPEGLSLossless)
    signed = _base(2, deep.astype(np.int16) - 300, RescaleSlope="1.5", RescaleIntercept="-1024")
    signed.add_new("PixelPaddingValue", "SS", -300)
    made["signed_rescaled"] = _bytes(signed)
    made["eight_bit_inverted"] = _bytes(
        _base(3, picture(random).astype(np.uint8), PhotometricInterpretation="MONOCHROME1")
    )
    made["palette"] = _bytes(_palette(4, random))
    made["rgb"] = _bytes(_base(5, colour))
    made["rgb_planes"] = _bytes(_base(6, colour, PlanarConfiguration=1))
    made["rgb_rle"] = _bytes(_base(7, colour), RLELossless)
    made["ybr"] = _bytes(_base(8, colour, PhotometricInterpretation="YBR_FULL"))
    made["enhanced"] = _bytes(_enhanced(9, random))
    made["enhanced_times"] = _bytes(_enhanced(10, random, times=2))
    frames = np.stack([picture(random) for _ in range(3)]).astype(np.uint8)
    bare = _base(11, frames, NumberOfFrames=3)
    del bare.ImagePositionPatient, bare.ImageOrientationPatient
    made["frames_without_place"] = _bytes(bare)
    made["frames_rle"] = _bytes(bare, RLELossless)
    made["frames_jpegls"] = _bytes(bare, JPEGLSLossless)
    for name in (
        "SC_rgb_jpeg_dcmtk.dcm",
        "JPEGLSNearLossless_16.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "MR_small_bigendian.dcm",
    ):
        ds = _identified(_shipped(name), 20 + len(made))
        ds.Modality = "MR"
        made[name.removesuffix(".dcm").replace("+", "_")] = _bytes(ds)
    found = [Seed(f"dicom_{name}", "dicom", {f"{name}.dcm": content}) for name, content in made.items()]
    found.append(Seed("dicom_no_ending", "dicom", {"image": _bytes(plain, preamble=False)}))
    found.append(Seed("dicom_report", "dicom", {"sr.dcm": _bytes(_identified(_shipped("test-SR.dcm"), 50))}))
    chest = {
        "window": _radiograph(30, deep, WindowCenter="400", WindowWidth="700", PhotometricInterpretation="MONOCHROME1"),
        "voi_lut": _radiograph(31, deep, VOILUTSequence=[table]),
        "modality_lut": _radiograph(32, deep, ModalityLUTSequence=[table]),
    }
    found += [Seed(f"dicom_cr_{n}", "dicom", {f"{n}.dcm": _bytes(ds)}, "chest") for n, ds in chest.items()]
    for label, syntax in (("", None), ("_rle", RLELossless)):
        files = {}
        for k in range(4):
            ds = _base(40, picture(random, 24, 24, 900).astype(np.uint16))
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.40.{k}"
            ds.ImagePositionPatient, ds.InstanceNumber = [0, 0, 4 * k], k + 1
            files[f"s{k}.dcm"] = _bytes(ds, syntax)
        found.append(Seed(f"dicom_series{label}", "dicom", files))
    return found


# ---- NIfTI


def _volume(random: np.random.Generator, shape: tuple[int, ...], dtype: str, top: int = 200) -> np.ndarray:
    planes = [picture(random, shape[0], shape[1], top) for _ in range(int(np.prod(shape[2:])))]
    return np.stack(planes, -1).reshape(shape).astype(dtype)


def _nifti_bytes(array: np.ndarray, kind: type = nib.Nifti1Image, slope: float | None = None, code: int = 1) -> bytes:
    affine = np.diag([1.0, 1.2, 1.5, 1.0])
    affine[:3, 3] = -10, -12, 4
    image = kind(array, affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    image.header["descrip"] = b"made for a test"
    if slope is not None:
        image.header.set_slope_inter(slope, -3.0)
    return image.to_bytes()


def _nifti(random: np.random.Generator) -> list[Seed]:
    made = {
        "int16.nii": _nifti_bytes(_volume(random, (24, 20, 3), "<i2")),
        "float32.nii.gz": gzip.compress(_nifti_bytes(_volume(random, (24, 20, 3), "<f4")), mtime=0),
        "flat.nii": _nifti_bytes(_volume(random, (32, 24), "<u2")),
        "one_slice.nii": _nifti_bytes(_volume(random, (32, 24, 1), "u1"), slope=0.5),
        "scaled.nii.gz": gzip.compress(_nifti_bytes(_volume(random, (20, 24, 2), "<i2"), slope=2.5), mtime=0),
        "double.nii": _nifti_bytes(_volume(random, (20, 20, 2), "<f8")),
        "two.nii": _nifti_bytes(_volume(random, (20, 20, 2), "<i2"), nib.Nifti2Image),
        "unoriented.nii": _nifti_bytes(_volume(random, (20, 24, 2), "<i2"), code=0),
    }
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    made["big_endian.nii"] = nib.Nifti1Image(_volume(random, (24, 20, 2), "<i2"), np.eye(4), header).to_bytes()
    return [Seed(f"nifti_{name.partition('.')[0]}", "nifti", {name: content}) for name, content in made.items()]


# ---- PNG


def chunk(kind: bytes, content: bytes, right: bool = True) -> bytes:
    """Return a chunk of a PNG, its checksum right or wrong."""
    check = zlib.crc32(kind + content) ^ (0 if right else 0x5A5A)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png_of(samples: np.ndarray, colour: int, interlaced: bool = False, depth: int | None = None) -> bytes:
    """Return a PNG of (H, W, samples) uint8 or uint16 of a PNG colour type; interlaced by Adam7."""
    height, width = samples.shape[:2]
    deep = samples.astype(">u2" if samples.dtype.itemsize == 2 else "u1")
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in deep[y::dy, x::dx] if row.size)
    head = struct.pack(">IIBBBBB", width, height, depth or 8 * deep.itemsize, colour, 0, 0, int(interlaced))
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _pillow(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _png(random: np.random.Generator) -> list[Seed]:
    grey = picture(random).astype(np.uint8)
    colour = np.stack([picture(random) for _ in range(3)], -1).astype(np.uint8)
    alpha = np.dstack([colour, np.full_like(grey, 200)])
    deep = picture(random, 24, 32, 60000).astype(np.uint16)
    deep_colour = np.stack([picture(random, 24, 24, 60000) for _ in range(3)], -1).astype(np.uint16)
    palette = Image.fromarray(colour).quantize(16)
    made = {
        "grey": png_of(grey[..., None], 0),
        "deep": png_of(deep[..., None], 0),
        "rgb": png_of(colour, 2),
        "rgba": png_of(alpha, 6),
        "grey_alpha": png_of(alpha[..., :2], 4),
        "deep_rgb": png_of(deep_colour, 2),
        "interlaced": png_of(grey[..., None], 0, interlaced=True),
        "interlaced_deep_rgb": png_of(deep_colour, 2, interlaced=True),
        "palette": _pillow(palette, "PNG"),
        "one_bit": _pillow(Image.fromarray(grey > 90), "PNG"),
    }
    return [Seed(f"png_{name}", "png", {f"{name}.png": content}) for name, content in made.items()]


# ---- JPEG, TIFF


def _jpeg(random: np.random.Generator) -> list[Seed]:
    grey = Image.fromarray(picture(random, 40, 32).astype(np.uint8))
    colour = Image.fromarray(np.stack([picture(random) for _ in range(3)], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "grey": _pillow(grey, "JPEG"),
        "rgb": _pillow(colour, "JPEG", exif=exif),
        "progressive": _pillow(colour, "JPEG", progressive=True),
        "cmyk": _pillow(colour.convert("CMYK"), "JPEG"),
    }
    return [Seed(f"jpeg_{name}", "jpeg", {f"{name}.jpg": content}) for name, content in made.items()]


def _tiff(random: np.random.Generator) -> list[Seed]:
    import tifffile

    grey = picture(random).astype(np.uint8)
    colour = np.stack([picture(random) for _ in range(3)], -1).astype(np.uint8)
    image, rgb = Image.fromarray(grey), Image.fromarray(colour)
    made = {f"grey_{c}": _pillow(image, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")}
    made |= {
        "grey": _pillow(image, "TIFF"),
        "rgb_jpeg": _pillow(rgb, "TIFF", compression="jpeg"),
        "palette": _pillow(rgb.quantize(16), "TIFF"),
        "one_bit_group4": _pillow(Image.fromarray(grey > 90), "TIFF", compression="group4"),
        "cmyk": _pillow(rgb.convert("CMYK"), "TIFF"),
        "pages": _pillow(image, "TIFF", save_all=True, append_images=[image.rotate(90), image.rotate(180)]),
    }
    deep = picture(random, 32, 32, 50000)
    arrays = {
        "uint16": deep.astype("<u2"), "uint32": deep.astype("<u4"), "int8": (grey // 2).astype("i1"),
        "int16": (deep - 30000).astype("<i2"), "float32": deep.astype("<f4"), "float64": deep.astype("<f8"),
        "rgb16": np.stack([deep, deep // 2, deep // 3], -1).astype("<u2"),
    }  # fmt: skip
    options: dict[str, tuple[str, dict]] = {name: (name, {}) for name in arrays}
    options |= {
        "tiled": ("uint16", dict(tile=(16, 16))), "big_endian": ("uint16", dict(byteorder=">")),
        "bigtiff": ("uint16", dict(bigtiff=True)), "strips": ("float32", dict(rowsperstrip=8)),
        "planes": ("rgb16", dict(planarconfig="separate")),
    }  # fmt: skip
    for name, (array, extra) in options.items():
        out = io.BytesIO()
        values = arrays[array]
        if extra.get("planarconfig") == "separate":
            values = np.moveaxis(values, -1, 0)
        photometric = "rgb" if values.ndim == 3 else "minisblack"
        tifffile.imwrite(out, values, photometric=photometric, metadata=None, **extra)
        made[name] = out.getvalue()
    return [Seed(f"tiff_{name}", "tiff", {f"{name}.tif": content}) for name, content in made.items()]
