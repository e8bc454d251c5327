"""A call of an exported program, and what every lowering needs of its arguments. Not here: the lowerings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isogrid.certify.graph import Builder
from isogrid.certify.operations import Scale

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that depends on the input: the index of its node."""

    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the program: its node's name, the operation, the arguments by the names of its schema, the result's shape and type."""

    name: str
    target: Any
    arguments: Arguments
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]


class Unsupported(Exception):  # noqa: N818
    """Why a call cannot be lowered; the reader of the program adds which node it is."""


Lowering = Callable[[Builder, Call], Ref]


def ref(value: Any, what: str = "its input") -> int:
    """The node of an operand that must depend on the input."""
    if not isinstance(value, Ref):
        raise Unsupported(f"{what} must depend on the network's input")
    return value.node


def constant(value: Any, what: str) -> Tensor:
    """An operand that must not depend on the input, in float64."""
    if not isinstance(value, Tensor):
        raise Unsupported(f"{what} must not depend on the network's input")
    return value.detach().double()


def per_sample(call: Call, value: Any, shape: Sequence[int]) -> Tensor:
    """A constant operand in the type that the program computes in, as it stands beside one sample of `shape`."""
    found = (value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)).to(call.dtype).double()
    if found.dim() > len(shape):
        if found.dim() != len(shape) + 1 or not bool((found == found[:1]).all()):
            raise Unsupported("a constant that differs between the samples of a batch")
        found = found[0]
    if any(have not in (1, want) for have, want in zip(reversed(found.shape), reversed(shape), strict=False)):
        raise Unsupported(f"a constant of shape {tuple(found.shape)} would enlarge samples of shape {tuple(shape)}")
    return found


def scale(builder: Builder, name: str, x: int, weight: Tensor | float, bias: Tensor | float, roundings: int = 1) -> int:
    """weight * x + bias; `roundings` that the deployed computation makes, 0 where these nodes only stand for another."""
    shift = torch.as_tensor(bias, dtype=torch.float64)
    factor = torch.as_tensor(weight, dtype=torch.float64)
    return builder.add(name, Scale(weight=factor, bias=shift, roundings=roundings, extra=shift.abs()), x)
