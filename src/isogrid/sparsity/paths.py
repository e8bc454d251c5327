"""Where a network's ways from the input to its class outputs end: which outputs are cut off, and which layer gives them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from isogrid.core.modules import check_input, check_module, unchanged
from isogrid.sparsity.layers import layer_weights, named_weights, plain_name, unwrapped
from isogrid.sparsity.trace import Trace

PROBES = 64
"""How many samples may show that an output changes."""
STILL = 1e-5
"""Outputs that differ by less than this share of the largest logit may differ by rounding alone."""
PRODUCTS = (operator.matmul, torch.matmul, torch.mm, "matmul", "mm")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def live_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """bool [C]: False where a class output can be SHOWN not to depend on the input, whatever that is; the network has collapsed then.

    Shown by following which elements can change through every operation of a forward pass in eval mode (`Trace`): zeros of the
    weights cut ways, everything else that is not known to leave an element alone passes them on. An output that changes over the first 64
    samples of `x` [N, *S] is live in any case. A single output z stands for the logits (0, z), and of two classes one live output is enough
    for both: only their difference decides.

    >>> net = nn.Linear(3, 3)
    >>> _ = net.weight.data[1].zero_()
    >>> live_outputs(net, torch.zeros(1, 3)).tolist()
    [True, False, True]
    """
    check_module(model)
    check_input(x)
    with unchanged(model), torch.enable_grad():  # without gradients attention is one operation that shows nothing
        model.eval()
        z = model(_several(x, PROBES))
        z = z.detach().reshape(len(z), -1).float()
        live = (z - z[:1]).abs().amax(0) > STILL * z.abs().amax()
        if not bool(live.all()):
            live |= _reached(model, x)
    found: Tensor = live if len(live) > 2 else live.any().expand(2)
    return found.cpu()


def _reached(model: nn.Module, x: Tensor) -> Tensor:
    """bool [C]: not shown to be cut off."""
    trace, z = _follow(model, x, {})
    depends = trace.depends(z).reshape(len(z), -1)
    return torch.ones_like(depends[0]) if trace.lost else depends.any(0)


def _follow(model: nn.Module, x: Tensor, names: Mapping[str, Tensor]) -> tuple[Trace, Tensor]:
    """A traced forward pass of two samples, and the logits."""
    x = _several(x, 2)
    trace = Trace(x, chain(model.parameters(), model.buffers()), names)
    with trace:
        z = model(x)
    return trace, z


def _several(x: Tensor, most: int) -> Tensor:
    """Some samples, at least two: normalisation may refuse one alone."""
    return x[:most].detach().clone() if len(x) > 1 else x.detach().expand(2, *x.shape[1:]).clone()


def row_axes(model: nn.Module, x: Tensor | None = None) -> dict[str, int]:
    """{weight: axis}: each slice of that weight along that axis must keep a weight.

    Those are the weights of the output layer, slice by slice (class by class), and those that weight_norm divides by the norm of a slice.
    Which layer is the output layer is found by what the output depends on: it is the last that is multiplied with anything on the way
    from `x` [N, *S] to the logits, wherever it stands in the model. Without `x` the model's code is followed (`torch.fx`), and where
    that cannot be done, the last layer in the model's order is taken.

    >>> class HeadFirst(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.head, self.body = nn.Linear(4, 2), nn.Linear(3, 4)
    ...     def forward(self, x):
    ...         return self.head(self.body(x))
    >>> row_axes(HeadFirst(), torch.rand(2, 3)), row_axes(HeadFirst())
    ({'head.weight': 0}, {'head.weight': 0})
    """
    if x is not None:
        check_input(x)
    layers = layer_weights(model)
    axes = {name: weight.norm_axis for name, weight in layers.items() if weight.norm_axis is not None}
    last, classes = _last_in_code(model) if x is None else _last_in_pass(model, x)
    for name, used in last.items():
        weight = layers.get(name)
        shape = named_weights(model)[name].shape
        if weight is None:  # a parameter of the model's own
            if classes in shape:
                axes[name] = used if used is not None and shape[used] == classes else shape.index(classes)
        elif not isinstance(weight.module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
            axes[name] = used if used is not None else 1 if isinstance(weight.module, TRANSPOSED) else 0
    return axes


def _last_in_pass(model: nn.Module, x: Tensor) -> tuple[dict[str, int | None], int]:
    """The weights last applied in a forward pass, with the axis that gives the outputs where it is known, and the number of logits.

    A layer's weight may be used otherwise than the layer would: a head that is tied to an embedding has its classes along the other axis.
    """
    names = {name: p for name, p in named_weights(model).items() if p.dim() > 1}
    with unchanged(model), torch.enable_grad():
        model.eval()
        trace, z = _follow(model, x, names)
    applied = {name: trace.out_axis(name, p) for name, p in names.items() if name in trace.applied(z)}
    return applied or _last_in_code(model)[0], z[0].numel()


def _last_in_code(model: nn.Module) -> tuple[dict[str, int | None], int]:
    """The same of the weights nearest to the output in the traced code; -1 logits, since nobody counted them."""
    inner, layers = unwrapped(model), layer_weights(model)
    own = {name for name, p in named_weights(model).items() if p.dim() > 1}
    try:
        graph = torch.fx.Tracer().trace(inner)
    except Exception:  # code that depends on values, or anything else that a user's forward may hold
        return dict.fromkeys(list(layers)[-1:]), -1
    found: dict[str, int | None] = {}
    waiting = [node for node in graph.nodes if node.op == "output"]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        operands = [plain_name(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"]
        here: dict[str, int | None] = dict.fromkeys(name for name in operands if name in own)
        second = plain_name(str(getattr(node.args[1], "target", ""))) if len(node.args) > 1 else ""
        if node.op in ("call_function", "call_method") and node.target in PRODUCTS and second in here:
            here[second] = named_weights(model)[second].dim() - 1  # x @ weight
        if node.op == "call_module":
            inside = set(inner.get_submodule(str(node.target)).modules())
            here |= dict.fromkeys(name for name, weight in layers.items() if weight.module in inside)
        found |= here
        if not here:
            new = [n for n in node.all_input_nodes if n not in seen]
            seen.update(new)
            waiting += new
    return {name: found[name] for name in layers if name in found} or dict.fromkeys(list(layers)[-1:]), -1
