"""What the three readers share: limits, grey or colour, one scale per source, errors that name no file."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from invad_med.data.slices import ReadError

ACCEPTED = "PNG, JPEG, TIFF, NIfTI (.nii, .nii.gz) and DICOM"
MAX_IMAGE_PIXELS = 2**28  # one 2-D image; a corrupt header must not allocate the machine's memory
MAX_SOURCE_VALUES = 2**30  # all slices of a source, 4 GiB as float32
_QUOTED = re.compile(r"(?<!\w)[bru]{0,2}(['\"]).*?(?:\1(?!\w)|$)")
MOST_PACKED = 1032  # how many times as large as its compressed form content can be (RFC 1951)
_SAMPLE = 2**22  # values a percentile is taken from; more would cost seconds per volume and change nothing


def check_size(height: int, width: int, count: int = 1, samples: int = 1) -> None:
    """Raise ReadError if a header claims more pixels than are decoded."""
    if height < 1 or width < 1 or count < 1:
        raise ReadError(f"header gives {count} image(s) of {height} x {width} pixels")
    if height * width > MAX_IMAGE_PIXELS or height * width * count * samples > MAX_SOURCE_VALUES:
        raise ReadError(f"{count} image(s) of {height} x {width} pixels is more than is read at once; crop or split it")


def is_length(value: float) -> bool:
    """Return whether a number can be a distance in mm: 1e-7 to 1e7, so that ratios of such can be computed with."""
    return 1e-7 <= value <= 1e7


def grey_or_colour(image: np.ndarray) -> np.ndarray:
    """Return (H, W) float32 if the channels of an (H, W, 3) uint8 image are equal, else the image itself."""
    first = image[..., 0]
    if np.array_equal(first, image[..., 1]) and np.array_equal(first, image[..., 2]):
        return first.astype(np.float32)
    return np.ascontiguousarray(image)


def value_range(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentile of finite arrays together, which are looked at one at a time.

    A huge source is sampled evenly, always at the same places. Where the percentiles coincide (a mask with few set
    pixels) minimum and maximum are returned, so low == high only if all values are equal.
    """
    step = sample_step(sum(a.size for a in images))
    return range_of_sample(np.concatenate([a.ravel()[::step].copy() for a in images]), images)


def sample_step(size: int) -> int:
    """Return of how many values of a source one is in the sample that a percentile is taken from."""
    step = size // _SAMPLE + 1
    return (
        step + 1 - step % 2
    )  # odd, so that a width that is a power of two does not reduce the sample to a few columns


def range_of_sample(sample: np.ndarray, images: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return what `value_range` does of images, of which a sample is taken already."""
    low, high = np.percentile(sample, [0.5, 99.5])
    if low >= high:
        low, high = extremes(images)
    return float(low), float(high)


def extremes(images: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the least and the largest value of arrays, which are looked at one at a time."""
    ends = [(float(image.min()), float(image.max())) for image in images]
    return min(low for low, _ in ends), max(high for _, high in ends)


def one_line(error: BaseException) -> str:
    """Return the gist of a library's error: at most 120 characters of its first telling line.

    Paths are left out, and what is quoted: libraries quote values of the file, which can be the patient's name where an
    element's type or length is damaged.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    line = line.split(" - ")[0]  # pydicom appends guesses at the cause
    line = _QUOTED.sub("...", line)
    text = " ".join(word for word in line.split() if not re.search(r"[/\\]\S*[/\\]|\.\w+['\"]$|\.dcm|\.nii", word))
    text = text if text.strip(". ") else type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


_silence = threading.Lock()
_silent: list[Any] = []  # one entry for each thread that is in `without_warnings`


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep libraries from warning, in any number of threads.

    The filters of `warnings` belong to the process: the first thread changes them, the last one puts them back.
    """
    with _silence:
        if not _silent:
            guard: Any = warnings.catch_warnings()
            guard.__enter__()
            warnings.simplefilter("ignore")
        else:
            guard = _silent[0]
        _silent.append(guard)
    try:
        yield
    finally:
        with _silence:
            _silent.pop()
            if not _silent:
                guard.__exit__(None, None, None)


@contextmanager
def reading(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises into a ReadError "<what> cannot be read (<gist>)<advice>"."""
    try:
        yield
    except ReadError:
        raise
    except MemoryError:
        raise ReadError(f"{what} does not fit in memory; crop or split it") from None
    except OSError as error:
        raise ReadError(f"{what} cannot be read ({error.strerror or one_line(error)}){advice}") from error
    except Exception as error:
        raise ReadError(f"{what} cannot be read ({one_line(error)}){advice}") from error
