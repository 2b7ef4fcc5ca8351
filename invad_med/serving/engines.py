"""Engines that run a graph, without torch: images in, maps and scores out.

All take one image at a time, so that an image's results do not depend on what it is scored with; measured, a larger
batch brings nothing on a CPU (docs/engines.md).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from invad_med.serving.graph import Graph

# From 1.29 on it keeps a device id on the disk and reports sessions to its makers, unless it is told not to.
_NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")


class Served(NamedTuple):
    """What an engine makes of B images, float32; None: the graph has no such output.

    Args:
        map: (B, h, w) on the encoding's grid, >= 0.
        paper_score: (B,).
        score: (B,) by the calibration's rule.
        moments: (B, 2C) mean and deviation of each channel of the encoding, which its likeness is told by.
    """

    map: np.ndarray
    paper_score: np.ndarray
    score: np.ndarray | None
    moments: np.ndarray | None


class ServingEngine(Protocol):
    """Scores images; `name` and `precision` are what results say made them."""

    name: str
    precision: str

    def __call__(self, images: np.ndarray) -> Served:
        """Return what the detector makes of ``images`` (B, 3, S, S) float32 in [0, 1], B >= 1."""


def usable_threads() -> int:
    """Return ``OMP_NUM_THREADS`` if it is set, else the number of cores that this process may use."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxRuntime:
    """ONNX Runtime on the CPU, float32.

    Args:
        graph: of the detector.
        weights: by name, as `invad_med.serving.graph.Graph.fill` gives them.
        threads: of one image's computation; `usable_threads` if None.

    Raises:
        RuntimeError: it is not installed, or refuses the graph.
    """

    name, precision = "onnxruntime", "float32"

    def __init__(self, graph: Graph, weights: Mapping[str, np.ndarray], threads: int | None = None) -> None:
        for switch in _NO_TELEMETRY:  # read when it is imported
            os.environ.setdefault(switch, "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError("engine='onnxruntime' is not installed: pip install onnxruntime") from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in graph.weights]
        options.add_external_initializers(list(graph.weights), values)
        try:
            self._session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own have no class in common
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} refuses the graph ({type(error).__name__}): use another "
                "version, or the eager engine"
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._shape = tuple(self._session.get_inputs()[0].shape)

    def __call__(self, images: np.ndarray) -> Served:
        """Return what the detector makes of ``images`` (B, 3, S, S) float32 in [0, 1].

        Raises:
            ValueError: no image, or images of another size.
        """
        check_images(images, self._shape)
        runs = [self._session.run(self._outputs, {"image": image[None]}) for image in images]
        return joined(self._outputs, runs)


class OpenVino:
    """OpenVINO on the CPU, float32; where a processor computes in bfloat16, OpenVINO does so unless it is told.

    Args:
        graph: of the detector.
        weights: by name, as `invad_med.serving.graph.Graph.fill` gives them.
        threads: of one image's computation; `usable_threads` if None.

    Raises:
        RuntimeError: it is not installed.
    """

    name, precision = "openvino", "float32"

    def __init__(self, graph: Graph, weights: Mapping[str, np.ndarray], threads: int | None = None) -> None:
        try:
            import onnx
            import openvino
        except ImportError as error:
            raise RuntimeError("engine='openvino' is an extra: pip install 'invad-med[openvino]'") from error

        model = onnx.load_from_string(graph.model)
        for tensor in model.graph.initializer:
            if tensor.name in graph.weights:
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
                tensor.raw_data = weights[tensor.name].tobytes()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or usable_threads(),
        }
        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", options)
        self._outputs = [output.get_any_name() for output in self._compiled.outputs]
        self._shape = tuple(self._compiled.input(0).shape)

    def __call__(self, images: np.ndarray) -> Served:
        """Return what the detector makes of ``images`` (B, 3, S, S) float32 in [0, 1].

        Raises:
            ValueError: no image, or images of another size.
        """
        check_images(images, self._shape)
        request = self._compiled.create_infer_request()  # one a call, so that threads may share the engine
        runs = [[part.copy() for part in request.infer({0: image[None]}).to_tuple()] for image in images]
        return joined(self._outputs, runs)


def check_images(images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``images`` are one or more of a graph's input shape (1, 3, S, S), float32."""
    if images.dtype != np.float32 or images.shape[1:] != shape[1:] or not len(images):
        raise ValueError(
            f"the engine takes float32 images (B, {', '.join(map(str, shape[1:]))}), not {images.dtype} {images.shape}"
        )


def joined(names: list[str], runs: list[list[np.ndarray]]) -> Served:
    """Return the outputs of single images, each (1, ...), as one record."""
    outputs = {name: np.concatenate(parts) for name, parts in zip(names, zip(*runs, strict=True), strict=True)}
    return Served(outputs["map"], outputs["paper_score"], outputs.get("score"), outputs["moments"])


ENGINES: dict[str, Callable[[Graph, Mapping[str, np.ndarray], int | None], ServingEngine]] = {
    OnnxRuntime.name: OnnxRuntime,
    OpenVino.name: OpenVino,
}


def make_serving_engine(
    name: str, graph: Graph, weights: Mapping[str, np.ndarray], threads: int | None = None
) -> ServingEngine:
    """Return an engine by name.

    Args:
        name: key of `ENGINES`.
        graph, weights, threads: as the engines take them.

    Raises:
        ValueError: there is none of that name.
        RuntimeError: it is not installed.
    """
    if name not in ENGINES:
        raise ValueError(f"engine={name!r} is none of {', '.join(ENGINES)}")
    return ENGINES[name](graph, weights, threads)
