"""Interval bounds of a whole model, with gradients, by running its own forward pass on boxes of inputs. Not here: certificates (`certify`),
which are sound to the last bit; these bounds are for losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional

from isogrid.core.errors import ModelError


@final
class Interval:
    """All tensors from `lower` to `upper` [B, *S]; a torch function of it gives bounds of what it gives on each of them.

    Affine layers, max and average pooling, ReLU, batch-norm by its running statistics, dropout as nothing, sums and multiples, shapes;
    raises ModelError for any other function. `relus`: lower, upper and scale of what each ReLU was given, in the order in which they ran;
    the scale is the weight of the batch-norm right before it, or None.

    >>> found = functional.linear(Interval(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])), torch.tensor([[1.0, -2.0]]))
    >>> found.lower.item(), found.upper.item()
    (-2.0, 1.0)
    """

    def __init__(
        self, lower: Tensor, upper: Tensor, relus: list[tuple[Tensor, Tensor, Tensor | None]] | None = None, scale: Tensor | None = None
    ) -> None:
        self.lower, self.upper, self.scale = lower, upper, scale
        self.relus: list[tuple[Tensor, Tensor, Tensor | None]] = [] if relus is None else relus

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", str(func))
        rule = _RULES.get(name)
        if rule is None:
            raise ModelError(f"model: interval bounds do not go through {name}; accepted: {', '.join(sorted(_RULES))}")
        return rule(func, *args, **(kwargs or {}))

    def like(self, lower: Tensor, upper: Tensor) -> Interval:
        """Bounds of something that was computed from this."""
        return Interval(lower, upper, self.relus)

    @property
    def shape(self) -> torch.Size:
        """That of every tensor in it."""
        return self.lower.shape

    def size(self, *dim: int) -> Any:
        """As Tensor.size."""
        return self.lower.size(*dim)

    def dim(self) -> int:
        """As Tensor.dim."""
        return self.lower.dim()

    def __len__(self) -> int:
        return len(self.lower)

    def flatten(self, *args: Any, **kwargs: Any) -> Interval:
        """As Tensor.flatten."""
        return _monotone(torch.flatten, self, *args, **kwargs)

    def reshape(self, *args: Any) -> Interval:
        """As Tensor.reshape."""
        return _monotone(Tensor.reshape, self, *args)

    view = reshape

    def mean(self, *args: Any, **kwargs: Any) -> Interval:
        """As Tensor.mean."""
        return _monotone(torch.mean, self, *args, **kwargs)

    def relu(self) -> Interval:
        """As Tensor.relu."""
        return _relu(functional.relu, self)

    def __getitem__(self, index: Any) -> Interval:
        return self.like(self.lower[index], self.upper[index])

    def __neg__(self) -> Interval:
        return self.like(-self.upper, -self.lower)

    def __add__(self, other: Any) -> Interval:
        low, high = (other.lower, other.upper) if isinstance(other, Interval) else (other, other)
        return self.like(self.lower + low, self.upper + high)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Interval:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> Interval:
        return self.__neg__().__add__(other)

    def __mul__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            raise ModelError("model: interval bounds do not go through the product of two activations")
        ends = self.lower * other, self.upper * other
        return self.like(torch.minimum(*ends), torch.maximum(*ends))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            raise ModelError("model: interval bounds do not go through the quotient of two activations")
        return self.__mul__(1 / other)


def _monotone(func: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    return x.like(func(x.lower, *args, **kwargs), func(x.upper, *args, **kwargs))


def _affine(func: Any, input: Interval, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Interval:
    middle = func((input.lower + input.upper) / 2, weight, bias, *args, **kwargs)
    reach = func((input.upper - input.lower) / 2, weight.abs(), None, *args, **kwargs)
    return input.like(middle - reach, middle + reach)


def _batch_norm(
    func: Any,
    input: Interval,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    if running_mean is None or running_var is None:
        raise ModelError("model: interval bounds need the running statistics of batch-norm, and a layer has none")
    place = (1, -1, *[1] * (input.dim() - 2))
    factor = (running_var + eps).rsqrt() * (1.0 if weight is None else weight)
    offset = (0.0 if bias is None else bias) - running_mean * factor
    found = input * factor.view(place) + offset.view(place)
    found.scale = None if weight is None else weight.detach().view(place)
    return found


def _relu(func: Any, input: Interval, inplace: bool = False) -> Interval:
    input.relus.append((input.lower, input.upper, input.scale))
    return input.like(input.lower.relu(), input.upper.relu())


def _nothing(func: Any, input: Interval, *args: Any, **kwargs: Any) -> Interval:
    return input


_RULES: Final[dict[str, Callable[..., Interval]]] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _affine),
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("dropout", "dropout2d", "feature_dropout", "alpha_dropout"), _nothing),
    **dict.fromkeys(
        ("flatten", "reshape", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "pad"), _monotone
    ),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), _monotone),
    "batch_norm": _batch_norm,
}
