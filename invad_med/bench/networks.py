"""One image through every network, round by round in this process, with one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from invad_med.bench.clock import Cost, take_turns
from invad_med.bench.contestants import Contestant, authors, ours, rivals
from invad_med.bench.made import make_files
from invad_med.bench.record import Absent, Network, NetworkTime, Spread
from invad_med.bench.rivals import SIZE
from invad_med.data.modalities import require_modality
from invad_med.data.transforms import to_image
from invad_med.readers.sources import read_raster

BATCHES = (1, 4)
_SIDE = 1024  # of the matrices whose product is the floor
_BUDGET = 6.0  # seconds for all rounds of one measurement


def measure_network(
    checkpoint: Path,
    rounds: int,
    export: bool = True,
    with_rivals: bool = True,
    step: Callable[[str], object] = print,
) -> Network:
    """Return what one image costs in every network that is present.

    Args:
        checkpoint: ours.
        rounds: at least 1; slow networks take part in fewer.
        export: see `invad_med.bench.contestants.ours`.
        with_rivals: also those of anomalib.
        step: told what is made, and after each round ``round``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(checkpoint, rounds, export, with_rivals, step)
    finally:
        torch.set_num_threads(threads)


def _measure(checkpoint: Path, rounds: int, export: bool, with_rivals: bool, step: Callable[[str], object]) -> Network:
    found: list[Contestant] = []
    absent: list[Absent] = []
    for each in chain(ours(checkpoint, export), [authors(checkpoint)], rivals() if with_rivals else ()):
        if isinstance(each, Absent):
            absent.append(each)
        else:
            step(f"{each.name}, {each.engine}")
            found.append(each)
    with tempfile.TemporaryDirectory() as folder:
        (file,) = make_files(Path(folder), 1).rglob("*.png")
        modality = require_modality("phantom")

        def decoded() -> np.ndarray:
            return to_image(read_raster(file), modality, SIZE)[None]

        image = decoded()
        calls: dict[str, Callable[[], object]] = {"product": product(), "decode": decoded}
        for i, each in enumerate(found):
            for batch in BATCHES:
                images = np.ascontiguousarray(np.repeat(image, batch, axis=0))
                calls[f"{i} {batch}"] = _call(each, lambda images=images: images)  # type: ignore[misc]
            calls[f"{i} file"] = _call(each, decoded)
        costs = take_turns(calls, rounds, _BUDGET, lambda: step("round"))
    return compared(checkpoint.stem, found, absent, costs)


def product() -> Callable[[], object]:
    """Return the product of two matrices of `_SIDE` that is the floor, to be called."""
    a, b = (torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return lambda: a @ b


def _call(contestant: Contestant, images: Callable[[], np.ndarray]) -> Callable[[], object]:
    return lambda: contestant.forward(images())


def compared(
    model: str, contestants: Sequence[Contestant], absent: Iterable[Absent], costs: dict[str, list[Cost]]
) -> Network:
    """Return the records of costs: of ``product`` and ``decode``, and of ``<row> <batch>`` and ``<row> file``.

    Args:
        model: name of ours.
        contestants: by row.
        absent: what was not measured.
        costs: of calls.
    """
    product = Spread.of([1000 * cost.core for cost in costs["product"]])
    gflops = 2 * _SIDE**3 / 1e6 / product.p50
    times = []
    for i, each in enumerate(contestants):
        floor_ms = None if each.gflop is None else 1000 * each.gflop / gflops
        for batch, key in [(1, f"{i} file"), *((batch, f"{i} {batch}") for batch in BATCHES)]:
            core, wall = (Spread.of([1000 * part / batch for part in parts]) for parts in zip(*costs[key], strict=True))
            of_floor = None if floor_ms is None else core.p50 / floor_ms
            kind = (each.name, each.engine, each.evaluations)
            times.append(NetworkTime(*kind, batch, key.endswith("file"), core, wall, each.gflop, of_floor))
    decode = Spread.of([1000 * cost.core for cost in costs["decode"]])
    return Network(model, product, gflops, decode, tuple(times), tuple(absent))
