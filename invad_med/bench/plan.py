"""How long a benchmark takes, before it starts, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from invad_med.bench.builds import Build
from invad_med.bench.growth import wall_size
from invad_med.bench.startup import COMMANDS

# Core-seconds on a core that multiplies matrices at `_RATE`; rough, for the estimate alone.
_RATE = 80.0
_NETWORK, _RIVALS = (20.0, 3.0), (60.0, 6.0)  # to make and warm up, and of each round
_STARTS = {
    "this": dict(zip(COMMANDS, (0.5, 1.0, 6.0, 20.0), strict=True)),
    "former": dict(zip(COMMANDS, (9.0, 10.0, 0.0, 22.0), strict=True)),
}
_EACH, _COMPILED, _DEVICE_SHARE = 15.0, 90.0, 0.2  # to make a network, to compile it; what it reaches of a product
_RUN = {"this": (4.0, 0.035, 0.0), "former": (12.0, 0.14, 0.00046)}  # constant, of an item, of its square


def network_seconds(rounds: int, rivals: bool, gflops: float) -> float:
    """Return what the network part takes on a core of so many GFLOP a second."""
    parts = [_NETWORK, *([_RIVALS] if rivals else [])]
    return sum(made + rounds * each for made, each in parts) * _RATE / gflops


def startup_seconds(builds: Sequence[Build], rounds: int, gflops: float) -> float:
    """Return what the start-up part takes."""
    return rounds * sum(sum(_STARTS[build.name].values()) for build in builds) * _RATE / gflops


def growth_seconds(
    builds: Sequence[Build],
    slices: Sequence[int],
    files: Sequence[int],
    former_slices: int,
    rounds: int,
    gflops: float,
) -> float:
    """Return what the growth part takes."""
    longer = wall_size(slices)
    counts = {"this": [*slices, *files, *([] if longer is None else [longer, longer])],
              "former": [n for n in slices if n <= former_slices]}  # fmt: skip
    total = 0.0
    for build in builds:
        start, each, square = _RUN[build.name]
        total += sum(start + each * n + square * n * n for n in counts[build.name])
    return rounds * total * _RATE / gflops


def device_seconds(gflop: float, images: int, rounds: int, engines: Sequence[str], gflops: float) -> float:
    """Return what the part on a device takes.

    Args:
        gflop: of one image.
        images: in a round by one network.
        rounds, engines: of ours; the authors' formulation takes part besides.
        gflops: of a product on that device, a second.
    """
    made = _EACH * (len(engines) + 1) + _COMPILED * ("compile" in engines)
    return made + (len(engines) + 1) * rounds * images * gflop / (gflops * _DEVICE_SHARE)
