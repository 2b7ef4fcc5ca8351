"""What takes part in the comparison of networks: ours by each engine, the authors' formulation, and rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from invad_med.bench.authors import authors_detector
from invad_med.bench.record import Absent
from invad_med.bench.rivals import RIVALS, SIZE, make_rival
from invad_med.detection.detector import load_detector
from invad_med.detection.serve import load_engine
from invad_med.detection.whole import WholeDetector
from invad_med.diffusion import Timesteps
from invad_med.serving.engines import ENGINES, OpenVino
from invad_med.serving.graph import GraphKey, find_graph
from invad_med.serving.weights import open_weights
from invad_med.timesteps import Grid

Forward = Callable[[np.ndarray], object]
OURS, AUTHORS = "ours", "authors' formulation"


@dataclass(frozen=True)
class Contestant:
    """A network and what computes it.

    Args:
        name, engine, evaluations, gflop: as in `invad_med.bench.record.NetworkTime`.
        forward: takes images (B, 3, 256, 256) float32 in [0, 1].
    """

    name: str
    engine: str
    evaluations: int | None
    gflop: float | None
    forward: Forward


def ours(checkpoint: Path, export: bool) -> Iterator[Contestant | Absent]:
    """Yield a model's detector by each engine, with one evaluation and with three.

    Args:
        checkpoint: whose own walk has either number; the other is on the same grid.
        export: make a graph that does not lie ready; else the engine is absent.
    """
    with open_weights(checkpoint) as weights:
        calibrated = GraphKey.of(weights).timesteps
    for count in (1, 3):
        walk = calibrated if count == len(calibrated) else tuple(Grid(count).resolve(calibrated))
        module = _eager(checkpoint, walk, calibrated=walk == calibrated)
        gflop = _gflop(module, torch.zeros(1, 3, module.host.image_size, module.host.image_size))
        yield Contestant(OURS, "eager", count, gflop, _on_arrays(module))
        for engine in ENGINES:
            absent = Absent(f"{OURS}, {count} evaluation{'s' * (count > 1)}", engine, "")
            with open_weights(checkpoint) as weights:
                ready = find_graph(GraphKey.of(weights, walk)) is not None
            if not ready and not export:
                yield Absent(absent.name, engine, "no graph of this walk lies ready; without --quick one is made, once")
                continue
            try:
                yield Contestant(OURS, engine, count, gflop, load_engine(checkpoint, engine, walk, threads=1))
            except (RuntimeError, ImportError) as error:
                yield Absent(absent.name, engine, str(error))


def authors(checkpoint: Path) -> Contestant:
    """Return the authors' formulation with a model's networks."""
    module = authors_detector(load_detector(checkpoint))
    gflop = _gflop(module, torch.zeros(1, 3, module.host.image_size, module.host.image_size))
    return Contestant(AUTHORS, "eager", 3, gflop, _on_arrays(module))


def rivals() -> Iterator[Contestant | Absent]:
    """Yield anomalib's detectors, each in eager PyTorch and in OpenVINO; what is not installed is absent."""
    for name in RIVALS:
        try:
            module = make_rival(name)
        except ImportError as error:
            why = f"{error}; pip install 'invad-med[bench]'"
            yield from (Absent(name, engine, why) for engine in ("eager", OpenVino.name))
            continue
        gflop = _gflop(module, torch.zeros(1, 3, SIZE, SIZE))
        yield Contestant(name, "eager", None, gflop, _on_arrays(module))
        try:
            yield Contestant(name, OpenVino.name, None, gflop, _InOpenVino(module))
        except ImportError as error:
            yield Absent(name, OpenVino.name, f"{error}; pip install 'invad-med[bench]'")


class _InOpenVino:
    """A rival in OpenVINO, float32, one thread; converted and compiled once for each batch size."""

    def __init__(self, module: nn.Module) -> None:
        import openvino

        self._openvino, self._module = openvino, module
        self._compiled: dict[int, Any] = {}

    def __call__(self, images: np.ndarray) -> object:
        """Return what the rival makes of images (B, 3, 256, 256)."""
        if len(images) not in self._compiled:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer
                model = self._openvino.convert_model(
                    self._module, example_input=torch.from_numpy(images), input=[("images", list(images.shape))]
                )
            options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
            self._compiled[len(images)] = self._openvino.Core().compile_model(model, "CPU", options)
        return self._compiled[len(images)](images)


def _eager(checkpoint: Path, walk: Timesteps, calibrated: bool) -> WholeDetector:
    detector = load_detector(checkpoint)
    whole = WholeDetector(detector.host, detector.calibration, walk, calibrated)
    return whole.eval().requires_grad_(False)


def _on_arrays(module: nn.Module) -> Forward:
    def forward(images: np.ndarray) -> object:
        with torch.no_grad():
            return module(torch.from_numpy(images))

    return forward


def _gflop(module: nn.Module, image: torch.Tensor) -> float:
    # The counter does not know the CPU's fused attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(image)
    return float(counter.get_total_flops() / 1e9)
