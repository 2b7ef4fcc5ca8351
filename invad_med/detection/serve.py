"""A checkpoint as what scores images: which engine computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invad_med.detection.judging import Detector
from invad_med.timesteps import Grid

SERVED = ("onnxruntime", "openvino")  # engines that compute without torch
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "C:/Windows/System32/nvcuda.dll")


def serve(
    path: str | Path, grid: Grid | None = None, engine: str | None = None, device: object = "cpu", **parts: Any
) -> Detector:
    """Return the detector that a checkpoint holds, computed by an engine.

    Args:
        path: the file.
        grid: timesteps instead of those it was calibrated for.
        engine: a name of `invad_med.detection.engine.ENGINES`.
        device: where it computes.
        parts: networks instead of those it states, such as ``denoiser``, see `load_detector`.

    Raises:
        FileNotFoundError, ValueError: as `invad_med.detection.detector.load_detector`.
    """
    from invad_med.detection.detector import load_detector

    return load_detector(path, grid, engine or "eager", device, **parts)  # type: ignore[arg-type]


def eager_engine(engine: str | None) -> str:
    """Return the given engine if it computes with torch, else ``eager``, as of a detector that is a torch module."""
    return "eager" if engine is None or engine in SERVED else engine


def usual_device() -> str:
    """Return ``cuda`` where torch could compute on a GPU of this machine, else ``cpu``."""
    if not any(Path(driver).exists() for driver in _DRIVERS):  # torch is slow to import
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
