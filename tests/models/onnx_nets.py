"""ONNX graphs written node by node, and torch networks exported, for the tests that read them."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from isogrid.core.random import generator


def constant(*shape, seed=0):
    """A float32 array from a seed."""
    return torch.randn(shape, generator=generator(seed, "onnx constant", *shape)).numpy()


def node(operator, *inputs, outputs=("z",), **attributes):
    """(node, initializers): inputs are names, or arrays that become initializers; "" leaves one out."""
    names, held = [], []
    for i, value in enumerate(inputs):
        name = value if isinstance(value, str) else f"{outputs[0]}_{i}"
        names.append(name)
        if not isinstance(value, str):
            held.append(numpy_helper.from_array(np.asarray(value), name))
    return helper.make_node(operator, names, list(outputs), name=f"the {operator}" if outputs == ("z",) else outputs[0], **attributes), held


def proto(nodes, shape, opset=21, batch="batch", finish=True):
    """A model from x [batch, *shape] through the nodes; its last value "z" is flattened into logits."""
    made = [*nodes, node("Flatten", "z", outputs=("logits",))] if finish else list(nodes)
    graph = helper.make_graph(
        [one for one, _ in made],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "classes"])],
        [tensor for _, held in made for tensor in held],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def saved(path, nodes, shape, **rest):
    """The same as a file."""
    onnx.save(proto(nodes, shape, **rest), path)
    return path


def exported(net, x, path, **settings):
    """A torch network as torch's own exporter writes it, for batches of one or (dynamic_axes) of any size."""
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's older exporter says that it is older
        torch.onnx.export(net, (x[:1],), held, dynamo=False, input_names=["x"], output_names=["logits"], **settings)
    path.write_bytes(held.getvalue())
    return path
