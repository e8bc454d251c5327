"""ONNX files are read as onnxruntime reads them, operator by operator; what is read wrongly, unsupported or unsafe is refused."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings, strategies as st
from onnx import helper, numpy_helper

from isogrid.certify import read_graph
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.models import open_model, read_onnx
from isogrid.models.onnx_operators import OPERATORS
from tests.certify.networks import inputs, networks
from tests.models.onnx_nets import constant, exported, node, proto, saved

ints = lambda *values: np.array(values, dtype=np.int64)  # noqa: E731
W, V = constant(4, 3, 3, 2), constant(6, 2, 3, 3)
IMAGE = (4, 6, 7)

CASES = {
    "Gemm": ((5,), [node("Gemm", "x", constant(5, 3), constant(3))]),
    "Gemm, transposed": ((5,), [node("Gemm", "x", constant(3, 5), constant(1, 3), transB=1)]),
    "Gemm with factors": ((5,), [node("Gemm", "x", constant(3, 5), constant(1), transB=1, alpha=0.3, beta=-1.7)]),
    "Gemm without bias": ((5,), [node("Gemm", "x", constant(5, 3), alpha=2.5)]),
    "MatMul and Add": ((5,), [node("MatMul", "x", constant(5, 3), outputs=("h",)), node("Add", constant(3), "h")]),
    "MatMul of rows": ((4, 5), [node("MatMul", "x", constant(5, 3))]),
    "Conv": (IMAGE, [node("Conv", "x", constant(6, 4, 3, 2), constant(6), strides=[2, 1], pads=[1, 0, 1, 0])]),
    "Conv, padded unevenly": (IMAGE, [node("Conv", "x", constant(6, 4, 3, 2), pads=[2, 0, 1, 3], dilations=[1, 2])]),
    "Conv, groups": (IMAGE, [node("Conv", "x", V, constant(6), group=2, kernel_shape=[3, 3])]),
    "Conv, SAME_UPPER": (IMAGE, [node("Conv", "x", constant(6, 4, 2, 4), auto_pad="SAME_UPPER", strides=[2, 3])]),
    "Conv, SAME_LOWER": (IMAGE, [node("Conv", "x", constant(6, 4, 2, 4), auto_pad="SAME_LOWER")]),
    "Conv, VALID": (IMAGE, [node("Conv", "x", constant(6, 4, 2, 4), auto_pad="VALID")]),
    "Conv of a series": ((4, 9), [node("Conv", "x", constant(6, 2, 3), constant(6), group=2, pads=[0, 2], strides=[2])]),
    "Conv of a volume": ((2, 4, 3, 4), [node("Conv", "x", constant(3, 2, 2, 2, 2), pads=[1, 0, 1, 0, 1, 0])]),
    "BatchNormalization": (
        IMAGE,
        [node("BatchNormalization", "x", constant(4), constant(4, seed=1), constant(4, seed=2), constant(4) ** 2 + 0.5, epsilon=0.01)],
    ),
    "Relu": ((5,), [node("Relu", "x")]),
    "LeakyRelu": ((5,), [node("LeakyRelu", "x", alpha=0.3)]),
    "LeakyRelu as it is": ((5,), [node("LeakyRelu", "x")]),
    "PRelu": (IMAGE, [node("PRelu", "x", constant(4, 1, 1))]),
    "PRelu, one slope": ((5,), [node("PRelu", "x", constant(1))]),
    "Tanh": ((5,), [node("Tanh", "x")]),
    "Sigmoid": ((5,), [node("Sigmoid", "x")]),
    "Clip": ((5,), [node("Clip", "x", np.float32(-0.5), np.float32(0.75))]),
    "Clip above": ((5,), [node("Clip", "x", "", np.float32(0.25))]),
    "MaxPool": (IMAGE, [node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 1])]),
    "MaxPool, padded": (IMAGE, [node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1])]),
    "MaxPool, padded unevenly": (IMAGE, [node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0])]),
    "MaxPool, dilated": (IMAGE, [node("MaxPool", "x", kernel_shape=[2, 3], dilations=[2, 3], pads=[0, 0, 1, 2])]),
    "MaxPool, rounded up": (IMAGE, [node("MaxPool", "x", kernel_shape=[2, 2], strides=[3, 4], ceil_mode=1)]),
    "MaxPool, rounded up and padded unevenly": (
        IMAGE,
        [node("MaxPool", "x", kernel_shape=[2, 3], strides=[3, 2], pads=[0, 0, 0, 1], ceil_mode=1)],
    ),
    "MaxPool of a series": ((4, 9), [node("MaxPool", "x", kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER")]),
    "AveragePool": (IMAGE, [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 1])]),
    "AveragePool, padded": (IMAGE, [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 1])]),
    "AveragePool, padding counted": (IMAGE, [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 1], count_include_pad=1)]),
    "AveragePool, padded unevenly": (IMAGE, [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0])]),
    "AveragePool, uneven padding counted": (
        IMAGE,
        [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0], count_include_pad=1)],
    ),
    "GlobalAveragePool": (IMAGE, [node("GlobalAveragePool", "x")]),
    "GlobalMaxPool": (IMAGE, [node("GlobalMaxPool", "x")]),
    "Flatten": (IMAGE, [node("Flatten", "x", axis=1)]),
    "Flatten, last axis of ones": ((1, 5), [node("Flatten", "x", axis=-1)]),
    "Flatten everything": (IMAGE, [node("Flatten", "x", axis=0)]),
    "Reshape": (IMAGE, [node("Reshape", "x", ints(0, 2, -1))]),
    "Reshape to one row": (IMAGE, [node("Reshape", "x", ints(1, -1))]),
    "Squeeze and Unsqueeze": (
        (1, 5),
        [node("Squeeze", "x", ints(1), outputs=("h",)), node("Unsqueeze", "h", ints(-1, 1), outputs=("g",)), node("Relu", "g")],
    ),
    "Transpose": (IMAGE, [node("Transpose", "x", perm=[0, 2, 3, 1])]),
    "Concat": ((5,), [node("Relu", "x", outputs=("h",)), node("Concat", "h", constant(1, 2), "x", axis=-1)]),
    "Add of two": ((5,), [node("Relu", "x", outputs=("h",)), node("Add", "h", "x")]),
    "Max": ((5,), [node("Neg", "x", outputs=("h",)), node("Max", "h", "x")]),
    "Max of several": (
        (5,),
        [node("Neg", "x", outputs=("h",)), node("Max", "h", constant(5), "x", constant(1, 5, seed=1), "h")],
    ),
    "Max of one": ((5,), [node("Max", "x")]),
    "Max with constants": (IMAGE, [node("Max", constant(4, 1, 1), "x", constant(7))]),
    "Sub": (IMAGE, [node("Sub", constant(4, 1, 1), "x", outputs=("h",)), node("Sub", "h", "x")]),
    "Mul": (IMAGE, [node("Mul", "x", constant(7))]),
    "Div": ((5,), [node("Div", "x", np.abs(constant(5)) + 0.5)]),
    "Neg": ((5,), [node("Neg", "x")]),
    "Identity, Dropout, Cast": (
        (5,),
        [node("Identity", "x", outputs=("h",)), node("Dropout", "h", outputs=("g",)), node("Cast", "g", to=1)],
    ),
    "Pad": (IMAGE, [node("Pad", "x", ints(0, 0, 1, 2, 0, 1, 0, 3), np.float32(0.5))]),
    "Pad of axes": (IMAGE, [node("Pad", "x", ints(1, 2), "", ints(-1))]),
    "ReduceMean": (IMAGE, [node("ReduceMean", "x", ints(2, 3), keepdims=0)]),
    "ReduceSum": (IMAGE, [node("ReduceSum", "x", ints(-1))]),
    "Slice": (IMAGE, [node("Slice", "x", ints(1, -4), ints(9999, -1), ints(1, 3), ints(1, 2))]),
    "a shape that is computed": (
        IMAGE,
        [
            node("Shape", "x", outputs=("s",)),
            node("Gather", "s", np.int64(0), outputs=("n",), axis=0),
            node("Unsqueeze", "n", ints(0), outputs=("m",)),
            node("Concat", "m", ints(-1), outputs=("t",), axis=0),
            node("Reshape", "x", "t"),
        ],
    ),
    "a weight that is computed": (
        (5,),
        [
            node("Constant", outputs=("c",), value=numpy_helper.from_array(constant(3, 5))),
            node("Transpose", "c", outputs=("w",), perm=[1, 0]),
            node("MatMul", "x", "w"),
        ],
    ),
}  # fmt: skip
OLDER = {
    "Unsqueeze, opset 11": ((5,), [node("Unsqueeze", "x", axes=[2, 1])], 11),
    "Squeeze, opset 11": ((5, 1), [node("Squeeze", "x", axes=[-1])], 11),
    "Clip, opset 6": ((5,), [node("Clip", "x", min=-0.25, max=0.5)], 6),
    "Pad, opset 2": (IMAGE, [node("Pad", "x", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5)], 10),
    "ReduceMean, opset 11": (IMAGE, [node("ReduceMean", "x", axes=[3])], 11),
    "Slice, opset 9": (IMAGE, [node("Slice", "x", starts=[1], ends=[5], axes=[2])], 9),
    "Dropout, opset 7": ((5,), [node("Dropout", "x", ratio=0.5)], 9),
    "BatchNormalization, opset 9": (
        (4,),
        [node("BatchNormalization", "x", constant(4), constant(4, seed=1), constant(4, seed=2), constant(4) ** 2 + 0.5)],
        9,
    ),
}


def agrees(path, shape):
    """The file's module gives onnxruntime's logits within 1e-5, rows of a batch as alone, and certificates understand it."""
    network = read_onnx(path)
    assert network.shape == shape
    x = torch.randn(5, *shape, generator=generator(0, "onnx inputs"))
    ours, theirs = network.module(x), network.reference(x)
    assert ours.shape == theirs.shape == (5, network.classes)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    network.agree(x)
    graph = read_graph(network.module, x)
    assert torch.allclose(graph(x.double())[:, -network.classes :], theirs.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", ["any", 1])
def test_every_operator_is_read_as_onnxruntime_reads_it(tmp_path, name, batch):
    shape, nodes = CASES[name]
    agrees(saved(tmp_path / "net.onnx", nodes, shape, batch=batch), shape)


@pytest.mark.parametrize("name", OLDER)
def test_older_opsets(tmp_path, name):
    shape, nodes, opset = OLDER[name]
    agrees(saved(tmp_path / "net.onnx", nodes, shape, opset=opset), shape)


def test_no_operator_is_left_out():
    tried = {one.op_type for _, nodes in CASES.values() for one, _ in nodes}
    assert set(OPERATORS) <= tried


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
def test_any_window(tmp_path_factory, data, kind):
    sizes = data.draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    dilations = list(data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))) if kind != "AveragePool" else [1, 1]
    if kind != "Conv" and any(d > 1 for d in dilations):
        pads = [0] * 4  # a padded, dilated window may lie in the padding
    window = {"strides": list(data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))), "pads": pads, "dilations": dilations}
    if kind == "AveragePool":
        window["count_include_pad"] = data.draw(st.integers(0, 1))
        del window["dilations"]
    made = (
        node("Conv", "x", constant(4, 2, *kernel), group=2, **window) if kind == "Conv" else node(kind, "x", kernel_shape=kernel, **window)
    )
    agrees(saved(tmp_path_factory.mktemp("window") / "net.onnx", [made], (4, *sizes)), (4, *sizes))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", [name for name in networks() if name != "pooled"])  # adaptive pooling is not exported
def test_what_torch_exports_is_read_back(tmp_path, name, dynamic):
    net, x = networks(sparsity=0.5)[name], inputs()
    axes = {"dynamic_axes": {"x": {0: "batch"}, "logits": {0: "batch"}}} if dynamic else {}
    path = exported(net, x, tmp_path / "net.onnx", **axes)
    agrees(path, (2, 4, 4))
    assert torch.allclose(open_model(str(path), x, 3)(x), net(x), atol=1e-5)


def test_samples_that_differ_by_ones_or_by_being_flat_are_reshaped(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Flatten", "x", outputs=("h",)), node("Gemm", "h", constant(12, 3))], (12, 1))
    x = torch.rand(4, 1, 3, 4)
    assert torch.equal(open_model(str(path), x, 3)(x), read_onnx(path).module(x.reshape(4, 12, 1)))
    with pytest.raises(InputError, match="shape"):
        open_model(str(path), torch.rand(4, 13), 3)
    image = saved(tmp_path / "image.onnx", [node("Relu", "x", outputs=("z",))], (2, 3, 4))
    with pytest.raises(InputError, match="shape"):
        open_model(str(image), torch.rand(4, 4, 3, 2), 24)


def test_a_network_that_is_read_wrongly_is_refused_with_the_deviation(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Gemm", "x", constant(5, 3))], (5,))
    network, x = read_onnx(path), torch.eye(5)
    network.agree(x)
    weight = next(network.module.parameters())
    with torch.no_grad():
        weight[1, 2] += 0.25
    with pytest.raises(InputError, match=r"differ from onnxruntime's by up to 0\.\d+"):
        network.agree(x)
    with torch.no_grad():
        weight[1, 2] = torch.nan
    with pytest.raises(InputError, match="by up to inf"):
        network.agree(x)


REFUSED = {
    "an operator that is not supported": ((5,), [node("Erf", "x")], "node the Erf (Erf)", "Relu"),
    "a subgraph's operator": ((5,), [node("Softmax", "x")], "node the Softmax (Softmax)", "Gemm"),
    "a product of two": ((5,), [node("Mul", "x", "x")], "the Mul", "both depend"),
    "a weight that depends on the input": ((1, 5), [node("MatMul", constant(3, 1), "x")], "the MatMul", "left factor"),
    "a batch that is moved": ((5,), [node("Transpose", "x", perm=[1, 0])], "the Transpose", "batch"),
    "a batch that is summed": ((5,), [node("ReduceSum", "x", ints(0))], "the ReduceSum", "batch"),
    "rows that are joined": ((5,), [node("Concat", "x", "x", axis=0)], "the Concat", "batch"),
    "a constant that enlarges the batch": ((5,), [node("Add", "x", constant(2, 5))], "the Add", "batch"),
    "sizes that do not fit": ((5,), [node("Gemm", "x", constant(4, 3))], "the Gemm", "cannot be computed"),
    "a cast to integers": ((5,), [node("Cast", "x", to=7)], "the Cast", "to"),
    "batch statistics": (
        (4,),
        [node("BatchNormalization", "x", *[np.ones(4, np.float32)] * 4, training_mode=1)],
        "BatchNormalization",
        "training_mode",
    ),
    "a constant that is drawn": (
        (5,),
        [node("RandomNormal", outputs=("r",), shape=[1, 5], scale=1e-5), node("Add", "x", "r")],
        "node r (RandomNormal)",
        "random",
    ),
    "dropout of a constant in training": (
        (5,),
        [node("Dropout", constant(1, 5), np.float32(0.5), np.bool_(True), outputs=("r",)), node("Add", "x", "r")],
        "node r (Dropout)",
        "random",
    ),
    "a bias of another direction": ((5,), [node("Gemm", "x", constant(5, 3), constant(3, 1))], "the Gemm", "bias"),
    "dropout in training": ((5,), [node("Dropout", "x", np.float32(0.5), np.bool_(True))], "Dropout", "training"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_named_with_its_node(tmp_path, name):
    shape, nodes, named, why = REFUSED[name]
    path = saved(tmp_path / "net.onnx", nodes, shape, batch=1)
    with pytest.raises(InputError) as raised:
        read_onnx(path)
    assert named in str(raised.value)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path):
    for content in (b"", b"not a model", bytes(range(256)) * 40):
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(InputError, match="a valid ONNX file"):
            read_onnx(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="existing ONNX file"):
        read_onnx(tmp_path / "nowhere.onnx")


def test_what_onnxruntime_cannot_run_is_one_line(tmp_path):
    made = node("Conv", "x", constant(6, 4, 2, 2), auto_pad="SAME_UPPER", dilations=[2, 2])
    path = saved(tmp_path / "net.onnx", [made], IMAGE)
    with pytest.raises(InputError, match=r"model: got .*net\.onnx") as raised:
        open_model(str(path), torch.rand(2, *IMAGE), 2)
    assert "\n" not in str(raised.value)


def test_what_certificates_do_not_support_is_named_by_the_files_own_name(tmp_path):
    nodes = [node("ReduceMean", "x", ints(1), outputs=("mean/of.x",)), node("Sub", "x", "mean/of.x")]
    network = read_onnx(saved(tmp_path / "net.onnx", nodes, (5,)))
    network.agree(torch.rand(3, 5))
    with pytest.raises(ModelError, match=r"in module steps\.1_z "):
        read_graph(network.module, torch.rand(3, 5))


def test_a_network_without_classes_is_refused(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Slice", "x", ints(0), ints(0), ints(1))], (5,))
    with pytest.raises(InputError, match="logits of shape"):
        read_onnx(path)


@pytest.mark.parametrize("batch", [5, 0])
def test_inputs_of_a_fixed_batch_or_of_unknown_size_are_refused(tmp_path, batch):
    path = saved(tmp_path / "net.onnx", [node("Relu", "x")], (5,) if batch else ("width",), batch=batch or 1)
    with pytest.raises(InputError, match="shape"):
        read_onnx(path)


def test_tensors_outside_the_files_folder_are_never_read(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    weight = constant(5, 3)
    (tmp_path / "secret.bin").write_bytes(weight.tobytes())
    (folder / "inside.bin").write_bytes(weight.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")

    def at(location):
        model = proto([node("Gemm", "x", weight)], (5,))
        held = model.graph.initializer[0]
        held.ClearField("raw_data")
        held.data_location = onnx.TensorProto.EXTERNAL
        held.external_data.extend([onnx.StringStringEntryProto(key="location", value=location)])
        path = folder / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    network = read_onnx(at("inside.bin"))
    network.agree(torch.rand(3, 5))
    assert torch.equal(network.module(torch.eye(5)), torch.from_numpy(weight))
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "", "./../models/../secret.bin"):
        with pytest.raises(InputError, match="in its folder"):
            read_onnx(at(location))


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    path = saved(tmp_path / "net.onnx", [node("Relu", "x")], (5,))
    for package in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(InputError, match=rf"no package {package}.*isogrid\[onnx\]"):
                open_model(str(path), torch.rand(3, 5), 5)


def test_two_inputs_are_refused(tmp_path):
    model = proto([node("Add", "x", "y")], (5,))
    model.graph.input.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="2 inputs"):
        read_onnx(tmp_path / "net.onnx")
