"""One image through every network, round by round in this process, with one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from invad_med.bench.builds import Build
from invad_med.bench.clock import Cost, take_turns
from invad_med.bench.contestants import Contestant, authors, ours, rivals
from invad_med.bench.floor import product
from invad_med.bench.former import NAME, FormerDetector
from invad_med.bench.made import make_files
from invad_med.bench.record import Absent, Network, NetworkTime, Spread
from invad_med.bench.rivals import SIZE
from invad_med.data.modalities import require_modality
from invad_med.data.transforms import to_image
from invad_med.readers.sources import read_raster

BATCHES = (1, 4)
SIDE_OF_FLOOR = 1024  # of the matrices whose product is the floor
_BUDGET = 6.0  # seconds for all rounds of one measurement


def measure_network(
    checkpoint: Path,
    rounds: int,
    export: bool = True,
    with_rivals: bool = True,
    former: Build | None = None,
    step: Callable[[str], object] = print,
) -> Network:
    """Return what one image costs in every network that is present.

    Args:
        checkpoint: ours.
        rounds: at least 1; slow networks take part in fewer.
        export: see `invad_med.bench.contestants.ours`.
        with_rivals: also those of anomalib.
        former: also the detector of this build, from memory alone.
        step: told what is made, and after each round ``round``.

    Raises:
        RuntimeError: the former build's detector cannot be measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ExitStack() as stack:
            found: list[Contestant] = []
            absent: list[Absent] = []
            for each in chain(ours(checkpoint, export), [authors(checkpoint)], rivals() if with_rivals else ()):
                if isinstance(each, Absent):
                    absent.append(each)
                else:
                    step(f"{each.name}, {each.engine}")
                    found.append(each)
            if former:
                detector = stack.enter_context(FormerDetector(former))
                found.append(Contestant(NAME, "eager", detector.evaluations, None, detector))
            (file,) = make_files(Path(stack.enter_context(tempfile.TemporaryDirectory())), 1).rglob("*.png")
            costs = take_turns(_calls(found, file), rounds, _BUDGET, lambda: step("round"))
            return compared(checkpoint.stem, found, absent, costs)
    finally:
        torch.set_num_threads(threads)


def _calls(contestants: Sequence[Contestant], file: Path) -> dict[str, Callable[[], object]]:
    """Return what is measured on the image of a file, by the names that `compared` takes."""
    modality = require_modality("phantom")

    def decoded() -> np.ndarray:
        return to_image(read_raster(file), modality, SIZE)[None]

    calls: dict[str, Callable[[], object]] = {"product": product(SIDE_OF_FLOOR), "decode": decoded}
    image = decoded()
    for i, each in enumerate(contestants):
        for batch in BATCHES:
            calls[f"{i} {batch}"] = partial(each.forward, np.ascontiguousarray(np.repeat(image, batch, axis=0)))
        if each.name != NAME:
            calls[f"{i} file"] = lambda forward=each.forward: forward(decoded())  # type: ignore[misc]
    return calls


def compared(
    model: str, contestants: Sequence[Contestant], absent: Iterable[Absent], costs: dict[str, list[Cost]]
) -> Network:
    """Return the records of costs.

    Args:
        model: name of ours.
        contestants: by row.
        absent: what was not measured.
        costs: of ``product`` and ``decode``, of ``<row> <batch>``, and of ``<row> file`` where there is any.
    """
    product = Spread.of([1000 * cost.core for cost in costs["product"]])
    gflops = 2 * SIDE_OF_FLOOR**3 / 1e6 / product.p50
    times = []
    for i, each in enumerate(contestants):
        floor_ms = None if each.gflop is None else 1000 * each.gflop / gflops
        keys = [(1, f"{i} file"), *((batch, f"{i} {batch}") for batch in BATCHES)]
        for batch, key in (pair for pair in keys if pair[1] in costs):
            core, wall = (Spread.of([1000 * part / batch for part in parts]) for parts in zip(*costs[key], strict=True))
            of_floor = None if floor_ms is None else core.p50 / floor_ms
            kind = (each.name, each.engine, each.evaluations)
            times.append(NetworkTime(*kind, batch, key.endswith("file"), core, wall, each.gflop, of_floor))
    decode = Spread.of([1000 * cost.core for cost in costs["decode"]])
    return Network(model, product, gflops, decode, tuple(times), tuple(absent))
