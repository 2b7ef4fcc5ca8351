"""From a checkpoint to what scores images: which engine computes it. torch is imported only where it is needed."""

from __future__ import annotations

import logging
from pathlib import Path

from invad_med.detection.judging import Detector
from invad_med.detection.served import ServedDetector
from invad_med.serving.engines import ENGINES, ServingEngine, make_serving_engine
from invad_med.serving.graph import Graph, GraphKey, find_graph, keep_graph
from invad_med.serving.weights import open_weights
from invad_med.timesteps import Grid, check_timesteps

logger = logging.getLogger(__name__)

FASTEST = "onnxruntime"  # on a CPU
_SCHEDULE = 1000  # timesteps of the hosts of the package, which alone have graphs
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "C:/Windows/System32/nvcuda.dll")


def serve(
    path: str | Path,
    grid: Grid | None = None,
    engine: str | None = None,
    device: object = "cpu",
    threads: int | None = None,
) -> Detector:
    """Return the detector that a checkpoint holds, computed by an engine.

    Args:
        path: the file.
        grid: timesteps instead of those it was calibrated for; scores are then withheld.
        engine: a name of `invad_med.serving.engines.ENGINES`, for the CPU and without torch, or of
            `invad_med.detection.engine.ENGINES`. None: on a CPU `FASTEST` where its graph lies ready, else ``eager``.
        device: where it computes.
        threads: of a serving engine; all cores that the process may use, or ``OMP_NUM_THREADS``, if None.

    Raises:
        FileNotFoundError, ValueError: as `invad_med.detection.load_detector`; a serving engine on another device.
        RuntimeError: the engine is not installed, or its graph is to be made and cannot be made here.
    """
    on_cpu = str(device) == "cpu"
    if engine in ENGINES:
        if not on_cpu:
            raise ValueError(f"engine={engine!r} computes on the CPU, not on {device}: give --device cpu, or no engine")
        return _served(path, grid, engine, threads)
    if engine is None and on_cpu:
        try:
            return _served(path, grid, FASTEST, threads, export=False)
        except (_NoGraph, RuntimeError, ValueError) as error:
            logger.info("computed by the eager engine: %s", error)
    from invad_med.detection.detector import load_detector

    return load_detector(path, grid, engine or "eager", device)  # type: ignore[arg-type]


def eager_engine(engine: str | None) -> str:
    """Return the given engine if it computes with torch, else ``eager``, as of a detector that is a torch module."""
    return "eager" if engine is None or engine in ENGINES else engine


def usual_device() -> str:
    """Return ``cuda`` where torch could compute on a GPU of this machine, else ``cpu``."""
    if not any(Path(driver).exists() for driver in _DRIVERS):  # torch is slow to import
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def graph_for(key: GraphKey) -> Graph:
    """Return the graph of a key: the one that ships or is kept, else a new one, which is kept.

    Raises:
        ValueError: the key names something that cannot be built here.
        RuntimeError: it cannot be exported here.
    """
    graph = find_graph(key)
    if graph is None:
        logger.warning("a graph of this architecture, timesteps and rule is made, once: this takes half a minute")
        from invad_med.detection.export import export_graph  # brings torch

        graph = export_graph(key)
        keep_graph(key, graph)
    return graph


def load_engine(
    path: str | Path,
    engine: str = FASTEST,
    timesteps: tuple[tuple[int, int | None], ...] | None = None,
    threads: int | None = None,
) -> ServingEngine:
    """Return a serving engine that computes what a checkpoint holds.

    Args:
        path: the checkpoint.
        engine: a name of `invad_med.serving.engines.ENGINES`.
        timesteps: pairs (t, t_next) instead of those that it was calibrated for; there are then no scores.
        threads: as of `serve`.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `serve`.
    """
    with open_weights(path) as weights:
        graph = graph_for(GraphKey.of(weights, timesteps))
        return make_serving_engine(engine, graph, graph.fill(weights), threads)


class _NoGraph(Exception):
    """A graph would have to be made."""


def _served(
    path: str | Path, grid: Grid | None, engine: str, threads: int | None, export: bool = True
) -> ServedDetector:
    with open_weights(path) as weights:
        timesteps = GraphKey.of(weights).timesteps
        if grid is not None:
            timesteps = tuple((int(t), None if n is None else int(n)) for t, n in grid.resolve(timesteps, _SCHEDULE))
        check_timesteps(timesteps, _SCHEDULE)
        if not export and find_graph(GraphKey.of(weights, timesteps)) is None:
            raise _NoGraph(f"no graph for {engine} lies ready; --engine {engine} makes one, once")
        return ServedDetector(load_engine(path, engine, timesteps, threads), weights, timesteps)
