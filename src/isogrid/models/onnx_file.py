"""ONNX files as modules: parsed, read node by node, and compared with onnxruntime. Not here: what each operator computes.

Nothing in a file is run but the operators that are listed, nothing is unpickled, and its tensors come from the file itself or from files in
its own folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.extras import needed
from isogrid.core.files import exists, user_path
from isogrid.core.random import generator
from isogrid.models.onnx_operators import OPERATORS
from isogrid.models.onnx_step import Live, Node, Step, Unsupported, tensor

ONNX: Final = (".onnx",)
EXTRA: Final = ("onnx", "ONNX files")
AGREE: Final = 1e-4
"""Logits may differ from onnxruntime's by this share of the largest one (of 1, where that is smaller): two orders of summation do."""
_NOISE: Final = 16  # inputs drawn between the smallest and the largest value of the samples, compared beside these
_FLOAT: Final = 1  # TensorProto.FLOAT
_RANDOM: Final = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


@final
class OnnxModule(nn.Module):
    """An ONNX graph that is computed by torch: x [B, *S] -> logits [B, classes]."""

    def __init__(self, source: str, steps: dict[str, Step], output: str) -> None:
        super().__init__()
        self._source, self._output = source, output
        self._places = [(name, step.sources) for name, step in steps.items()]
        named = ((f"{i}_{re.sub(r'[^0-9A-Za-z]+', '_', name)}", step) for i, (name, step) in enumerate(steps.items()))
        self.steps = nn.ModuleDict(dict(named))  # what certificates do not support is named by its module

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *S] -> logits [B, classes]."""
        values = {self._source: x}
        for (name, sources), step in zip(self._places, self.steps.values(), strict=True):
            values[name] = step(*[values[source] for source in sources])
        return values[self._output]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxNetwork:
    """A file that was read: the module for samples of `shape` (without the batch) and so many classes; `reference` is onnxruntime."""

    path: Path
    module: OnnxModule
    shape: tuple[int, ...]
    classes: int
    session: Any = field(repr=False)

    def reference(self, x: Tensor) -> Tensor:
        """What onnxruntime computes for x [N, *S], row by row: logits [N, classes]. Raises InputError where it cannot run the file."""
        name = self.session.get_inputs()[0].name
        try:
            rows = [self.session.run(None, {name: row[None].numpy()})[0] for row in x.detach().float().cpu()]
        except Exception as error:  # onnxruntime's errors have no public base
            raise InputError("model", str(self.path), f"a file that onnxruntime can run ({_said(error)})") from None
        return torch.stack([torch.from_numpy(row).reshape(-1) for row in rows])

    def agree(self, x: Tensor) -> None:
        """Raise InputError unless module and onnxruntime agree on the samples x [N, *S], and on noise within their range."""
        low, high = float(x.min()), float(x.max())
        noise = low + (high - low) * torch.rand(_NOISE, *self.shape, generator=generator(0, "onnx agreement"))
        points = torch.cat([x.detach().float().cpu(), noise])
        with torch.no_grad():
            ours = torch.cat([self.module(part) for part in torch.split(points, 64)]).double()
        theirs = self.reference(points).double()
        worst = float("inf") if ours.shape != theirs.shape else (ours - theirs).abs().nan_to_num(torch.inf, torch.inf).max().item()
        if not worst <= AGREE * max(1.0, theirs.abs().max().item()):
            got = f"logits that differ from onnxruntime's by up to {worst:.3g}, of {self.path}"
            raise InputError("model", got, f"a file that is read as onnxruntime reads it, to {AGREE:g} of the largest logit")


def read_onnx(path: str | Path) -> OnnxNetwork:
    """Read a feed-forward classifier: one float32 input [1 or any batch, *S], one output of logits [batch, classes].

    Raises InputError where the extra `onnx` is missing, the file is none, holds tensors in files outside its folder, or a node that is not
    supported (named). Pitfall: nothing is known yet of whether it was read rightly; `agree` compares it with onnxruntime.
    """
    path = user_path(path, "model")
    if not exists(path):
        raise InputError("model", str(path), "the path of an existing ONNX file")
    onnx = needed("onnx", *EXTRA)
    proto = _parsed(onnx, path)
    source, shape = _interface(onnx, proto, path)
    module, classes = _module(onnx, proto, path, source, shape)
    return OnnxNetwork(path=path, module=module, shape=shape, classes=classes, session=_session(proto, path))


def _parsed(onnx: Any, path: Path) -> Any:
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # what protobuf raises has no public base
        raise _unreadable(path, error) from None
    tensors = [*proto.graph.initializer, *(a.t for node in proto.graph.node for a in node.attribute if a.HasField("t"))]
    folder = path.parent.resolve()
    for one in tensors:
        if one.data_location == onnx.TensorProto.EXTERNAL:
            location = next((entry.value for entry in one.external_data if entry.key == "location"), "")
            if not location or Path(location).is_absolute() or folder not in (folder / location).resolve().parents:
                raise InputError("model", f"tensor {one.name} in {location}, of {path}", "tensors in the file itself or in its folder")
    try:
        onnx.load_external_data_for_model(proto, str(folder))
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker's own errors, and OSError
        raise _unreadable(path, error) from None
    return proto


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError("model", str(path), f"a valid ONNX file ({_said(error)})")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _interface(onnx: Any, proto: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the only input, without the batch."""
    held = {one.name for one in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in held]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        got = f"{len(inputs)} inputs and {len(proto.graph.output)} outputs of {path}"
        raise InputError("model", got, "a classifier of one input and one output")
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if kind.elem_type != _FLOAT or len(dims) < 2 or dims[0] not in (None, 1) or not all(dims[1:]):
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        got = f"an input {name} {['?' if d is None else d for d in dims]} of {path}"
        raise InputError("model", got, "float32 of shape [1 or any, ...], every other dimension a number")
    return inputs[0].name, tuple(d for d in dims[1:] if d)


def _module(onnx: Any, proto: Any, path: Path, source: str, shape: tuple[int, ...]) -> tuple[OnnxModule, int]:
    graph = proto.graph
    values: dict[str, Live | Tensor] = {one.name: tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
    if graph.sparse_initializer:
        raise InputError("model", f"sparse initializers of {path}", "dense tensors")
    values[source] = Live(source, torch.rand(1, *shape, generator=generator(0, "onnx probe")))
    steps: dict[str, Step] = {}
    for node in graph.node:
        with _named(path, node):
            if node.domain not in ("", "ai.onnx"):
                raise Unsupported(f"domain {node.domain}; accepted: ONNX's own operators")
            inputs = tuple(values[name] if name else None for name in node.input)
            if node.op_type == "Shape":
                inputs = tuple(value.example if isinstance(value, Live) else value for value in inputs)
            if not any(isinstance(value, Live) for value in inputs):
                values |= _folded(onnx, proto, node, inputs)
                continue
            steps[node.output[0]] = step = _step(onnx, node, inputs)
            values[node.output[0]] = Live(node.output[0], _tried(step, values))
    result = values.get(graph.output[0].name)
    if not isinstance(result, Live) or result.example.dim() != 2 or result.example.shape[1] < 1:
        got = "a constant" if not isinstance(result, Live) else f"shape {tuple(result.example.shape)} for one sample"
        raise InputError("model", f"{got}, as output of {path}", "logits of shape [batch, classes] that depend on the input")
    return OnnxModule(source, steps, result.name).eval(), result.example.shape[1]


@contextlib.contextmanager
def _named(path: Path, node: Any) -> Iterator[None]:
    """Whatever goes wrong in a node is an InputError that names it."""
    try:
        yield
    except Exception as error:  # a file may say anything: sizes that do not fit, indices that are not there
        why = str(error) if isinstance(error, Unsupported) else f"it cannot be computed: {' '.join(str(error).split())[:160]}"
        name = node.name or (node.output[0] if node.output else "")
        raise InputError("model", f"node {name} ({node.op_type}) of {path}", f"nodes that are supported; here {why}") from None


def _step(onnx: Any, node: Any, inputs: tuple[Live | Tensor | None, ...]) -> Step:
    read = OPERATORS.get(node.op_type)
    if read is None:
        raise Unsupported(f"it is none of {', '.join(sorted(OPERATORS))}")
    if any(node.output[1:]):
        raise Unsupported("more than one output")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
    return read(Node(attributes=attributes, inputs=inputs))


def _tried(step: Step, values: dict[str, Live | Tensor]) -> Tensor:
    """The step's value for one sample, which must be what it gives this sample in a batch."""
    examples = [value.example for name in step.sources if isinstance(value := values[name], Live)]
    with torch.no_grad():
        alone, together = step(*examples), step(*[torch.cat([torch.zeros_like(e), e]) for e in examples])
    assert isinstance(alone, Tensor)
    if alone.dtype != torch.float32:
        raise Unsupported(f"it gives {alone.dtype}; accepted: float32")
    if len(alone) != 1 or together.shape != (2, *alone.shape[1:]) or not torch.allclose(together[1:], alone, 1e-4, 1e-5, equal_nan=True):
        raise Unsupported("it mixes the samples of a batch")
    return alone


def _folded(onnx: Any, proto: Any, node: Any, inputs: tuple[Live | Tensor | None, ...]) -> dict[str, Live | Tensor]:
    """What a node gives whose inputs are all constant, by ONNX's own reference; it must be the same in every run."""
    training = inputs[2] if node.op_type == "Dropout" and len(inputs) > 2 else None
    drawn = node.op_type in _RANDOM or (isinstance(training, Tensor) and bool(training.any()))
    if drawn or any(a.HasField("g") or a.graphs for a in node.attribute):
        raise Unsupported("a constant that is drawn at random, or computed by a graph of its own")
    reference = needed("onnx.reference", *EXTRA)
    held = {name: value.numpy() for name, value in zip(node.input, inputs, strict=True) if isinstance(value, Tensor)}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in held.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "folded", [], outputs, tensors), opset_imports=proto.opset_import)
    found = reference.ReferenceEvaluator(model).run(None, {})
    return {name: tensor(array) for name, array in zip(node.output, found, strict=True)}


def _session(proto: Any, path: Path) -> Any:
    """onnxruntime on the same tensors, on one thread; it is handed bytes, so that it opens no file itself."""
    runtime = needed("onnxruntime", *EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base
        raise _unreadable(path, error) from None


def open_onnx(path: str | Path, x: Tensor) -> nn.Module:
    """The module of an ONNX file for samples like x [N, *S], on which it must agree with onnxruntime.

    Samples that differ from the file's input only by dimensions of size 1, or by being flattened, are reshaped. Raises InputError as
    `read_onnx` does, and where shapes or logits do not fit.
    """
    network = read_onnx(path)
    given = tuple(x.shape[1:])
    plain, wanted = ([n for n in shape if n != 1] for shape in (given, network.shape))
    if plain != wanted and not (len(x[0].flatten()) == torch.Size(network.shape).numel() and 1 in (len(plain), len(wanted))):
        raise InputError("model", f"samples of shape {network.shape} as input of {path}", f"a network for samples of shape {given}")
    network.agree(x.reshape(len(x), *network.shape))
    return network.module if given == network.shape else nn.Sequential(_Reshape(network.shape), network.module).eval()


@final
class _Reshape(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self._shape)
