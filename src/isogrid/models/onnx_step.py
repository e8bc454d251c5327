"""A node of an ONNX graph, and the module that computes it. Not here: the operators (onnx_operators.py, onnx_windows.py), the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn


class Unsupported(Exception):  # noqa: N818
    """Why a node cannot be read; the reader of the file adds which node it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """A value that depends on the network's input: its name, and what it is for a batch of one, [1, *S]."""

    name: str
    example: Tensor


@final
class Step(nn.Module):
    """function(*live values, *constants) of a graph's values; constants are frozen parameters, or buffers where they are no floats."""

    def __init__(self, function: Callable[..., Tensor], sources: Sequence[str], constants: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.function, self.sources, self._names = function, tuple(sources), [f"c{i}" for i in range(len(constants))]
        for name, constant in zip(self._names, constants, strict=True):
            if constant.is_floating_point():
                self.register_parameter(name, nn.Parameter(constant, requires_grad=False))
            else:
                self.register_buffer(name, constant)

    def forward(self, *live: Tensor) -> Tensor:
        """Values [B, *] -> a value [B, *]."""
        return self.function(*live, *(getattr(self, name) for name in self._names))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One node: attributes by name, inputs in order; an input is Live, a constant, or None where it is left out."""

    attributes: dict[str, Any]
    inputs: tuple[Live | Tensor | None, ...]

    def given(self, i: int) -> Live | Tensor | None:
        """Input i, None where there is none."""
        return self.inputs[i] if i < len(self.inputs) else None

    def live(self, i: int, what: str = "its input") -> Live:
        """Input i, which must depend on the network's input."""
        value = self.given(i)
        if not isinstance(value, Live):
            raise Unsupported(f"{what} must depend on the network's input")
        return value

    def optional(self, i: int, what: str) -> Tensor | None:
        """Input i, which must not depend on the network's input; None where it is left out."""
        value = self.given(i)
        if isinstance(value, Live):
            raise Unsupported(f"{what} must not depend on the network's input")
        return value

    def constant(self, i: int, what: str) -> Tensor:
        """Input i, which must be there and not depend on the network's input."""
        value = self.optional(i, what)
        if value is None:
            raise Unsupported(f"{what} is left out")
        return value

    def integers(self, name: str, i: int | None = None) -> list[int] | None:
        """Integers that are an attribute in older opsets and input `i` in newer ones; None where they are left out."""
        value = self.attributes.get(name)
        if value is None and i is not None:
            found = self.optional(i, name)
            value = None if found is None else found.flatten().tolist()
        return None if value is None else [int(v) for v in value]

    def flag(self, name: str, default: int = 0) -> int:
        """An attribute that is one integer."""
        return int(self.attributes.get(name, default))

    def demand(self, **accepted: int) -> None:
        """Raise Unsupported unless each named attribute is left out or has this value."""
        for name, value in accepted.items():
            if self.flag(name, value) != value:
                raise Unsupported(f"{name} = {self.flag(name)}; accepted: {value}")

    def step(self, function: Callable[..., Tensor], *constants: Tensor | None, of: Sequence[int] = (0,)) -> Step:
        """The step function(*inputs `of`, *constants), without the constants that are None."""
        return Step(function, [self.live(i).name for i in of], [c for c in constants if c is not None])

    def reshaped(self, shape: Sequence[int]) -> Step:
        """Another shape, given for a batch of one, of each sample."""
        if not shape or shape[0] != 1:
            raise Unsupported(f"the shape {list(shape)} for one sample mixes the samples of a batch")
        rest = tuple(shape[1:])
        return self.step(lambda x: x.reshape(len(x), *rest))

    def axis(self, i: int, axis: int, rank: int | None = None) -> int:
        """A dimension of live input i (or of a value with `rank`) counted from the front; Unsupported for that of the batch."""
        rank = self.live(i).example.dim() if rank is None else rank
        found = axis + rank if axis < 0 else axis
        if not 0 < found < rank:
            raise Unsupported(f"axis {axis} of a value with {rank} dimensions; accepted: any but that of the batch")
        return found


Reading = Callable[[Node], Step]


def tensor(array: Any) -> Tensor:
    """A numpy array as a tensor of its own memory."""
    return torch.from_numpy(np.array(array))
