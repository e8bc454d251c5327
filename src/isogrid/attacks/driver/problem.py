"""What an attack sees: one batch of samples under one threat model, and a model that counts its queries. Not here: judging candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from isogrid.attacks.driver.backward import NO_GRADIENT, Backward, exact_gradient
from isogrid.attacks.driver.classifier import in_one_line
from isogrid.core.errors import InputError, ModelError, one_of
from isogrid.core.norms import Norm, allowed
from isogrid.core.random import Streams

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Where perturbed inputs may lie: `box` (low <= x <= high, per element) or `free` (anywhere)."""

    name: Literal["box", "free"] = "box"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("box", "free"):
            raise one_of("domain", self.name, ("box", "free"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError("domain", (self.low, self.high), "finite limits with low < high")

    def clip(self, x: Tensor) -> Tensor:
        """The closest point of the domain; the identity where it is free."""
        return x.clamp(self.low, self.high) if self.name == "box" else x

    def allowed(self, budget: Tensor) -> Tensor:
        """The size [B] up to which a candidate counts as within `budget` [B] (`core.norms.allowed`)."""
        return allowed(budget, torch.finfo(budget.dtype).eps, max(abs(self.low), abs(self.high)))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k per row [B]; negative exactly where the row is misclassified beyond a tie."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -math.inf)
    return (own.squeeze(1)) - others.amax(1)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""log((1 - p_y) / p_y) = logsumexp_{k != y} z_k - z_y per row [B]: the cross-entropy without its saturation.

    CE = softplus(log-odds) is a strictly increasing function of it, so signs, directions and comparisons within a sample are
    those of the cross-entropy, and its gradient never underflows, whatever the logit gap. Pitfall that it avoids: in float32 the
    gradient of the cross-entropy is 0 or garbage once the gap exceeds about 16.6, since 1 - p_y rounds to 0.
    """
    others = logits.scatter(1, y[:, None], -math.inf)
    return torch.logsumexp(others, 1) - logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Queries of each row so far [B], whether its first loss gradient was exactly zero, whether a gradient of it was not finite."""

    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    broken_gradient: Tensor
    _all_seen: list[bool] = field(default_factory=list)

    @property
    def all_seen(self) -> bool:
        """Whether every row has had a backward pass; that can only become true, so that a search need not look again once it is."""
        if not self._all_seen and bool(self.backwards.all()):
            self._all_seen.append(True)
        return bool(self._all_seen)

    @classmethod
    def zeros(cls, n: int, device: torch.device) -> Counts:
        """Counters at zero for n rows."""

        def new(dtype: torch.dtype) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=device)

        return cls(forwards=new(torch.int64), backwards=new(torch.int64), zero_gradient=new(torch.bool), broken_gradient=new(torch.bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an attack sees of one batch. Evaluate the model only through its methods: they count queries per row.

    `x` [B, *S] and `y` [B]: the clean samples, correctly classified unless the attack says `moves_misclassified`.
    `budget` [B]: the radius allowed per row, or None for a minimum-norm attack. `start` [B, *S]: a starting point or None.
    `rows`: this problem's rows in the batch that `counts` covers; `room`: how many rows the batch rule allows at once (a search that
    runs a sample several times side by side keeps to it). `unit`: the rounding unit of the model's own logits, which are handed out in x's
    type. `backward`: what its gradients are; a search says by `progress` how far it has come. `scale` [B]: what a row's logits are
    multiplied with, or None (`subject.ordinary`). All tensors live on one device.
    """

    model: Model
    x: Tensor
    y: Tensor
    domain: Domain
    norm: Norm
    budget: Tensor | None
    start: Tensor | None
    streams: Streams
    counts: Counts
    rows: Tensor
    room: int
    unit: float
    backward: Backward = field(default_factory=Backward)
    scale: Tensor | None = None

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.y)

    def take(self, rows: Tensor) -> Problem:
        """The problem restricted to some rows (int index or bool mask [B]); queries are counted on the same counters."""
        return Problem(
            model=self.model,
            x=self.x[rows],
            y=self.y[rows],
            domain=self.domain,
            norm=self.norm,
            budget=None if self.budget is None else self.budget[rows],
            start=None if self.start is None else self.start[rows],
            streams=self.streams.take(rows),
            counts=self.counts,
            rows=self.rows[rows],
            room=self.room,
            unit=self.unit,
            backward=self.backward,
            scale=None if self.scale is None else self.scale[rows],
        )

    def with_budget(self, budget: Tensor | None) -> Problem:
        """The same problem under another radius per row."""
        return replace(self, budget=budget)

    def progress(self, t: float) -> None:
        """Say how far the search has come, t from 0 (the start) to 1 (the end), before its next gradient: a leaky one depends on it."""
        self.backward.at(t)

    def logits(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [b, C] at `x` [b, *S], without a graph; `rows` says which rows of this problem they are (default: all)."""
        self._count(self._where(rows), forwards=1, backwards=0)
        with torch.no_grad():
            return self._scaled(self.model(x), rows)

    def gradient(self, x: Tensor, loss: Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(logits [b, C], loss [b], d loss_b / d x_b [b, *S]) at `x`, for a `loss(logits, y) -> [b]`; one forward, one backward."""
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self._with_graph(leaf, rows)
            value = loss(z, y)
        where = self._where(rows)
        self._count(where, forwards=1, backwards=0)
        gradient = self._gradient(value.sum(), leaf, None, where, self._first(where))
        return z.detach(), value.detach(), gradient.contiguous()

    def pull_back(self, x: Tensor, slope: Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits [b, C], slope(logits, y) [b, C] pulled back through the model [b, *S]): `gradient` of a loss whose slope is known.

        One forward, one backward; the graph of a loss costs as much as a small network.
        """
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self._with_graph(leaf, rows)
        logits = z.detach()
        where = self._where(rows)
        self._count(where, forwards=1, backwards=0)
        gradient = self._gradient(z, leaf, slope(logits, y), where, self._first(where))
        return logits, gradient.contiguous()

    def boundaries(self, x: Tensor, classes: Tensor | Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Iterator[Tensor]]:
        """(logits [b, C], the classes [b, K], one gradient [b, *S] after the other: d (z_classes[b, j] - z_y) / d x, j = 0 .. K - 1).

        One forward, and K backwards on one graph. `classes` [b, K], or a function (logits, y) -> [b, K] that chooses them from this very
        pass. Take all K gradients, once: a thousand of them need no more memory than one.
        """
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self._with_graph(leaf, rows)
        logits = z.detach()
        chosen = classes if isinstance(classes, Tensor) else classes(logits, y)
        where, k = self._where(rows), chosen.shape[1]
        first = self._first(where)
        self._count(where, forwards=1, backwards=0)

        def gradients() -> Iterator[Tensor]:
            for j in range(k):
                seed = torch.zeros_like(logits).scatter_(1, chosen[:, j, None], 1.0).scatter_(1, y[:, None], -1.0)
                yield self._gradient(z, leaf, seed, where, first, keep=j < k - 1).contiguous()

        return logits, chosen, gradients()

    def _gradient(
        self, outputs: Tensor, leaf: Tensor, weights: Tensor | None, where: Tensor, first: Tensor | None, *, keep: bool = False
    ) -> Tensor:
        """One backward pass of the search; at a row's first one, the exact gradient says whether it is zero.

        What is not finite (a square root at 0 has no derivative) counts as 0, and is noted: one such pixel would ruin every norm.
        """
        with in_one_line("backward"):
            if first is not None and self.backward.slope:
                self._note_zero(exact_gradient(outputs, leaf, weights, keep=True), where, first)
                self._count(where, forwards=0, backwards=1)
            gradient = self.backward.gradient(outputs, leaf, weights, keep=keep)
        if not math.isfinite(gradient.sum().item()):  # of finite numbers the sum may overflow: then nothing is changed below
            finite = gradient.isfinite()
            self.counts.broken_gradient[where] |= ~finite.flatten(1).all(1)
            gradient = torch.where(finite, gradient, 0.0)
        if first is not None and not self.backward.slope:
            self._note_zero(gradient, where, first)
        self._count(where, forwards=0, backwards=1)
        return gradient

    def _with_graph(self, leaf: Tensor, rows: Tensor | None) -> Tensor:
        z = self.model(leaf)
        if not z.requires_grad:  # before a loss is made of them
            raise ModelError(NO_GRADIENT)
        return self._scaled(z, rows)

    def _scaled(self, z: Tensor, rows: Tensor | None) -> Tensor:
        if self.scale is None:
            return z
        return z * (self.scale if rows is None else self.scale[rows])[:, None]

    def charge(self, *, forwards: int, backwards: int) -> None:
        """Add queries to every row of this problem: for searches that reach the model by other ways than these methods."""
        self._count(self.rows, forwards=forwards, backwards=backwards)

    def _first(self, where: Tensor) -> Tensor | None:
        """Which of the rows [b] have their first backward pass before them (bool [b]); None: none has."""
        if self.counts.all_seen:
            return None
        seen = self.counts.backwards.index_select(0, where)
        if not len(seen) or int(seen.min()):
            return None
        first = seen == 0
        self.counts.zero_gradient[where[first]] = True
        return first

    def _note_zero(self, gradient: Tensor, where: Tensor, first: Tensor | None) -> None:
        """Record, at a row's first backward pass, whether all its gradients are exactly zero."""
        if first is not None:
            new = gradient if bool(first.all()) else gradient[first]
            self.counts.zero_gradient[where[first]] &= new.flatten(1).abs().amax(1) == 0

    def _where(self, rows: Tensor | None) -> Tensor:
        return self.rows if rows is None else self.rows[rows]

    def _count(self, where: Tensor, *, forwards: int, backwards: int) -> None:
        ones = torch.ones_like(where)
        self.counts.forwards.index_add_(0, where, ones, alpha=forwards)  # `+=` would count a repeated row once
        if backwards:
            self.counts.backwards.index_add_(0, where, ones, alpha=backwards)
