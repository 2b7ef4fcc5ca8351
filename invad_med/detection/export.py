"""Graphs for engines without torch, made of a detector's module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from invad_med.detection.whole import random_detector
from invad_med.scoring import Familiarity
from invad_med.serving.engines import OnnxRuntime
from invad_med.serving.graph import Graph, GraphKey

_OPSET = 23  # the first with an operator for attention
_AGREEMENT = 1e-3  # of an exported graph with the module, relative to the largest value of each output


def export_graph(key: GraphKey) -> Graph:
    """Return a new graph, compared with the module that it was made of on an image of noise.

    Raises:
        RuntimeError: onnx or onnxscript is missing, the exporter refuses the network, or the graph differs from it.
        ValueError: the key names something that cannot be built here.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            "no graph of this architecture, timesteps and rule ships, and making one needs onnx and onnxscript: pip "
            "install 'invad-med[export]', or use the eager engine"
        ) from error
    module = random_detector(key)
    image = torch.rand(1, 3, module.host.image_size, module.host.image_size, generator=torch.Generator().manual_seed(0))
    try:
        program = torch.onnx.export(
            module,
            (image,),
            input_names=["image"],
            output_names=module.outputs,
            opset_version=_OPSET,
            dynamo=True,
            optimize=False,  # it would compute with the weights
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise RuntimeError(f"this network cannot be exported ({type(error).__name__}): use the eager engine") from error
    assert program is not None
    graph = _without_weights(program.model, set(module.state_dict()))
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    served = OnnxRuntime(graph, {name: state[name] for name in graph.weights})(image.numpy())
    with torch.no_grad():
        expected = dict(zip(module.outputs, module(image), strict=True))
    for name, wanted in expected.items():
        difference = np.abs(getattr(served, name) - wanted.numpy()).max() / np.abs(wanted.numpy()).max()
        if not difference <= _AGREEMENT:
            raise RuntimeError(
                f"the exported graph's {name} differs from the network's by {difference:.1g} of its largest value: use "
                "the eager engine, and report the architecture"
            )
    return graph


def _without_weights(model: Any, names: set[str]) -> Graph:
    """Return an exported model as a graph whose tensors of these names lie outside it."""
    import onnx_ir
    from onnxscript import optimizer

    nodes = model.graph
    weights = {name: value for name, value in nodes.initializers.items() if name in names}
    for name, value in weights.items():  # inputs are no constants: nothing is computed with them
        del nodes.initializers[name]
        nodes.inputs.append(value)
    optimizer.optimize(model)
    stored = {}
    for name, value in weights.items():
        nodes.inputs.remove(value)
        if value.uses():
            tensor = value.const_value
            stored[name] = (tensor.dtype.numpy().name, tuple(tensor.shape))
            value.const_value = onnx_ir.ExternalTensor(
                "weights", None, None, tensor.dtype, shape=tensor.shape, name=name
            )
            nodes.register_initializer(value)
    for part in (model, nodes, *nodes.all_nodes(), *nodes.inputs, *nodes.outputs, *nodes.initializers.values()):
        part.metadata_props.clear()
        part.doc_string = None
    proto = onnx_ir.to_proto(model)
    del proto.graph.value_info[:]
    besides = {f"familiarity.{name}" for name in Familiarity().state_dict()}  # which no graph computes
    return Graph(proto.SerializeToString(deterministic=True), stored, tuple(sorted(names | besides)))
