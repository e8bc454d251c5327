"""Reading a model into a graph: exported by torch, lowered call by call, and compared with the model before anything is said of it."""

from __future__ import annotations

import copy
import operator
from typing import Any, Final

import torch
from torch import Tensor, nn

from isogrid.certify.call import Call, Ref, Unsupported
from isogrid.certify.graph import Builder, Graph, used
from isogrid.certify.intervals import deployed_range
from isogrid.certify.lowering import LOWERINGS
from isogrid.certify.operations import Move
from isogrid.core.errors import ModelError

_PLAIN: Final = frozenset({operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.neg})
_VIEWS: Final = {"view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "slice", "select", "detach", "alias"}
_PROBES: Final = 64  # samples on which a graph must agree with its model


def read_graph(model: nn.Module, x: Tensor) -> Graph:
    """The graph of `model` for inputs shaped like x [N, *S], in float64 with the model's own weights.

    The model runs in eval mode on copies; it must agree with its graph on (at most 64 of) the samples x, within the rounding that its
    arithmetic allows. Raises ModelError where torch cannot export the model, where it holds an operation that is not supported (named,
    with its node), where it computes in half precision, or where the two disagree.

    >>> graph = read_graph(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(5, 2, 2))
    >>> [type(node.operation).__name__ for node in graph.nodes]
    ['NoneType', 'Move', 'Linear', 'Relu', 'Linear']
    """
    program = _exported(model, x)
    graph = _lowered(program, tuple(x.shape[1:]))
    _agree(model, graph, x[:_PROBES])
    return graph


def _exported(model: nn.Module, x: Tensor) -> Any:
    try:
        copied = copy.deepcopy(model).eval().cpu()
        example = x[:1].detach().cpu().expand(2, *x.shape[1:]).contiguous()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return torch.export.export(copied, (example,), strict=False)
    except Exception as error:  # a user's forward, and torch.export, may raise anything
        said = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"model: torch.export cannot follow its forward ({type(error).__name__}: {said}); accepted: a forward without "
            "branches that depend on values"
        ) from error


def _lowered(program: Any, shape: tuple[int, ...]) -> Graph:
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    builder = Builder(shape)
    values: dict[Any, Any] = {}
    narrow = False
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = held[places[node.name]].detach() if node.name in places else Ref(0)
        elif node.op == "output":
            found = node.args[0]
            result = found[0] if isinstance(found, tuple | list) and len(found) == 1 else found
        elif node.op == "get_attr":
            raise ModelError(
                f"model: part {node.name} runs in a mode of its own (autocast, enable_grad), which certificates do not support"
            )
        else:
            values[node] = _value(builder, node, values)
        meta = node.meta.get("val")
        if isinstance(meta, Tensor) and isinstance(values.get(node), Ref):
            if meta.dtype not in (torch.float32, torch.float64):
                raise _unsupported(node, f"it gives {meta.dtype}; accepted: float32 and float64")
            narrow |= meta.dtype == torch.float32
    output = values.get(result) if isinstance(result, torch.fx.Node) else None
    if not isinstance(output, Ref):
        raise ModelError("model: its output is no tensor that depends on the input; accepted: logits of shape [B, classes]")
    return _finished(builder, output.node, 2.0**-24 if narrow else 2.0**-53)


def _value(builder: Builder, node: Any, values: dict[Any, Any]) -> Any:
    """What one call gives: a constant where all its operands are, else its lowering's node."""

    def resolved(argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return values[argument]
        return type(argument)(resolved(a) for a in argument) if isinstance(argument, list | tuple) else argument

    args, kwargs = resolved(list(node.args)), {key: resolved(value) for key, value in node.kwargs.items()}
    schema = getattr(node.target, "_schema", None)
    if schema is None and node.target not in _PLAIN:  # what else is in a program changes torch itself
        raise _unsupported(node, "it is no tensor operation")
    if schema is not None and torch.Tag.nondeterministic_seeded in node.target.tags and not schema.name.endswith("dropout"):
        raise _unsupported(node, "it draws random numbers")
    if not _depends([*args, *kwargs.values()]):
        with torch.no_grad():
            return node.target(*args, **kwargs)
    if schema is None:
        raise _unsupported(node, "it takes a part of several results")
    name = schema.name.split("::")[-1]
    if name.startswith("_assert"):
        return None
    if name.endswith("_"):
        _refuse_shared(node)
    lower = LOWERINGS.get(name.rstrip("_"))
    result = node.meta.get("val")
    if lower is None or not isinstance(result, Tensor):
        raise _unsupported(node, f"accepted: {', '.join(sorted(LOWERINGS))}")
    named = {argument.name: argument.default_value if argument.has_default_value() else None for argument in schema.arguments}
    named |= dict(zip(named, args, strict=False)) | kwargs
    try:
        return lower(builder, Call(name=node.name, target=node.target, arguments=named, shape=tuple(result.shape), dtype=result.dtype))
    except (Unsupported, ValueError) as error:
        raise _unsupported(node, str(error)) from None


def _depends(argument: Any) -> bool:
    return any(_depends(a) for a in argument) if isinstance(argument, list | tuple) else isinstance(argument, Ref)


def _refuse_shared(node: Any) -> None:
    """In place is fine where nothing else looks at the memory: neither the operand nor what it is a view of has another user."""
    operand = node.args[0]
    while isinstance(operand, torch.fx.Node):
        if operand.op == "placeholder":
            raise _unsupported(node, "it writes into the model's input")
        if len(operand.users) > 1:
            raise _unsupported(node, "it writes into a value that is used elsewhere; accepted: the form that is not in place")
        schema = getattr(operand.target, "_schema", None)
        operand = operand.args[0] if schema is not None and schema.name.split("::")[-1] in _VIEWS else None


def _finished(builder: Builder, output: int, unit: float) -> Graph:
    shape = builder.nodes[output].shape
    if len(shape) > 1 or (len(shape) == 1 and shape[0] < 1):
        raise ModelError(f"model: forward gives samples of shape {shape}; accepted: logits of shape [B, classes]")
    if len(shape) == 0:
        output = builder.add("logit", Move(function=lambda v: v.reshape(len(v), 1)), output)
    return Graph(nodes=used(builder.nodes, output), unit=unit, single=builder.nodes[output].shape == (1,))


def _unsupported(node: Any, why: str) -> ModelError:
    stack = node.meta.get("nn_module_stack") or {}
    place = next((path for path, _ in reversed(stack.values()) if path), "")
    inside = f" in module {place}" if place else ""
    return ModelError(f"model: node {node.name} ({node.target}){inside} is not supported by certificates: {why}")


def _agree(model: nn.Module, graph: Graph, x: Tensor) -> None:
    """Raise ModelError unless the model's logits on x lie within the rounding of the graph's."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            given = model(x).detach().double().cpu().reshape(len(x), -1)
    finally:
        for module, training in modes:
            module.training = training
    low, high = deployed_range(graph, x.detach().double().cpu())
    if not bool((given.isfinite() & low.isfinite() & high.isfinite()).all()):
        raise ModelError("model: its logits, or a bound on their rounding, are not finite")
    if not bool(((given >= low) & (given <= high)).all()):
        worst = float(torch.maximum(low - given, given - high).max())
        raise ModelError(f"model: its logits lie {worst:.3g} outside what rounding allows its graph: it was read wrongly")


__all__ = ["read_graph"]
