"""What a benchmark found, as it stands in bench.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["series", "files"]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing.

    Args:
        samples: in the order in which they were made.
        p50, p95: quantiles, between samples linear; p95 of few samples is little more than the largest.
    """

    samples: tuple[float, ...]
    p50: float
    p95: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the record of at least one sample."""
        p50, p95 = np.quantile(samples, (0.5, 0.95)).tolist()
        return cls(tuple(samples), p50, p95)


@dataclass(frozen=True)
class Machine:
    """Where and with what it was measured.

    Args:
        processor: its name.
        cores: that this process may use.
        flags: of the processor, those that decide which arithmetic is fast.
        load: runnable processes at the beginning, mean of one minute; above 0 others took part.
        system, python: their names and versions.
        versions: of the packages that compute; those that are not installed are not in it.
        commit: of the checkout, ``-dirty`` if files differ from it; None outside of one.
    """

    processor: str
    cores: int
    flags: tuple[str, ...]
    load: float
    system: str
    python: str
    versions: Mapping[str, str]
    commit: str | None


@dataclass(frozen=True)
class Absent:
    """What was not measured, and why."""

    name: str
    engine: str
    why: str


@dataclass(frozen=True)
class NetworkTime:
    """One image through one network, in a process of one thread.

    Args:
        name, engine: of the method and of what computes it.
        evaluations: of the noise predictor; None for methods without one.
        batch: images at a time.
        from_file: whether reading the file and scaling its intensities is inside.
        core_ms, wall_ms: of one image.
        gflop: multiplications and additions of one image, by torch's counter; None where it is not counted.
        of_floor: ``core_ms.p50`` over the time that a matrix product of as many operations takes; None as above.
    """

    name: str
    engine: str
    evaluations: int | None
    batch: int
    from_file: bool
    core_ms: Spread
    wall_ms: Spread
    gflop: float | None
    of_floor: float | None


@dataclass(frozen=True)
class Network:
    """One image, network only.

    Args:
        model: name of the checkpoint.
        product_ms: core-milliseconds of a float32 product of two 1024 x 1024 matrices, in the same rounds.
        product_gflops: its operations a core-second, in the median.
        decode_ms: core-milliseconds of reading the image's PNG and scaling it.
    """

    model: str
    product_ms: Spread
    product_gflops: float
    decode_ms: Spread
    times: tuple[NetworkTime, ...]
    absent: tuple[Absent, ...]


@dataclass(frozen=True)
class StartUp:
    """A command in fresh processes.

    Args:
        build: ``this`` or ``former``.
        what: the command.
        core_s, wall_s: seconds of the process and of the wall.
        peak_mb: most resident memory, in 10^6 bytes.
        former_over_this: core-seconds of the former build's counterpart over these, median of the rounds; None
            without one.
    """

    build: str
    what: str
    core_s: Spread
    wall_s: Spread
    peak_mb: float
    former_over_this: float | None = None


@dataclass(frozen=True)
class GrowthRun:
    """One run over made input.

    Args:
        build: ``this`` or ``former``.
        kind: ``series``: one DICOM series of 512 x 512 slices; ``files``: PNG files of 256 x 256.
        count: slices or files.
        cores: that the process may use.
        threads: ``OMP_NUM_THREADS``; None: not set.
        core_s, wall_s, peak_mb: as in `StartUp`.
    """

    build: str
    kind: Kind
    count: int
    cores: int
    threads: int | None
    core_s: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True)
class Slope:
    """Cost of one more slice or file, start-up aside: the difference quotient of two sizes, medians of the runs.

    Args:
        build, kind: as in `GrowthRun`.
        first, last: counts.
        core_ms: a slice or file.
        former_over_this: as in `StartUp`, over the same two counts.
    """

    build: str
    kind: Kind
    first: int
    last: int
    core_ms: float
    former_over_this: float | None = None


@dataclass(frozen=True)
class Growth:
    """Cost against the number of slices and files.

    Args:
        runs: all of them.
        slopes: of neighbouring sizes, one thread.
        two_cores_over_one: wall seconds of this build on two cores over those on one, threads as they come; None
            where it was not measured.
    """

    runs: tuple[GrowthRun, ...]
    slopes: tuple[Slope, ...]
    two_cores_over_one: float | None


@dataclass(frozen=True)
class DeviceTime:
    """Images through one network on a device, which they lie on.

    Args:
        name, engine, evaluations: as in `NetworkTime`.
        batch: images at a time.
        ms: milliseconds of the wall of a whole batch, until the device has done it.
        images_per_s: in the median.
        gflop: as in `NetworkTime`.
        of_floor: ``ms.p50`` over the time that matrix products of as many operations take.
        authors_over_this: time of the authors' formulation over this, median of the rounds; None of it itself.
        memory_gb: most of the GPU that weights and a call take, in 10^9 bytes; None on a CPU.
    """

    name: str
    engine: str
    evaluations: int
    batch: int
    ms: Spread
    images_per_s: float
    gflop: float
    of_floor: float
    authors_over_this: float | None
    memory_gb: float | None


@dataclass(frozen=True)
class PresetTimes:
    """A preset with random weights on a device.

    Args:
        name: of the preset.
        dtype: that the networks compute in.
        parameters: of ours with its backbone; None where ours could not be measured.
        side: of the square matrices, in the same precision, whose product is the floor.
        product_ms: milliseconds of the wall of that product, in the same rounds.
        product_tflops: its operations a second, in the median.
    """

    name: str
    dtype: str
    parameters: int | None
    side: int
    product_ms: Spread
    product_tflops: float
    times: tuple[DeviceTime, ...]
    absent: tuple[Absent, ...]


@dataclass(frozen=True)
class FileRate:
    """A model as it ships over images: milliseconds of the wall of one image, from memory and from its file."""

    computed_by: str
    memory_ms: Spread
    file_ms: Spread


@dataclass(frozen=True)
class FileRates:
    """A model as it ships over PNG files of 256 x 256, on a device.

    Args:
        model: name of the checkpoint.
        files: how many a sample goes through.
        batch: images at a time.
        workers: processes that decode.
        decode_ms: milliseconds of the wall of one image, read and scaled by all of them with no network after it.
    """

    model: str
    files: int
    batch: int
    workers: int
    decode_ms: Spread
    rates: tuple[FileRate, ...]
    absent: tuple[Absent, ...]


@dataclass(frozen=True)
class Device:
    """What was measured on a GPU, or on a CPU that was asked for.

    Args:
        name: of the device.
        threads: of torch on the CPU.
        preset, files: the parts; ``files`` says why where it could not be measured.
    """

    name: str
    threads: int
    preset: PresetTimes
    files: FileRates | Absent


@dataclass(frozen=True)
class Bench:
    """A whole benchmark; parts that were not asked for are None, and ``gpu`` says why where no GPU was at hand."""

    machine: Machine
    network: Network | None
    startup: tuple[StartUp, ...] | None
    growth: Growth | None
    seconds: float
    gpu: Device | Absent | None = None
