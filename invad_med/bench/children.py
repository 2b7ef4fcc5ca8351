"""Commands in processes of their own, and what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A process begins with the memory of the one that starts it, which counts as its own: a small one starts it therefore.
_LAUNCHER = """
import json, os, sys, time
cores, answer, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if cores and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
os.write(answer, json.dumps([code, usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss]).encode())
"""


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
        command: its program with its path, and arguments.
        environment: of the process.
        folder: to run it in.
        log: file that takes what it prints.
        cores: that it may use, where the system can say so; all that this process may use if None.

    Raises:
        RuntimeError: an exit status other than 0, with the end of what it printed; the system does not say what
            processes cost.
    """
    if not hasattr(os, "wait4"):
        raise RuntimeError(f"{sys.platform} does not say what a process cost: leave --parts at network")
    said, told = os.pipe()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(cores or 0), str(told), *command]
    with os.fdopen(said) as answer, log.open("wb") as file:
        try:
            subprocess.run(
                launcher, check=True, pass_fds=[told], env=dict(environment), cwd=folder, stdout=file,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        finally:
            os.close(told)
        status, core_s, wall_s, peak = json.load(answer)
    if status:
        printed = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise RuntimeError(f"{' '.join(command)} ended with {status}:\n  " + "\n  ".join(printed))
    return ChildCost(core_s, wall_s, peak * (1 if sys.platform == "darwin" else 1024) / 1e6)
