"""What a file is by its first bytes and its name: which reader it goes to, why it is not read, or what it is else.

| content | name | what becomes of it |
|---|---|---|
| DICOM, NIfTI (.nii, .nii.gz), PNG, JPEG, TIFF | the format's | read |
| DICOM, PNG, JPEG | any other | read |
| TIFF | none, or that of a text or program file | read; under another ending the format is that ending's |
| NIfTI, plain or compressed | any other; a pair of .hdr and .img | listed: rename or convert it |
| DICOM, PNG, JPEG, TIFF compressed with gzip | any | listed: unpack it |
| archive | an image's | listed |
| archive | any other | counted as not opened |
| text, table, program ... | ending of `NO_IMAGES`, or no ending | counted by ending |
| anything else | | listed: convert it |
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO, Literal

from invad_med.data.slices import ReadError
from invad_med.readers import nifti, rasters
from invad_med.readers.decoding import ACCEPTED

Reader = Literal["dicom", "maybe dicom", "nifti", "raster"]
START = 352  # bytes: a NIfTI-1 header; TAR's and DICOM's marks lie in it

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
_ARCHIVES = set(".zip .gz .tar .tgz .7z .rar .bz2 .xz .zst .lz4 .z".split())
NO_IMAGES = set(
    ".txt .csv .tsv .json .jsonl .md .rst .xml .log .pdf .html .htm .css .js .py .pyc .ipynb .sh .bat .yaml .yml .toml "
    ".ini .cfg .doc .docx .xls .xlsx .ppt .pptx .rtf .tex .bib .sql .db .lock .pt .pth .ckpt .onnx .npz .pkl .sha256 "
    ".md5 .bvec .bval .url .lnk .exe .dll".split()
)
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "ZIP"), (b"PK\x05\x06", "ZIP"),
    (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "RAR"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\x04\x22\x4d\x18", "LZ4"),
)  # fmt: skip
_PICTURES = {"PNG", "JPEG", "TIFF"}
_PACKED = {"gzip", "ZIP", "7z", "RAR", "bzip2", "xz", "Zstandard", "LZ4", "TAR"}


def format_ending(path: Path) -> str:
    """Return the ending of a file name that is a format's, or nothing (``1.2.840.5`` has none)."""
    name = path.name.casefold()
    for ending in (".nii.gz", ".nii", *rasters.SUFFIXES, *DICOM_SUFFIXES):
        if name.endswith(ending) and len(name) > len(ending):
            return path.name[-len(ending) :]
    return ""


def content_of(start: bytes) -> str | None:
    """Return the format that the first `START` bytes of a file are of, or None."""
    if start[128:132] == b"DICM":
        return "DICOM"  # also where the preamble is the header of a TIFF, as PS3.10, 7.1 allows
    found = next((name for magic, name in _STARTS if start.startswith(magic)), None)
    if found is not None:
        return found
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size == 348 and start[344:348] in (b"n+1\0", b"ni1\0"):
            return "NIfTI" if start[344:346] == b"n+" else "NIfTI pair"
        if size == 540 and start[4:8] in (b"n+2\0", b"ni2\0"):
            return "NIfTI" if start[4:6] == b"n+" else "NIfTI pair"
    return "TAR" if start[257:262] == b"ustar" else None


def reader_of(path: Path, file: BinaryIO) -> Reader | str:
    """Return the reader a file goes to, or, of one that is no image, what it is counted as.

    Args:
        path: its name.
        file: the same, open at its beginning, where it is again afterwards.

    Raises:
        ReadError: an image that is not read as it is, or a format that is not read at all, with the reason.
    """
    start = file.read(START)
    content = content_of(start)
    if content == "gzip":
        file.seek(0)
        content = _inside(file) or "gzip"
    file.seek(0)
    ending, suffix = format_ending(path).casefold(), path.suffix.casefold()
    if ending in nifti.SUFFIXES and content not in (*_PICTURES, "DICOM"):
        return "nifti"
    if ending in rasters.SUFFIXES and content in (None, *_PICTURES):
        return "raster"
    if content == "DICOM":
        return "dicom"
    if content in ("PNG", "JPEG") or (content == "TIFF" and (ending or suffix in NO_IMAGES or _no_ending(suffix))):
        return "raster"
    if content == "NIfTI":
        raise ReadError("NIfTI under a name that ends in neither .nii nor .nii.gz; rename it")
    if content == "NIfTI pair":
        raise ReadError("NIfTI as a pair of files (.hdr and .img); convert it to one .nii file")
    if content is not None and content.startswith("compressed "):
        what = content.removeprefix("compressed ")
        advice = "rename it so that it ends in .nii.gz" if what == "NIfTI" else "unpack it first"
        raise ReadError(f"{what} compressed with gzip; {advice}")
    if content in _PACKED and ending:
        raise ReadError(f"{content} archive under the name of an image; unpack it first")
    if content == "gzip" and ".dcm." in path.name.casefold():
        raise ReadError("DICOM compressed with gzip; unpack it first")
    if suffix in NO_IMAGES:
        return f"{suffix} file"
    if content in _PACKED or suffix in _ARCHIVES:
        return f"{content or suffix} archive, not opened"
    if ending in DICOM_SUFFIXES:
        return "dicom"
    if _no_ending(suffix):  # a DICOM file may lack name ending and preamble, a README has them neither
        return "maybe dicom"
    raise ReadError(f"{suffix[1:].upper()} files are not read; convert it to one of {ACCEPTED}")


def _no_ending(suffix: str) -> bool:
    return not suffix or suffix[1:].isdigit()


def _inside(file: BinaryIO) -> str | None:
    """Return ``compressed <format>`` of an image in a gzip file, TAR of an archive, None of anything else."""
    try:
        start = zlib.decompressobj(31).decompress(file.read(65536), START)
    except zlib.error:
        return None
    content = content_of(start)
    if content in _PICTURES or content in ("DICOM", "NIfTI"):
        return f"compressed {content}"
    return "TAR" if content == "TAR" else None
