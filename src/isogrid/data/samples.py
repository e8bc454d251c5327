"""The type that all data becomes, and the one rule by which samples are ordered. What does not belong here: reading files."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.numbers import beside, limits, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Labelled inputs of a classifier.

    `x` float32 [N, *S], every value inside `box` = (low, high); `y` int64 [N] in 0 .. classes - 1; N >= 1. Values that lie outside by
    less than `core.numbers.SLACK` of the box's larger end are rounding errors (of a min-max scaler, say) and are put onto its edge.
    Raises InputError, naming the field, where that does not hold. Read through `batch`, not through `x`, wherever a part is enough:
    data larger than memory fits behind the same call.

    >>> s = Samples(x=torch.zeros(2, 3), y=torch.tensor([0, 1]), classes=2)
    >>> s.n, s.shape, s.take(torch.tensor([1])).y.tolist()
    (2, (3,), [1])
    """

    x: Tensor
    y: Tensor
    classes: int
    box: tuple[float, float] = (0.0, 1.0)
    name: str = "data"

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        low, high = limits(self.box)
        for field, value, accepted in (("x", x, "a float32 tensor of shape [N, ...]"), ("y", y, "an int64 tensor of shape [N]")):
            if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
                raise InputError(field, f"a {type(value).__name__}", f"{accepted} (torch.as_tensor makes one)")
        if x.dtype != torch.float32 or x.dim() < 2:
            raise InputError("x", f"{x.dtype} of shape {tuple(x.shape)}", "float32 of shape [N, ...]")
        if x.numel() == 0:
            raise InputError("x", f"shape {tuple(x.shape)}", "at least one sample with at least one value")
        if y.dtype != torch.int64 or y.shape != (len(x),):
            raise InputError("y", f"{y.dtype} of shape {tuple(y.shape)}", f"int64 of shape ({len(x)},)")
        if x.device != y.device:
            raise InputError("y", f"a tensor on {y.device}", f"a tensor on {x.device}, as x is")
        classes = whole(self.classes)
        if classes is None or classes < 2:
            raise InputError("classes", self.classes, "at least 2 classes")
        first, last = int(y.min()), int(y.max())
        if first < 0 or last >= classes:
            raise InputError("y", f"labels from {first} to {last}", f"0 to {classes - 1}")
        for name, settled in (("x", _inside(x, low, high)), ("box", (low, high)), ("classes", classes)):
            object.__setattr__(self, name, settled)

    @property
    def n(self) -> int:
        """The number of samples N."""
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape S of one sample."""
        return tuple(self.x.shape[1:])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(x [B, *S], y [B]) of some samples; `indices` is an int index or a bool mask."""
        return self.x[indices], self.y[indices]

    def take(self, indices: Tensor) -> Samples:
        """The samples at `indices` (int index or bool mask), in that order."""
        x, y = self.batch(indices)
        return Samples(x=x, y=y, classes=self.classes, box=self.box, name=self.name)

    def to(self, device: str | torch.device) -> Samples:
        """The same samples on another device."""
        return Samples(x=self.x.to(device), y=self.y.to(device), classes=self.classes, box=self.box, name=self.name)

    def digest(self) -> str:
        """16 hexadecimal digits that depend on every value, label, the shape, the box and the number of classes, not on the name."""
        head = f"{tuple(self.x.shape)}|{self.classes}|{float(self.box[0])!r}|{float(self.box[1])!r}|"
        sha = hashlib.sha256(head.encode())
        for tensor in (self.x, self.y):
            sha.update(tensor.detach().cpu().contiguous().numpy().data)
        return sha.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Training and test samples of one source; `source` says in words where they came from and how they were cut."""

    train: Samples
    test: Samples
    source: str

    def digest(self) -> str:
        """16 hexadecimal digits that depend on everything in both parts, for the keys of tasks."""
        return hashlib.sha256(f"{self.train.digest()} {self.test.digest()}".encode()).hexdigest()[:16]


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    """`x` with what lies a rounding error outside the box put onto its edge; raises InputError for what lies farther out."""
    least, most = (float(v) for v in x.aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError("x", "NaN or infinite values", "finite values")
    if beside(least, most, (low, high)):
        accepted = f"values in [{low:g}, {high:g}], or a `box` = (low, high) of their own"
        raise InputError("x", f"values in [{least:.9g}, {most:.9g}]", accepted)
    return x.clamp(low, high) if least < low or most > high else x


def stratified_order(y: np.ndarray, random: torch.Generator) -> np.ndarray:
    """A random order of the samples in which EVERY prefix is stratified: indices [N].

    The sample of random rank r (0, 1, ...) in a class of n samples stands at (r + 1/2) / n, so the first m samples hold m n / N of
    that class, within about one. Hence subsets are prefixes, and a smaller subset is part of a larger one.
    """
    place = np.empty(len(y))
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        rank = torch.randperm(len(members), generator=random).numpy()
        place[members] = (rank + 0.5) / len(members)
    tie = torch.randperm(len(y), generator=random).numpy()
    return np.lexsort((tie, place))
