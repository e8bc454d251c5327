"""What a search's gradient is: exact, or leaky, where dead units let a share of it through on the way back. Not here: when (each attack).

A dead unit's gradient is zero, so a network with few live paths, as pruning leaves them, hides adversarial examples from every gradient
attack. A leaky backward pass opens the gates: relu in all its forms, relu6 and hardtanh, clamps at 0 and maxima with 0. The forward pass,
the model and its graph are untouched: autograd's own operations are watched while they run, so it works for modules, functions, methods,
in-place forms, TorchScript and exported programs alike, and ends with the pass. What it cannot see: gates written as products or `where`
(x * (x > 0)), and code that torch.compile has fused.
Source: a relative of LinBP (Guo, Li & Chen, NeurIPS 2020), which backpropagates linearly for transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from isogrid.core.errors import ModelError

Kind = Literal["exact", "leaky"]
KINDS: Final = ("exact", "leaky")
POWER: Final = 3
"""The slope is (1 - t)^POWER over a search, t from 0 to 1: linear backpropagation first, the true gradient at the end."""
LEAST: Final = 1e-3
"""A slope below this is 0: the pass is the exact one, bit for bit and at its price."""
NO_GRADIENT: Final = (
    "model: its logits have no gradient with respect to the input (a detach, no_grad or rounding in forward?); accepted: a "
    "differentiable model, or gradient-free attacks (square, hopskipjump, noise)"
)
_ATEN = torch.ops.aten


@dataclass(slots=True, kw_only=True)
class Backward:
    """How gradients come about in one search: `kind`, the `slope` of dead units now (0: exact), whether a gate was `opened` so far."""

    kind: Kind = "exact"
    slope: float = 0.0
    opened: bool = False

    def __post_init__(self) -> None:
        self.at(0.0)

    def at(self, t: float) -> None:
        """The search has come this far, t from 0 to 1."""
        if self.kind == "leaky":
            slope = (1 - min(t, 1.0)) ** POWER
            self.slope = slope if slope >= LEAST else 0.0

    def gradient(self, outputs: Tensor, inputs: Tensor, weights: Tensor | None = None, *, keep: bool = False) -> Tensor:
        """d <outputs, weights> / d inputs (weights None: one output each), with the slope as it is; `keep`: the graph is needed again."""
        if not self.slope:
            return exact_gradient(outputs, inputs, weights, keep=keep)
        with _Open(self):
            return exact_gradient(outputs, inputs, weights, keep=keep)


def exact_gradient(outputs: Tensor, inputs: Tensor, weights: Tensor | None = None, *, keep: bool = False) -> Tensor:
    """The gradient that autograd gives; raises ModelError where the outputs have none with respect to the inputs.

    They may well have a graph all the same: one that begins at the weights, or at a detached copy of the inputs.
    """
    if outputs.requires_grad:
        (gradient,) = torch.autograd.grad(outputs, inputs, weights, retain_graph=keep, allow_unused=True)
        if gradient is not None:
            return gradient
    raise ModelError(NO_GRADIENT)


class _Open(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While a backward pass runs inside, gates that would set a gradient to 0 multiply it with the slope."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for more than a second, to keep it out of a pass that nobody compiles

    def __init__(self, backward: Backward) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.backward = backward
        self.gates: list[Tensor] = []  # masks that this pass made by comparing with 0: those of clamps and maxima

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        opened = _OPENED.get(func)
        if opened is not None and not torch.is_grad_enabled():  # with gradients on, a forward pass is being made anew (checkpointing)
            made = opened(self, *args)
            if made is not None:
                return made
        return func(*args, **(kwargs or {}))

    def leak(self, passes: Tensor, gradient: Tensor) -> Tensor:
        """`gradient` where the mask `passes`, the slope's share of it elsewhere."""
        self.backward.opened = True
        return torch.where(passes, gradient, gradient * self.backward.slope)

    def claim(self, mask: Tensor) -> bool:
        """Whether this pass made `mask` for a gate; it is used once."""
        rest = [gate for gate in self.gates if gate is not mask]
        found, self.gates = len(rest) < len(self.gates), rest
        return found


def _threshold(mode: _Open, gradient: Tensor, x: Tensor, limit: float) -> Tensor:
    if limit == 0:
        mode.backward.opened = True
        return _ATEN.leaky_relu_backward.default(gradient, x, mode.backward.slope, False)  # type: ignore[no-any-return]
    return mode.leak(x > limit, gradient)


def _hardtanh(mode: _Open, gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return mode.leak((x > low) & (x < high), gradient)


def _comparison(func: Any) -> Callable[..., Tensor]:
    """What clamps and maxima ask on their way back: x >= 0, zeros < x and so on; the answer is a gate."""

    def compare(mode: _Open, a: Tensor, b: Tensor | float) -> Tensor:
        mask: Tensor = func(a, b)
        if any(not bool(side.any()) if isinstance(side, Tensor) else side == 0 for side in (b, a)):
            mode.gates.append(mask)
        return mask

    return compare


def _where(mode: _Open, mask: Tensor, gradient: Tensor, other: Tensor) -> Tensor | None:
    return mode.leak(mask, gradient) if other.dim() == 0 and mode.claim(mask) else None


def _fill(mode: _Open, gradient: Tensor, mask: Tensor, value: float) -> Tensor | None:
    return gradient.copy_(mode.leak(~mask, gradient)) if value == 0 and mode.claim(mask) else None


_COMPARISONS: Final = [getattr(getattr(_ATEN, name), kind) for name in ("ge", "le", "gt", "lt") for kind in ("Scalar", "Tensor")]
_OPENED: Final[dict[Any, Callable[..., Tensor | None]]] = {
    _ATEN.threshold_backward.default: _threshold,
    _ATEN.hardtanh_backward.default: _hardtanh,
    _ATEN.where.self: _where,
    _ATEN.masked_fill_.Scalar: _fill,
} | {func: _comparison(func) for func in _COMPARISONS}
