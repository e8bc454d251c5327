"""The operations that a graph is made of: values, intervals, transposes and rounding of each. Not here: which torch call becomes which.

Every network is lowered to affine operations, ReLU and tanh: leaky ReLU, sigmoid, clamp and max-pooling are made of these. All
tensors carry the batch first; a row of coefficients A [M, *out] is taken back to the inputs by `transposed`, which is
differentiable in A.
"""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]
Gamma = Callable[[Tensor | int], Tensor]
"""k -> the largest relative error of a sum of products in which every term meets at most k roundings."""

_SPARSE = 0.25  # share of weights up to which a convolution is taken back as a sparse matrix
_ENTRIES = 2**22  # if that has at most so many entries
_IMAGES = 3  # input channels up to which its transpose is one product and sums
_COMPACT = 0.8  # a matrix is multiplied without its zero rows and columns where that leaves less than this share of it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation(ABC):
    """An operation without state: `forward` on values, `interval` on bounds, and for affine ones `transposed` and `shift`."""

    affine: ClassVar[bool] = True

    @abstractmethod
    def forward(self, *values: Tensor) -> Tensor:
        """Values [B, *in] -> [B, *out]."""

    def interval(self, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Bounds of the output over the box of inputs [low, high]; as it stands here, for operations that increase in every input."""
        return self.forward(*lows), self.forward(*highs)

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Coefficients A [M, *out] on the output -> on each input, [M, *in]."""
        raise NotImplementedError

    def shift(self, A: Tensor) -> Tensor | None:
        """<A, f(0)> [M]; None where f(0) = 0."""
        return None

    @abstractmethod
    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        """How far this operation's floating-point result can lie from the exact one on inputs with |input| <= size: [B, *out]; None: 0."""

    def absolute(self) -> Operation:
        """Its linear part with absolute coefficients: what carries a bound on |change of input| to one on |change of output|."""
        return self

    def cast(self, dtype: torch.dtype) -> Self:
        """The same with its floating-point constants in `dtype`."""
        changes = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(dtype) for k, v in changes.items() if isinstance(v, Tensor) and v.is_floating_point()})


def _flat(A: Tensor, other: Tensor) -> Tensor:
    """<A, other> per row: A [M, *S], other broadcastable to [*S] -> [M]."""
    return A.flatten(1) @ other.expand(A.shape[1:]).reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighted(Operation):
    """W x + b: `weight` [out, ...], `bias` [out].

    Where inputs that are constant were folded into the bias (folding.py), the deployed network still adds them up: `count` [out] of its
    products and bias, `size` [out] of the bias and these products' absolute values, `slack` [out], what their own rounding comes to.
    """

    weight: Tensor
    bias: Tensor
    count: Tensor | None = None
    size: Tensor | None = None
    slack: Tensor | None = None

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The operation with another weight and bias."""

    def spread_out(self, values: Tensor) -> Tensor:
        """Values [out] as they are broadcast over the output."""
        return values

    def forward(self, *values: Tensor) -> Tensor:
        return self.linear(values[0], self.weight, self.bias)

    def interval(self, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        centre, reach = self.forward((lows[0] + highs[0]) / 2), self.linear((highs[0] - lows[0]) / 2, self.weight.abs(), None)
        return centre - reach, centre + reach

    def shift(self, A: Tensor) -> Tensor | None:
        return _flat(A, self.spread_out(self.bias))

    @property
    def terms(self) -> Tensor:
        """Products and bias per output, broadcastable to it; a product with a zero, and adding it, is exact."""
        return self.spread_out((self.weight != 0).flatten(1).sum(1) + 1 if self.count is None else self.count)

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        size = self.linear(sizes[0], self.weight.abs(), self.bias.abs() if self.size is None else self.size)
        found = gamma(self.terms).to(size) * size
        return found if self.slack is None else found + self.spread_out(self.slack)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear(Weighted):
    """W x + b over the last dimension: weight [out, in], bias [out].

    `live`: (rows, columns) that are not all zero, where leaving out the others makes `transposed` cheaper, and `dense` = weight there.
    """

    live: tuple[Tensor, Tensor] | None = None
    dense: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Linear:
        """With the zero rows and columns found."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        rows, columns = weight.any(1), weight.any(0)
        if float(rows.sum()) * float(columns.sum()) > _COMPACT * weight.numel():
            return cls(weight=weight, bias=bias)
        live = rows.nonzero().squeeze(1), columns.nonzero().squeeze(1)
        return cls(weight=weight, bias=bias, live=live, dense=weight[rows][:, columns].contiguous())

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        if self.live is None or self.dense is None:
            return [A @ self.weight]
        rows, columns = self.live
        found = A.new_zeros(*A.shape[:-1], self.weight.shape[1])
        return [found.index_copy(-1, columns, A.index_select(-1, rows) @ self.dense)]

    def absolute(self) -> Operation:
        return Linear.of(self.weight.abs(), None)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution(Weighted):
    """A convolution in 1, 2 or 3 dimensions: weight [out, in / groups, *kernel], bias [out], the same padding on both sides.

    `matrices`: its transpose for inputs of a shape [*in], as a sparse matrix [in, out]; None where the convolution itself is quicker.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    matrices: dict[Shape, Tensor | None] = field(init=False, default_factory=dict)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def spread_out(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *([1] * (self.weight.dim() - 2)))

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        if shapes[0] not in self.matrices:
            self.matrices[shapes[0]] = self._matrix(shapes[0], tuple(A.shape[2:]))
        matrix = self.matrices[shapes[0]]
        if matrix is not None:
            return [torch.sparse.mm(matrix, A.flatten(1).T).T.reshape(-1, *shapes[0])]
        if self.groups == 1 and self.weight.shape[1] <= _IMAGES:
            return [self._scattered(A, shapes[0])]
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.weight.dim() - 3]
        geometry = zip(shapes[0][1:], A.shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        left = tuple(n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in geometry)
        return [function(A, self.weight, None, self.stride, self.padding, left, self.groups, self.dilation)]

    def _scattered(self, A: Tensor, shape: Shape) -> Tensor:
        """The transpose by one product, whose terms are added up where each weight of the kernel reads: for few input channels."""
        kernel, sides = self.weight.shape[2:], A.shape[2:]
        terms = (self.weight.flatten(1).T @ A.flatten(2)).view(len(A), shape[0], -1, *sides)
        ends = zip(sides, self.stride, kernel, self.dilation, self.padding, shape[1:], strict=True)
        found = A.new_zeros(len(A), shape[0], *[max((m - 1) * s + (k - 1) * d + 1, n + 2 * p) for m, s, k, d, p, n in ends])
        for i, tap in enumerate(itertools.product(*map(range, kernel))):
            first = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            at = tuple(slice(a, a + (m - 1) * s + 1, s) for a, m, s in zip(first, sides, self.stride, strict=True))
            found[(slice(None), slice(None), *at)] += terms[:, :, i]
        return found[(slice(None), slice(None), *(slice(p, p + n) for p, n in zip(self.padding, shape[1:], strict=True)))]

    def _matrix(self, shape: Shape, sides: Shape) -> Tensor | None:
        """See `matrices`; `sides`: the output's."""
        weights = self.weight.nonzero()
        if len(weights) > _SPARSE * self.weight.numel() or len(weights) * math.prod(sides) > _ENTRIES:
            return None
        outputs, channel, *taps = weights.T
        inputs = outputs // (len(self.weight) // self.groups) * self.weight.shape[1] + channel
        rows, columns, there = inputs[:, None], outputs[:, None], torch.ones(len(weights), 1, dtype=torch.bool)
        geometry = zip(taps, shape[1:], sides, self.stride, self.padding, self.dilation, strict=True)
        for tap, n, m, stride, padding, dilation in geometry:
            place = torch.arange(m)
            at = place[None] * stride - padding + tap[:, None] * dilation
            rows = (rows[:, :, None] * n + at[:, None]).flatten(1)
            columns = (columns[:, :, None] * m + place).flatten(1)
            there = (there[:, :, None] & ((at >= 0) & (at < n))[:, None]).flatten(1)
        values = self.weight[tuple(weights.T)][:, None].expand_as(rows)[there]
        size = math.prod(shape), len(self.weight) * math.prod(sides)
        entries = torch.sparse_coo_tensor(torch.stack([rows[there], columns[there]]), values, size, check_invariants=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            return entries.coalesce().to_sparse_csr()

    def absolute(self) -> Operation:
        return replace(self, weight=self.weight.abs(), bias=torch.zeros_like(self.bias))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale(Operation):
    """weight * x + bias, elementwise, both broadcastable to a sample's shape.

    `roundings` and `extra`: how many roundings the deployed computation makes of terms up to |weight x| + extra (a batch
    normalisation subtracts its mean first, so its terms are larger than its result).
    """

    weight: Tensor
    bias: Tensor
    roundings: int
    extra: Tensor

    def forward(self, *values: Tensor) -> Tensor:
        return values[0] * self.weight + self.bias

    def interval(self, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        first, second = self.forward(lows[0]), self.forward(highs[0])
        return torch.minimum(first, second), torch.maximum(first, second)

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [A * self.weight]

    def absolute(self) -> Operation:
        return replace(self, weight=self.weight.abs(), bias=torch.zeros_like(self.bias))

    def shift(self, A: Tensor) -> Tensor | None:
        return _flat(A, self.bias)

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        share = gamma(self.roundings)
        return None if share == 0 else share.to(sizes[0]) * (self.weight.abs() * sizes[0] + self.extra)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sum(Operation):
    """sum_i sign_i x_i of inputs of one shape: residual additions and differences. `roundings`: of the deployed computation."""

    signs: tuple[float, ...]
    roundings: int

    def forward(self, *values: Tensor) -> Tensor:
        total = values[0] if self.signs[0] > 0 else -values[0]
        for sign, value in zip(self.signs[1:], values[1:], strict=True):
            total = torch.add(total, value, alpha=sign)
        return total

    def interval(self, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        upwards = [sign > 0 for sign in self.signs]
        low = self.forward(*[a if up else b for a, b, up in zip(lows, highs, upwards, strict=True)])
        return low, self.forward(*[b if up else a for a, b, up in zip(lows, highs, upwards, strict=True)])

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [A if sign > 0 else -A for sign in self.signs]

    def absolute(self) -> Operation:
        return replace(self, signs=tuple(abs(sign) for sign in self.signs))

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        share = gamma(self.roundings)
        return None if share == 0 else share.to(sizes[0]) * torch.stack(list(sizes)).sum(0)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move(Operation):
    """Any operation whose outputs are inputs, constants, or sums or means of inputs: reshaping, slicing, padding, joining, mean pooling.

    `function` is torch's own, on whole batches; `terms`: inputs summed per output, 1 where nothing is computed. Its transpose is
    the derivative that autograd gives. `taps` (dim, first, step): all that it does is to take every step-th element of a dimension.
    """

    function: Callable[..., Tensor]
    terms: int = 1
    taps: tuple[int, int, int] | None = None
    offset: Tensor | None = None  # the output [*out] for inputs of zero, where constants are moved in

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def transposed(self, A: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        with torch.enable_grad():
            points = [A.new_zeros(()).expand(len(A), *shape).requires_grad_() for shape in shapes]
            return list(torch.autograd.grad(self.function(*points), points, A, create_graph=A.requires_grad))

    def absolute(self) -> Operation:
        offset = self.offset
        return self if offset is None else replace(self, function=lambda *values: self.function(*values) - offset, offset=None)

    def shift(self, A: Tensor) -> Tensor | None:
        return None if self.offset is None else _flat(A, self.offset)

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        return None if self.terms == 1 else gamma(self.terms).to(sizes[0]) * self.function(*sizes)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relu(Operation):
    """max(0, z)."""

    affine: ClassVar[bool] = False

    def forward(self, *values: Tensor) -> Tensor:
        return values[0].clamp_min(0)

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        return None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tanh(Operation):
    """tanh(z); sigmoid(z) = 1/2 + tanh(z / 2) / 2. Implementations are taken to be within eight units in the last place of 1."""

    affine: ClassVar[bool] = False

    def forward(self, *values: Tensor) -> Tensor:
        return values[0].tanh()

    def rounding(self, sizes: Sequence[Tensor], gamma: Gamma) -> Tensor | None:
        return gamma(8).to(sizes[0]).expand_as(sizes[0])


def gamma_of(*units: tuple[float, int]) -> Gamma:
    """The sum over (unit, least) of k u / (1 - k u) with k at least `least`: Higham's gamma_k, for several computations at once."""

    def gamma(k: Tensor | int) -> Tensor:
        count = torch.as_tensor(k, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for unit, least in units:
            share = count.clamp_min(least) * unit
            total = total + torch.where(share < 1, share / (1 - share).clamp_min(1e-300), math.inf)
        return total

    return gamma
