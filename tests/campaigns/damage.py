"""Ways to damage a file: blindly, and where its format has numbers that a reader believes.

Every function takes the content and a random generator and returns content; what it cannot do with a file it refuses
by a ValueError (or an error of a library), and the caller then damages it blindly.
"""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.campaigns.seeds import Seed, chunk

Random = np.random.Generator
Damage = Callable[[bytes, Random], bytes]


def damaged(seed: Seed, content: bytes, random: Random) -> bytes:
    """Return the content of a seed's file, damaged once or, one time in five, twice."""
    result = content
    for _ in range(1 + (random.random() < 0.2)):
        choices = [*BLIND, *(FORMATS[seed.format] * 2)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = choices[random.integers(len(choices))](result, random)
        except Exception:  # a library that will not write such a thing
            result = flipped(result, random)
    return result if result != content else flipped(content, random)


# ---- without regard to the format


def flipped(data: bytes, random: Random) -> bytes:
    """Flip 1 to 50 bits, or set as many bytes, anywhere or only near the beginning."""
    changed = bytearray(data or b"\0")
    near = len(changed) if random.random() < 0.5 else min(len(changed), 600)
    for at in random.integers(0, near, size=int(random.integers(1, 51))):
        changed[at] = random.integers(256) if random.random() < 0.3 else changed[at] ^ 1 << int(random.integers(8))
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    """Keep the beginning."""
    return data[: int(random.integers(0, len(data) + 1))]


def blocks(data: bytes, random: Random) -> bytes:
    """Zero, fill, remove, repeat or exchange a block, or put noise in its place."""
    size = int(random.integers(1, max(2, min(len(data), 2048))))
    at, other = (int(random.integers(0, max(1, len(data) - size))) for _ in range(2))
    block = data[at : at + size]
    noise = random.bytes(len(block))
    instead = [b"\0" * len(block), b"\xff" * len(block), b"", block * 2, noise, data[other : other + size]]
    return data[:at] + instead[int(random.integers(len(instead)))] + data[at + size :]


def longer(data: bytes, random: Random) -> bytes:
    """Append noise, zeros or the file itself."""
    more = [random.bytes(int(random.integers(1, 3000))), b"\0" * int(random.integers(1, 3000)), data]
    return data + more[int(random.integers(3))]


BLIND: list[Damage] = [flipped, flipped, cut, blocks, longer]


# ---- DICOM

_WORDS = (
    "", " ", "nan", "inf", "-inf", "1e300", "1e30", "-1e30", "0", "-5", "-0", "1e-300", "abc", "1,5", "9" * 40, "\\",
)  # fmt: skip
_VALUES: dict[str, tuple[object, ...]] = {
    "Rows": (0, 1, 7, 33, 255, 4096, 65535), "Columns": (0, 1, 7, 33, 255, 4096, 65535),
    "NumberOfFrames": (
        "0", "1", "2", "7", "-1", "99", "5000", "99999999", "2147483647", "99999999999", "1e3", "x", "3\\3",
    ),
    "BitsAllocated": (0, 1, 4, 8, 12, 16, 32, 64, 65535), "BitsStored": (0, 1, 7, 8, 12, 16, 32, 65535),
    "HighBit": (0, 1, 7, 11, 15, 31, 65535), "PixelRepresentation": (0, 1, 2, 65535),
    "SamplesPerPixel": (0, 1, 2, 3, 4, 65535), "PlanarConfiguration": (0, 1, 2, 65535),
    "PhotometricInterpretation": (
        "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "ARGB",
        "", "monochrome2", "X" * 99,
    ),
    "PixelSpacing": (
        "0\\0", "nan\\nan", "-1\\-1", "1e300\\1e-300", "1", "1\\2\\3", "", "1e-9\\1", "a\\b", "1e30\\1e30",
    ),
    "ImagerPixelSpacing": ("0\\0", "nan\\1", "-1\\2"),
    "ImagePositionPatient": (
        "nan\\nan\\nan", "1e30\\1e30\\1e30", "-1e300\\0\\0", "inf\\0\\0", "1\\2", "", "0\\0\\9999999", "a\\b\\c",
        "0\\0\\0\\0",
    ),
    "ImageOrientationPatient": (
        "0\\0\\0\\0\\0\\0", "nan\\nan\\nan\\nan\\nan\\nan", "1\\0\\0\\1\\0\\0", "1e300\\0\\0\\0\\1e300\\0",
        "1e-200\\0\\0\\0\\1e-200\\0", "2\\0\\0\\0\\3\\0", "1\\0\\0", "", "0\\1\\0\\0\\0\\-1", "1\\1\\0\\0\\1\\1",
    ),
    "SliceThickness": _WORDS, "SpacingBetweenSlices": _WORDS, "SliceLocation": _WORDS, "InstanceNumber": _WORDS,
    "SeriesNumber": _WORDS, "AcquisitionNumber": _WORDS, "EchoTime": _WORDS, "EchoNumbers": _WORDS,
    "RepetitionTime": _WORDS, "RescaleSlope": _WORDS, "RescaleIntercept": _WORDS, "WindowCenter": _WORDS,
    "WindowWidth": _WORDS, "PixelPaddingValue": (0, 1, 300, 65535), "PixelPaddingRangeLimit": (0, 65535),
    "SOPClassUID": (
        "", "1.2.3", "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2", "9" * 200,
    ),
    "SOPInstanceUID": ("", "1.2", "9" * 200, "x", "1..2", "1.2\\1.3"),
    "SeriesInstanceUID": ("", "1.2", "9" * 200, "x y", "1.2\\1.3"),
    "StudyInstanceUID": ("", "1.2", "9" * 200, "../../x"), "FrameOfReferenceUID": ("", "x", "9" * 200),
    "Modality": ("", "CT", "MR", "PT", "OT", "SEG", "DX", "XX\\YY", "m\0r"),
    "BodyPartExamined": ("", "HEAD", "FOOT", "X" * 300),
    "ImageType": ("", "MOSAIC", "ORIGINAL\\PRIMARY\\LOCALIZER", "\\".join(["X"] * 5000), "DERIVED\\SECONDARY\\ADC"),
    "StudyDate": ("", "99999999", "20241301", "yesterday"), "StudyTime": ("", "999999", "noon", "1e9"),
    "AcquisitionTime": ("", "999999.9", "noon"), "ContentTime": ("", "noon", "-1"),
    "SpecificCharacterSet": ("", "ISO_IR 192", "ISO_IR 999", "ISO 2022 IR 87\\ISO 2022 IR 149", "utf-7", "\\\\"),
    "RescaleType": ("", "HU", "X" * 99), "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "x"),
    "FrameIncrementPointer": (0, 65535), "LossyImageCompression": ("01", "x"), "PatientPosition": ("", "XYZ"),
    "PatientSex": ("", "XYZ" * 30), "DimensionIndexValues": (0,), "TemporalPositionIndex": (0,),
    "LUTDescriptor": (0,), "RedPaletteColorLookupTableDescriptor": (0,), "InStackPositionNumber": (0, 65535),
}  # fmt: skip
_RIGHT_VR = {"NumberOfFrames": "IS"}
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.1.98", "1.2.3.4", "",
)  # fmt: skip


def _parsed(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data), force=True)


def _written(ds: Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=False)
    return out.getvalue()


def _raw(ds: Dataset, tag: int, vr: str, value: bytes) -> None:
    value += b" " * (len(value) % 2)
    ds[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def _datasets(ds: Dataset) -> list[Dataset]:
    found = [ds]
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                found += _datasets(item)
    return found


def absurd_value(data: bytes, random: Random) -> bytes:
    """Give one to three elements that readers believe absurd values, at the top or inside sequences."""
    ds = _parsed(data)
    places = [(part, keyword) for part in _datasets(ds) for keyword in _VALUES if keyword in part]
    for _ in range(int(random.integers(1, 4))):
        part, keyword = places[int(random.integers(len(places)))]
        choices = _VALUES[keyword]
        value = choices[int(random.integers(len(choices)))]
        tag = int(Tag(keyword))
        if isinstance(value, str):
            vr = part.get_item(tag).VR or "UN"
            _raw(part, tag, vr, value.encode())
        else:
            _raw(part, tag, "US", struct.pack("<H", value) * int(random.choice([1, 1, 1, 3])))
    return _written(ds)


def new_value(data: bytes, random: Random) -> bytes:
    """Add an element that the file did not have, with an absurd value."""
    ds = _parsed(data)
    keywords = [k for k in _VALUES if k not in ds]
    keyword = keywords[int(random.integers(len(keywords)))]
    value = _VALUES[keyword][int(random.integers(len(_VALUES[keyword])))]
    vr = pydicom.datadict.dictionary_VR(keyword)[:2]
    _raw(ds, int(Tag(keyword)), vr, value.encode() if isinstance(value, str) else struct.pack("<H", value))
    return _written(ds)


def missing(data: bytes, random: Random) -> bytes:
    """Remove one to five elements, at the top or inside sequences."""
    ds = _parsed(data)
    for _ in range(int(random.integers(1, 6))):
        parts = [part for part in _datasets(ds) if len(part)]
        part = parts[0] if random.random() < 0.6 else parts[int(random.integers(len(parts)))]
        tags = list(part.keys())
        del part[tags[int(random.integers(len(tags)))]]
    return _written(ds)


def other_syntax(data: bytes, random: Random) -> bytes:
    """State another Transfer Syntax, or none, or no file meta information at all."""
    ds = _parsed(data)
    syntax = _SYNTAXES[int(random.integers(len(_SYNTAXES)))].encode()
    old = str(ds.file_meta.TransferSyntaxUID).encode()
    at = data.find(old, 132)
    if random.random() < 0.15:
        start = data.find(b"\x08\x00", 140)
        return data[:132] + data[start:]
    size = len(old) + len(old) % 2
    return data[:at] + syntax[:size].ljust(size, b"\0") + data[at + size :]


def _elements(data: bytes) -> list[int]:
    """Return where the elements of an explicit little endian file begin, sequences entered."""
    found, at = [], 132
    while at + 8 <= len(data):
        vr, long = data[at + 4 : at + 6], data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC")
        if not vr.isalpha() or not vr.isupper():
            if data[at : at + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"):
                at += 8
                continue
            break
        found.append(at)
        size = struct.unpack_from("<I", data, at + 8)[0] if long else struct.unpack_from("<H", data, at + 6)[0]
        at += (12 if long else 8) + (0 if vr == b"SQ" or size == 0xFFFFFFFF else size)
    if len(found) < 5:
        raise ValueError("not explicit little endian")
    return found


def broken_element(data: bytes, random: Random) -> bytes:
    """Give elements a wrong VR, length or tag in the encoded file; undefined lengths among them."""
    changed = bytearray(data)
    places = _elements(data)
    for _ in range(int(random.integers(1, 4))):
        at = places[int(random.integers(len(places)))]
        long = bytes(changed[at + 4 : at + 6]) in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        choice = int(random.integers(4))
        if choice == 0:
            vrs = (b"SQ", b"UN", b"OB", b"OW", b"DS", b"IS", b"US", b"FL", b"AT", b"PN", b"ZZ", b"\0\0", b"UT")
            changed[at + 4 : at + 6] = vrs[int(random.integers(len(vrs)))]
        elif choice == 1 and long:
            size = int(random.choice([0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0, 1, 10**8, 7]))
            changed[at + 8 : at + 12] = struct.pack("<I", size)
        elif choice <= 2:
            changed[at + 6 : at + 8] = struct.pack("<H", int(random.choice([0, 1, 3, 0xFFFF, 0xFFFE, 4096])))
        else:
            tags = ("28001000", "e07f1000", "feffdde0", "00523092", "09001000")
            changed[at : at + 4] = bytes.fromhex(tags[int(random.integers(len(tags)))])
    return bytes(changed)


def nested(data: bytes, random: Random) -> bytes:
    """Put sequences inside one another, deep or broad, or functional groups that make no sense."""
    ds = _parsed(data)
    inner = Dataset()
    inner.PatientID = "x"
    for _ in range(int(random.choice([3, 40, 200]))):
        outer = Dataset()
        outer.ReferencedImageSequence = [inner]
        inner = outer
    keywords = ("ReferencedImageSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
                "VOILUTSequence", "ModalityLUTSequence", "DimensionIndexSequence", "SourceImageSequence")  # fmt: skip
    count = int(random.choice([0, 1, 2, 300]))
    items = [inner if count < 3 else Dataset() for _ in range(count)]
    setattr(ds, keywords[int(random.integers(len(keywords)))], items)
    return _written(ds)


def pixels_other(data: bytes, random: Random) -> bytes:
    """Leave the pixel data out, empty it, make it shorter or longer, or keep it under another element."""
    ds = _parsed(data)
    pixels = bytes(ds.PixelData)
    choice = int(random.integers(5))
    if choice == 0:
        del ds.PixelData
    elif choice == 4:
        ds.add_new(["FloatPixelData", "DoubleFloatPixelData"][int(random.integers(2))], "OF", pixels)
    else:
        size = int(random.integers(0, len(pixels)))
        ds["PixelData"].value = [b"", pixels[: size - size % 2], pixels * 3][choice - 1]
    return _written(ds)


# ---- NIfTI

_FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40, 3.4e38, 1e-8)
_SHORTS = (0, -1, 1, 2, 7, 300, 2000, 32767, -32768)
_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 255, -1)


def nifti_header(data: bytes, random: Random) -> bytes:
    """Give one to three fields of a NIfTI header, inside its gzip file if it is one, absurd values."""
    packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if packed else data
    changed = bytearray(plain.ljust(352, b"\0"))
    order = ">" if changed[:4] in (b"\0\0\x01\x5c", b"\0\0\x02\x1c") else "<"
    if struct.unpack_from(f"{order}i", changed)[0] == 540:
        fields = {"dim": (16, "q", 8), "pixdim": (104, "d", 8), "offset": (168, "q", 1), "slope": (176, "d", 2),
                  "type": (12, "h", 2), "code": (344, "i", 2), "matrix": (352, "d", 18),
                  "size": (0, "i", 1)}  # fmt: skip
    else:
        fields = {"dim": (40, "h", 8), "pixdim": (76, "f", 8), "offset": (108, "f", 1), "slope": (112, "f", 2),
                  "type": (70, "h", 2), "code": (252, "h", 2), "matrix": (256, "f", 18), "size": (0, "i", 1),
                  "units": (123, "b", 1), "magic": (344, "i", 1), "extension": (348, "i", 1)}  # fmt: skip
    for _ in range(int(random.integers(1, 4))):
        name = list(fields)[int(random.integers(len(fields)))]
        start, kind, count = fields[name]
        at = start + struct.calcsize(kind) * int(random.integers(count))
        choices = _TYPES if name == "type" else _FLOATS if kind in "fd" else _SHORTS
        value = choices[int(random.integers(len(choices)))]
        if name == "offset":
            value = type(value)([0, 1, 351, 353, 10**6, -5, 2**31][int(random.integers(7))])
        if kind == "b":
            value = int(value) % 100
        struct.pack_into(f"{order}{kind}", changed, at, value)
    return gzip.compress(bytes(changed), mtime=0) if packed else bytes(changed)


def repacked(data: bytes, random: Random) -> bytes:
    """Compress what is plain or the other way round, cut or damaged on the inside, or with a member behind it."""
    if data[:2] != b"\x1f\x8b":
        return gzip.compress(data, mtime=0)
    plain = gzip.decompress(data)
    inside = [plain, cut(plain, random), flipped(plain, random), longer(plain, random)][int(random.integers(4))]
    return gzip.compress(inside, mtime=0) + [b"", gzip.compress(plain)][int(random.integers(2))]


# ---- PNG, JPEG


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not found or found[0][0] != b"IHDR":
        raise ValueError("not a PNG")
    return found


def png_header(data: bytes, random: Random) -> bytes:
    """Change size, depth, colour type or method in the header of a PNG, its checksum right or wrong."""
    parts = _chunks(data)
    head = bytearray(parts[0][1])
    for _ in range(int(random.integers(1, 3))):
        choice = int(random.integers(3))
        if choice == 0:
            sizes = (0, 1, 7, 33, 64, 1000, 9000, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
            struct.pack_into(">I", head, int(random.choice([0, 4])), int(random.choice(sizes)))
        elif choice == 1:
            head[8] = int(random.choice([0, 1, 2, 4, 8, 16, 32, 255]))
        else:
            head[9 + int(random.integers(4))] = int(random.choice([0, 1, 2, 3, 4, 5, 6, 255]))
    right = random.random() < 0.75
    return data[:8] + b"".join(chunk(k, bytes(head) if k == b"IHDR" else c, right) for k, c in parts)


def png_chunks(data: bytes, random: Random) -> bytes:
    """Remove, repeat, exchange or add chunks, or change the content of one, with right checksums."""
    parts = _chunks(data)
    at = int(random.integers(len(parts)))
    choice = int(random.integers(6))
    kinds = b"PLTE tRNS gAMA iCCP tEXt zTXt pHYs eXIf acTL fcTL fdAT XXXX IDAT".split()
    kind = kinds[int(random.integers(len(kinds)))]
    content = [b"", random.bytes(int(random.integers(1, 900))), b"x\0\0" + zlib.compress(b"\0" * 2**21)]
    if choice == 0:
        del parts[at]
    elif choice == 1:
        parts.insert(at, parts[int(random.integers(len(parts)))])
    elif choice == 2:
        random.shuffle(parts)  # type: ignore[arg-type]
    elif choice == 3:
        parts.insert(int(random.integers(1, len(parts) + 1)), (kind, content[int(random.integers(3))]))
    elif choice == 4:
        pixels = b"".join(c for k, c in parts if k == b"IDAT")
        raw = zlib.decompress(pixels)
        raw = [flipped(raw, random), cut(raw, random), raw * 3, blocks(raw, random)][int(random.integers(4))]
        parts = [(k, zlib.compress(raw)) if k == b"IDAT" else (k, c) for k, c in parts]
    else:
        parts[at] = (parts[at][0], flipped(parts[at][1], random))
    return data[:8] + b"".join(chunk(*part) for part in parts)


def jpeg_segments(data: bytes, random: Random) -> bytes:
    """Change what the segments of a JPEG state: size, precision, components, tables, their own lengths."""
    changed, at, places = bytearray(data), 2, []
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        places.append(at)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    place = places[int(random.integers(len(places)))]
    if data[place + 1] in (0xC0, 0xC1, 0xC2) or random.random() < 0.5:
        frame = next(p for p in places if data[p + 1] in (0xC0, 0xC1, 0xC2))
        choice = int(random.integers(4))
        if choice < 2:
            struct.pack_into(">H", changed, frame + 5 + 2 * choice, int(random.choice([0, 1, 7, 3000, 20000, 65535])))
        else:
            changed[frame + [4, 9][choice - 2]] = int(random.choice([0, 1, 2, 3, 4, 8, 12, 16, 255]))
    elif random.random() < 0.5:
        struct.pack_into(">H", changed, place + 2, int(random.choice([0, 1, 2, 3, 9, 65535])))
    else:
        changed[place + 4 : place + 20] = random.bytes(16)
    return bytes(changed)


# ---- TIFF

_SIZES = (0, 1, 2, 3, 7, 16, 64, 1000, 65535, 2**20, 2**31 - 1, 2**32 - 1)
_BELIEVED = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 338, 320, 33550, 700)


def tiff_tags(data: bytes, random: Random) -> bytes:
    """Change types, counts, values and offsets in the directories of a TIFF, and where the next one is."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    changed, directories = bytearray(data), []
    at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    head, width, offset = (8, 20, "Q") if big else (2, 12, "I")
    while at and at + head <= len(data) and at not in directories and len(directories) < 9:
        directories.append(at)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
        (at,) = struct.unpack_from(f"{order}{offset}", data, at + head + width * count)
    for _ in range(int(random.integers(1, 4))):
        start = directories[int(random.integers(len(directories)))]
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        entries = [start + head + width * k for k in range(count)]
        believed = [e for e in entries if struct.unpack_from(f"{order}H", data, e)[0] in _BELIEVED]
        entry = (believed or entries)[int(random.integers(len(believed or entries)))]
        choice = int(random.integers(6))
        if choice == 0:
            struct.pack_into(f"{order}H", changed, entry, int(random.choice(_BELIEVED)))
        elif choice == 1:
            kind = int(random.choice([0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 16, 99]))
            struct.pack_into(f"{order}H", changed, entry + 2, kind)
        elif choice == 2:
            struct.pack_into(f"{order}{offset}", changed, entry + 4, int(random.choice(_SIZES)))
        elif choice == 3:
            loop = int(random.choice([0, 1, 4, 8, start, directories[0], len(data) - 4, 2**32 - 1]))
            struct.pack_into(f"{order}{offset}", changed, start + head + width * count, loop)
        else:
            kind, most = ("H", 2**16) if random.random() < 0.5 else ("I", 2**32)
            value = int(random.choice(_SIZES)) % most
            struct.pack_into(f"{order}{kind}", changed, entry + width - (8 if big else 4), value)
    return bytes(changed)


FORMATS: dict[str, list[Damage]] = {
    "dicom": [*[absurd_value] * 3, new_value, missing, other_syntax, broken_element, nested, pixels_other],
    "nifti": [nifti_header, nifti_header, nifti_header, repacked],
    "png": [png_header, png_chunks],
    "jpeg": [jpeg_segments],
    "tiff": [tiff_tags, tiff_tags],
}
