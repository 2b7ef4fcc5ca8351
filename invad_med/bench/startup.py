"""What a start costs: imports, ``load()``, and both commands on the bundle's sample, each in a fresh process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from invad_med.bench.builds import Build
from invad_med.bench.children import ChildCost, run_child
from invad_med.bench.record import Spread, StartUp

COMMANDS = ("import", "load()", "score, sample", "bundle's command, sample")


def measure_startup(
    builds: Sequence[Build], rounds: int, work: Path, sample: Path | None = None, step: Callable[[str], object] = print
) -> tuple[StartUp, ...]:
    """Return what each command of each build costs with one thread, measured round by round.

    Args:
        builds: this one first.
        rounds: at least 1.
        work: folder for what is written.
        sample: folder to score instead of the bundle's sample.
        step: told before each process what it is, as ``this: load()``.

    Raises:
        RuntimeError: see `run_child`.
    """
    costs: dict[tuple[str, str], list[ChildCost]] = {}
    for _ in range(rounds):
        for what in COMMANDS:
            for build in builds:
                if what == COMMANDS[2] and not build.offers_score:
                    continue
                step(f"{build.name}: {what}")
                output = work / "output"
                command = _command(build, what, output, sample)
                cost = run_child(command, build.environment(threads=1), build.tree, work / "log.txt")
                shutil.rmtree(output, ignore_errors=True)
                costs.setdefault((build.name, what), []).append(cost)
    return startups(costs)


def _command(build: Build, what: str, output: Path, sample: Path | None) -> list[str]:
    if what == COMMANDS[0]:
        return build.importing()
    if what == COMMANDS[1]:
        return build.loading()
    return build.score(output, sample) if what == COMMANDS[2] else build.main(output, sample)


def startups(costs: dict[tuple[str, str], list[ChildCost]]) -> tuple[StartUp, ...]:
    """Return the records of costs by build and command; a former build without ``score`` is compared by its other."""
    found = []
    for (build, what), own in costs.items():
        ratio = None
        if build == "this":
            others = costs.get(("former", what)) or (
                costs.get(("former", COMMANDS[3])) if what == COMMANDS[2] else None
            )
            if others:
                ratio = median(other.core_s / mine.core_s for mine, other in zip(own, others, strict=True))
        core, wall = Spread.of([cost.core_s for cost in own]), Spread.of([cost.wall_s for cost in own])
        found.append(StartUp(build, what, core, wall, max(cost.peak_mb for cost in own), ratio))
    return tuple(found)
