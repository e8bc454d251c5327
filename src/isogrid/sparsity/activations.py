"""Activation sparsity: what a network's ReLUs give, in whatever form they are written, and the share of zeros in it. Not here: what makes
activations sparse (`training.penalties`).

Torch's functions are watched while the model's forward pass runs, so a ReLU counts as module, function, method or in-place form, and so do
ReLU6, hardtanh from 0, and clamp, threshold and maximum at 0, and k-winners, which stand in a ReLU's place. What cannot be seen: code that
TorchScript or torch.compile has taken out of Python's hands, and gates written as products (x * (x > 0)).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from isogrid.core.modules import check_input, check_module, unchanged
from isogrid.models.winners import winners

BATCH: Final = 256
"""Samples a pass when the share of zeros is measured."""
FORMS: Final = "relu, relu6, hardtanh from 0, clamp, threshold or maximum at 0, as module, function or method"


@contextlib.contextmanager
def watch_relus(model: nn.Module, take: Callable[[Tensor], None], *, when: Callable[[nn.Module], bool]) -> Iterator[None]:
    """Inside, every ReLU's output [B, ...] is handed to `take`, in the order in which they run, in those passes of `model` alone at whose
    beginning `when(model)` holds.

    The output carries its graph; a later in-place operation may write into it, so take from it at once what is wanted of it.
    """
    modes: list[_Watch] = []

    def enter(module: nn.Module, _: object) -> None:
        if when(module):
            modes.append(_Watch(take))
            modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(module: nn.Module, _: object, __: object) -> None:
        if modes:
            modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def learns(model: nn.Module) -> bool:
    """Whether a pass now is one that its parameters learn from: gradients are on, and one of them takes one.

    So an attack within a training step, which freezes the parameters, is none, nor is a pass that gathers statistics.
    """
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSparsity:
    """The zeros that ReLUs gave on some samples: `zeros` and `units` of each ReLU, over all samples, in the order in which they run.

    >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-1.0], [-1.0]])), net[0].bias.data.zero_()
    >>> activation_sparsity(net, torch.tensor([[1.0], [0.5]])).total
    0.6666666666666666
    """

    zeros: tuple[int, ...]
    units: tuple[int, ...]

    @property
    def total(self) -> float:
        """The share of zeros in the outputs of all ReLUs together."""
        return sum(self.zeros) / sum(self.units)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of zeros of each ReLU."""
        return tuple(zeros / units for zeros, units in zip(self.zeros, self.units, strict=True))

    @property
    def last(self) -> float:
        """The share of zeros of the ReLU that runs last: the one that feeds the last layer."""
        return self.shares[-1]


def activation_sparsity(model: nn.Module, x: Tensor) -> ActivationSparsity | None:
    """The zeros after every ReLU of `model` in eval mode on x [N, *S]; None where there is no ReLU that can be watched.

    The model's modes and buffers are as before afterwards. Pitfall: a zero is counted per position and sample, so an early convolution,
    with its many positions, outweighs the others in `total`.
    """
    zeros: list[int] = []
    units: list[int] = []
    found: list[tuple[Tensor, int]] = []

    def take(out: Tensor) -> None:
        found.append(((out == 0).sum(), out.numel()))

    check_module(model)
    check_input(x)
    with unchanged(model), torch.no_grad():
        model.eval()
        with watch_relus(model, take, when=lambda _: True):
            for part in torch.split(x, BATCH):
                found.clear()
                model(part)
                missing = [0] * (len(found) - len(zeros))
                zeros, units = zeros + missing, units + missing
                for k, (count, size) in enumerate(found):
                    zeros[k] += int(count)
                    units[k] += size
    return ActivationSparsity(zeros=tuple(zeros), units=tuple(units)) if zeros else None


class _Watch(TorchFunctionMode):
    """Hands on the output of every function that is a ReLU."""

    def __init__(self, take: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.take = take

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        form = _FORMS.get(func)
        relu = form is not None and form(*args, **kwargs)  # before the function: in place, it writes into what is asked about
        out = func(*args, **kwargs)
        if relu:
            self.take(out)
        return out


def _always(*_: object, **__: object) -> bool:
    return True


def _clamp(_: object = None, min: object = None, *__: object, **___: object) -> bool:
    return _zero(min)


def _hardtanh(_: object = None, min_val: object = -1.0, *__: object, **___: object) -> bool:
    return _zero(min_val)


def _threshold(_: object = None, threshold: object = None, value: object = None, *__: object, **___: object) -> bool:
    return _zero(threshold) and _zero(value)


def _maximum(input: object = None, other: object = None, *_: object, **__: object) -> bool:
    return isinstance(other, Tensor) and (_zero(other) or _zero(input))


def _zero(value: object) -> bool:
    """Whether it is the constant 0."""
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, int | float) and value == 0


def _named(*names: str) -> list[Any]:
    """The functions and methods of these names, wherever torch has them."""
    return [getattr(place, name) for name in names for place in (torch, Tensor, functional) if hasattr(place, name)]


_FORMS: Final[dict[Any, Callable[..., bool]]] = {
    **dict.fromkeys(_named("relu", "relu_", "relu6"), _always),
    **dict.fromkeys(_named("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"), _clamp),
    **dict.fromkeys(_named("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(_named("threshold", "threshold_"), _threshold),
    **dict.fromkeys(_named("maximum", "max"), _maximum),
    winners: _always,
}
