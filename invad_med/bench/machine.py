"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from invad_med.bench.record import Machine

_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
_PACKAGES = ("invad-med", "torch", "timm", "monai", "onnxruntime", "openvino", "anomalib", "numpy", "pydicom",
             "highdicom")  # fmt: skip


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine() -> Machine:
    """Return what is known of the machine without asking for more rights."""
    name, flags = _processor()
    return Machine(
        processor=name,
        cores=cores(),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        system=platform.platform(),
        python=platform.python_version(),
        versions=dict(_versions(_PACKAGES)),
        commit=_commit(Path(__file__).parents[2]),
    )


def _processor() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), set()
    lines = (line.partition(":") for line in text.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or platform.machine()
    if fields.get("cpu family"):
        name += f", family {fields['cpu family']} model {fields.get('model', '')}"
    return name, set((fields.get("flags") or fields.get("Features") or "").split())


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _commit(tree: Path) -> str | None:
    if not (tree / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
