"""How cost and memory grow with slices and files, and what a second core brings."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from invad_med.bench.builds import Build
from invad_med.bench.children import run_child
from invad_med.bench.machine import cores
from invad_med.bench.made import make_files, make_series
from invad_med.bench.record import Growth, GrowthRun, Kind, Slope

_MAKERS: dict[Kind, Callable[[Path, int], Path]] = {"series": make_series, "files": make_files}


def measure_growth(
    builds: Sequence[Build],
    slices: Sequence[int],
    files: Sequence[int],
    former_slices: int,
    rounds: int,
    work: Path,
    step: Callable[[str], object] = print,
) -> Growth:
    """Return cost and memory of every size by every build, with one thread, and the wall time of one and two cores.

    Args:
        builds: this one first.
        slices: lengths of the series.
        files: numbers of PNG files.
        former_slices: a former build takes no longer series and no files; its cost may grow faster than they do.
        rounds: of all runs.
        work: folder for what is made and written.
        step: told before each run what it is, as ``this: 100 slices``.

    Raises:
        RuntimeError: see `run_child`.
    """
    runs: list[GrowthRun] = []
    sizes: list[tuple[Kind, int]] = [("series", n) for n in sorted(slices)] + [("files", n) for n in sorted(files)]
    compared = wall_size(slices)
    for kind, count in sizes:
        made = _MAKERS[kind](work / "made", count)
        for _ in range(rounds):
            for build in builds:
                if build.name == "this" or (kind == "series" and count <= former_slices):
                    step(f"{build.name}: {count} {name_of(kind)}")
                    runs.append(_run(build, kind, count, made, work, cores(), threads=1))
            if kind == "series" and count == compared and cores() >= 2:
                for allowed in (1, 2):
                    step(f"{builds[0].name}: {count} {name_of(kind)}, cores: {allowed}")
                    runs.append(_run(builds[0], kind, count, made, work, allowed, threads=None))
        shutil.rmtree(made)
    return grown(runs)


def wall_size(slices: Sequence[int]) -> int | None:
    """Return the length of the series that one and two cores are compared on: the longest but one."""
    return sorted(slices)[-2:][0] if slices else None


def name_of(kind: Kind) -> str:
    """Return what is counted."""
    return "slices" if kind == "series" else "files"


def _run(build: Build, kind: Kind, count: int, made: Path, work: Path, allowed: int, threads: int | None) -> GrowthRun:
    output = work / "output"
    command = build.score(output, made)
    cost = run_child(command, build.environment(threads), build.tree, work / "log.txt", cores=allowed)
    shutil.rmtree(output, ignore_errors=True)
    return GrowthRun(build.name, kind, count, allowed, threads, cost.core_s, cost.wall_s, cost.peak_mb)


def grown(runs: Sequence[GrowthRun]) -> Growth:
    """Return the runs with what follows from them."""
    slopes: list[Slope] = []
    for build, kind in dict.fromkeys((run.build, run.kind) for run in runs if run.threads == 1):
        costs: dict[int, list[float]] = {}
        for run in runs:
            if (run.build, run.kind, run.threads) == (build, kind, 1):
                costs.setdefault(run.count, []).append(run.core_s)
        for first, last in itertools.pairwise(sorted(costs)):
            core_ms = 1000 * (median(costs[last]) - median(costs[first])) / (last - first)
            slopes.append(Slope(build, kind, first, last, core_ms))
    former = {(s.kind, s.first, s.last): s.core_ms for s in slopes if s.build == "former"}
    return Growth(tuple(runs), tuple(_compared(slopes, former)), _two_over_one(runs))


def _compared(slopes: Iterable[Slope], former: dict[tuple[Kind, int, int], float]) -> Iterable[Slope]:
    for s in slopes:
        other = former.get((s.kind, s.first, s.last))
        ratio = other / s.core_ms if s.build == "this" and other is not None else None
        yield Slope(s.build, s.kind, s.first, s.last, s.core_ms, ratio)


def _two_over_one(runs: Sequence[GrowthRun]) -> float | None:
    one, two = ([run.wall_s for run in runs if run.threads is None and run.cores == n] for n in (1, 2))
    return median(b / a for a, b in zip(one, two, strict=True)) if one else None
