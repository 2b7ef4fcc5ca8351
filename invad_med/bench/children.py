"""Commands in processes of their own, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ChildCost:
    """What a process cost: seconds of its cores and of the wall, most resident memory in 10^6 bytes."""

    core_s: float
    wall_s: float
    peak_mb: float


def run_child(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, cores: int | None = None
) -> ChildCost:
    """Run a command to its end and return what it cost.

    Args:
        command, environment: as `subprocess.Popen` takes them.
        folder: to run it in.
        log: file that takes what it prints.
        cores: that it may use, where the system can say so; all that this process may use if None.

    Raises:
        RuntimeError: an exit status other than 0, with the end of what it printed; the system does not say what
            processes cost.
    """
    if not hasattr(os, "wait4"):
        raise RuntimeError(f"{sys.platform} does not say what a process cost: leave --parts at network")
    with log.open("wb") as file, _on_cores(cores):
        start = time.perf_counter()
        child = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        printed = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n  " + "\n  ".join(printed))
    unit = 1 if sys.platform == "darwin" else 1024
    return ChildCost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit / 1e6)


@contextmanager
def _on_cores(count: int | None) -> Iterator[None]:
    """Let processes that are begun within use ``count`` of the cores that this one may use."""
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
