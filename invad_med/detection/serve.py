"""From a checkpoint to an engine without torch, which is imported only where a graph is to be made."""

from __future__ import annotations

import logging
from pathlib import Path

from invad_med.serving.engines import ServingEngine, make_serving_engine
from invad_med.serving.graph import Graph, GraphKey, find_graph, keep_graph
from invad_med.serving.weights import open_weights

logger = logging.getLogger(__name__)


def load_engine(
    path: str | Path,
    engine: str = "onnxruntime",
    timesteps: tuple[tuple[int, int | None], ...] | None = None,
    threads: int | None = None,
) -> ServingEngine:
    """Return an engine that scores by a checkpoint.

    Args:
        path: the checkpoint.
        engine: a name of `invad_med.serving.engines.ENGINES`.
        timesteps: pairs (t, t_next) instead of those that it was calibrated for; there are then no scores.
        threads: of one image's computation; all cores that the process may use, or ``OMP_NUM_THREADS``, if None.

    Raises:
        FileNotFoundError, ValueError: as `invad_med.serving.weights.open_weights`; no such engine; what the checkpoint
            names cannot be built here.
        RuntimeError: the engine is not installed, or the graph is to be made and cannot be made here.
    """
    with open_weights(path) as weights:
        graph = graph_for(GraphKey.of(weights, timesteps))
        return make_serving_engine(engine, graph, graph.fill(weights), threads)


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
