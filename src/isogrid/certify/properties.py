"""Properties of a whole network file: a robustness property around one sample, decided. Not here: how its file is read (vnnlib_text.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from isogrid import attacks
from isogrid.certify.method import Certifier
from isogrid.certify.vnnlib_text import ROBUST, read_region
from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import OnnxNetwork

_ROUGH: Final = (1e-4, 2.0**-22)
"""A box may differ from a ball by this share of its radius and of the largest input: bounds are rounded when they are written."""
_NOISE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Property:
    """Every input between low and high [n] (float64) has class `label` of `classes`; `ties`: a tie with another class violates it.

    `x` [n], float32, and `eps`: the ball around x in l_inf, cut by `box`, the range of all inputs, holds the whole of [low, high] and
    exceeds it by rounding only. Raises InputError where no ball does, or where an input has no float32 between its bounds.

    >>> low, high = torch.tensor([[0.0, 0.4], [0.3, 0.8]], dtype=torch.float64)
    >>> of = Property(low=low, high=high, label=1, classes=3, ties=True)
    >>> round(of.eps, 6), [round(value, 6) for value in of.x.tolist()], of.box  # the first is cut at 0
    (0.2, [0.1, 0.6], (0.0, 0.8))
    """

    low: Tensor
    high: Tensor
    label: int
    classes: int
    ties: bool

    @property
    def box(self) -> tuple[float, float]:
        """The range of all inputs."""
        return self.low.min().item(), self.high.max().item()

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest float32 within the bounds, [n] each."""
        low, high = self.low.float(), self.high.float()
        up, down = torch.full_like(low, math.inf), torch.full_like(low, -math.inf)
        low = torch.where(low.double() < self.low, torch.nextafter(low, up), low)
        return low, torch.where(high.double() > self.high, torch.nextafter(high, down), high)

    @property
    def x(self) -> Tensor:
        """The sample in the middle of the ball, float32 [n]."""
        eps = ((self.high - self.low) / 2).max()
        bottom, top = self.box
        at_bottom, at_top = self.low == bottom, self.high == top
        middle = (self.low + self.high) / 2
        cut = torch.where(at_bottom & ~at_top, self.high - eps, torch.where(at_top & ~at_bottom, self.low + eps, middle))
        low, high = self.ends
        return cut.clamp(bottom, top).float().clamp(low, high)

    @property
    def eps(self) -> float:
        """The radius of the ball around x that holds the bounds."""
        x = self.x.double()
        return torch.maximum(self.high - x, x - self.low).max().item()

    def __post_init__(self) -> None:
        low, high = self.ends
        empty = torch.nonzero(low > high).flatten().tolist()
        if empty:
            i = empty[0]
            raise InputError("property", f"input {i} in [{self.low[i]:.9g}, {self.high[i]:.9g}]", "bounds with a float32 between them")
        bottom, top = self.box
        x, eps = self.x.double(), self.eps
        if not eps > 0:
            raise InputError(
                "property", f"input 0 in [{self.low[0]:.6g}, {self.high[0]:.6g}], and no other wider", f"{ROBUST}; a box with a width"
            )
        slack = _ROUGH[0] * eps + _ROUGH[1] * max(abs(bottom), abs(top))
        beyond = torch.maximum(self.low - (x - eps).clamp_min(bottom), (x + eps).clamp_max(top) - self.high)
        worst = int(beyond.argmax())
        if float(beyond[worst]) > slack:
            got = f"input {worst} in [{self.low[worst]:.6g}, {self.high[worst]:.6g}] beside others up to {2 * eps:.6g} wide"
            raise InputError("property", got, f"{ROBUST}; the box a ball around one sample, cut by one range")

    def violated_by(self, logits: Tensor) -> bool:
        """Whether the logits [classes] give another class than `label` (or a tie, where that counts)."""
        others = logits.clone()
        others[self.label] = -math.inf
        gap = float(others.max() - logits[self.label])
        return gap >= 0 if self.ties else gap > 0


def read_property(path: str | Path) -> Property:
    """Read a VNN-LIB file (version 1 or 2) that says: all inputs of a ball around a sample, cut by a range, have its class.

    VNN-LIB states the negation, what a counterexample fulfils. Raises InputError where the extra `onnx` is missing and for everything else
    that a file may say.
    """
    low, high, label, classes, ties = read_region(path)
    return Property(low=torch.from_numpy(low), high=torch.from_numpy(high), label=label, classes=classes, ties=ties)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """`holds` (proved by `method`), `violated` (by `point` [n], found by `method`) or `unknown`.

    A point is float32, lies between the bounds without any slack, and was classified otherwise by the network as torch and as onnxruntime
    compute it, whose `logits` [classes] these are.
    """

    verdict: Literal["holds", "violated", "unknown"]
    method: str
    point: Tensor | None = None
    logits: Tensor | None = None


def decide(network: OnnxNetwork, question: Property, methods: Sequence[Certifier], *, seed: int = 0) -> Decision:
    """Decide whether the network has the property: attacks first, then each method (in l_inf and the box) until one decides it.

    Raises InputError where inputs or classes do not fit the network, or where torch and onnxruntime disagree about it on the sample, the
    corners of its box or noise inside; ModelError where certificates do not understand it.
    """
    n = math.prod(network.shape)
    if len(question.low) != n or question.classes != network.classes:
        got = f"{len(question.low)} inputs and {question.classes} classes"
        raise InputError("property", got, f"{n} inputs and {network.classes} classes, as {network.path} has")
    if any(method.norm != "linf" or method.domain != "box" for method in methods):
        raise InputError("methods", [method.name for method in methods], "methods in the norm linf and the domain box")
    low, high = question.ends
    share = torch.rand(_NOISE, n, generator=generator(seed, "property agreement"))
    inside = torch.minimum(torch.maximum(low + share * (high - low), low), high)
    network.agree(torch.cat([question.x[None], low[None], high[None], inside]).reshape(-1, *network.shape))
    x, y = question.x.reshape(1, *network.shape), torch.tensor([question.label])
    for name, found in _candidates(network, question, x, y, seed):
        if (broken := judged(network, question, found)) is not None:
            return Decision(verdict="violated", method=name, point=broken[0], logits=broken[1])
    for method in methods:
        verdicts = method.verify(network.module, x, y, question.eps, box=question.box)
        if bool(verdicts.certified.item()):
            return Decision(verdict="holds", method=method.name)
        if bool(verdicts.broken.item()) and (broken := judged(network, question, verdicts.x_adv)) is not None:
            return Decision(verdict="violated", method=method.name, point=broken[0], logits=broken[1])
    return Decision(verdict="unknown", method="+".join(method.name for method in methods))


def _candidates(network: OnnxNetwork, question: Property, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    yield "sample", x
    for backward in ("exact", "leaky"):
        attack = attacks.make({"name": "apgd-t", "norm": "linf", "eps": question.eps, "backward": backward})
        yield "apgd-t", attack(network.module, x, y, seed=seed, box=question.box).x_adv


def judged(network: OnnxNetwork, question: Property, point: Tensor) -> tuple[Tensor, Tensor] | None:
    """(point [n], onnxruntime's logits) of a candidate moved between the bounds, where both computations say that it violates."""
    low, high = question.ends
    inside = point.detach().float().flatten().clamp(low, high)
    batch = inside.reshape(1, *network.shape)
    with torch.no_grad():
        ours, theirs = network.module(batch)[0], network.reference(batch)[0]
    return (inside, theirs) if question.violated_by(ours) and question.violated_by(theirs) else None


__all__ = ["Decision", "Property", "decide", "read_property"]
