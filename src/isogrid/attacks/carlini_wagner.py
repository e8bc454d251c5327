"""Carlini & Wagner's minimum-norm l2 attack: every sample runs its own searches over the constant and leaves when it is done."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.attacks.base import Attack, Domain, Problem, margin, require
from isogrid.attacks.deepfool import rivals
from isogrid.attacks.geometry import reach, shrink
from isogrid.core.norms import L2, Norm, rows as per_row

INSIDE = 1e-3
"""Pixels are shrunk towards the middle of the box by this share before atanh: at exactly 0 or 1 it would be infinite, and 1e-6, as is
common, leaves a slope of 2e-6 in which a pixel stays for 40 steps."""
PROGRESS = 1e-2
"""A search goes on while it gains at least this share of its distance (or, before its first success, a tenth of that of its loss)."""
SHORTER = 1e-4
"""A polishing move counts where it shortens the distance by this share."""
SETTLED = 2e-2
"""A sample is done when a successful search shortened its distance by less than this share."""
BETA_1, BETA_2, ADAM_EPS = 0.9, 0.999, 1e-8
DECAY = 0.5
"""The learning rate falls linearly to this share within a search: a constant one circles around the boundary more widely."""
POLISH_CLASSES = 9
LEAN = 1e-3
"""A polished point is put beyond the linearised boundary by this share of the margin that was to be gained."""


@dataclass(frozen=True, slots=True)
class _State:
    """What each of the samples still at work carries along (A rows): see `CarliniWagner` for the symbols."""

    row: Tensor  # row of the problem
    x: Tensor  # the clean sample
    y: Tensor
    origin: Tensor  # atanh of the clean sample; the clean sample itself in the free domain
    moved: Tensor  # the variable that Adam works on, relative to the origin
    mean: Tensor
    square: Tensor
    c: Tensor
    low: Tensor  # largest constant that failed
    high: Tensor  # smallest constant that succeeded
    search: Tensor  # searches finished
    step: Tensor  # steps taken in this search
    idle: Tensor  # steps without progress in this search
    shortest: Tensor  # distance of the closest adversarial point of this search
    lowest: Tensor  # loss of this search

    def take(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, f.name)[rows] for f in fields(self)))


class _Pixels:
    """The change of variables: x' = mid + half tanh(v) in a box (half (1 - tanh^2 v) is its slope), x' = v in the free domain."""

    def __init__(self, domain: Domain) -> None:
        self.free = domain.name == "free"
        self.mid, self.half = (domain.high + domain.low) / 2, (domain.high - domain.low) / 2

    def inverse(self, x: Tensor) -> Tensor:
        """v at x, pixels shrunk inside."""
        return x.clone() if self.free else ((x - self.mid) * ((1 - INSIDE) / self.half)).atanh()

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """(x', dx'/dv), the slope None where it is 1."""
        if self.free:
            return v, None
        t = v.tanh()
        return torch.add(self.mid, t, alpha=self.half), (1 - t * t).mul_(self.half)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagner(Attack):
    r"""C&W l2: minimise ||x' - x||^2 + c max(z_y - max_{k != y} z_k + kappa, 0) over v, x' = mid + half tanh(v), with a search over c.

    `searches` x `steps`: at most that many Adam steps (`lr`, falling to half within a search) from v = atanh(x). c starts at `c0`, is
    multiplied by 10 until a search succeeds, then halves the bracket between failure and success; bracket, steps and stopping belong
    to each sample alone. A search ends after `patience` steps (default: steps / 8, at least 8) without progress; a sample leaves when a
    successful search improved its distance by less than 2 %: beyond the critical constant the hinge is an exact penalty,
    and every c has the same minimiser. In domain "free" there is no change of variables.

    `polish` > 0 (kappa = 0 only) ends the attack with that many moves to the point closest to x on the boundary linearised at the best
    point, kept where they are verified to be adversarial and shorter, and `queries` forward passes shrink the result onto the boundary
    along its segment. Both count as queries. They are not part of the published attack: polish=0, queries=0 leaves them out.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> out = CarliniWagner(searches=5, steps=60, lr=0.1, c0=0.1)(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> abs(out.distance.item() / (0.5 / 2**0.5) - 1) < 0.01
    True

    Raises InputError for parameters out of range. Source: Carlini & Wagner 2017, section VI-A. Pitfalls: pixels at exactly 0 or 1 freeze
    unless they are shrunk inside; a failed search over c must not be reported as distance 0 (it is inf here).
    """

    name: ClassVar[str] = "cw"
    norm_name: ClassVar[str | None] = "l2"
    state_copies: ClassVar[int] = 16

    searches: int = 6
    steps: int = 100
    lr: float = 0.1
    c0: float = 0.1
    kappa: float = 0.0
    patience: int | None = None
    polish: int = 3
    queries: int = 4

    def __post_init__(self) -> None:
        for name in ("searches", "steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "an integer >= 1")
        for name in ("lr", "c0"):
            require(name, getattr(self, name), 0 < getattr(self, name) < float("inf"), "a finite number > 0")
        require("kappa", self.kappa, 0 <= self.kappa < float("inf"), "a finite number >= 0")
        require(
            "patience",
            self.patience or 1,
            self.patience is None or self.patience >= 1,
            "an integer >= 1, or None for steps / 8, at least 8",
        )
        for name in ("polish", "queries"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "an integer >= 0")

    @property
    def budget(self) -> float | None:
        return None

    @property
    def threat(self) -> Norm:
        return L2

    def search(self, problem: Problem) -> Tensor:
        pixels = _Pixels(problem.domain)
        best = problem.x.clone()
        length = torch.full((problem.n,), torch.inf, dtype=best.dtype, device=best.device)
        state = self._begin(problem, pixels)
        before = length.clone()  # the best distance when the row's present search began
        while len(state.row):
            state = self._advance(problem, pixels, state, best, length, before)
        found = torch.nonzero(torch.isfinite(length)).squeeze(1)
        if self.kappa == 0 and len(found):
            near = margin(problem.logits(problem.x[found], found), problem.y[found]) if self.queries else length[found]
            far = _polish(problem, best, length, found, self.polish)
            if self.queries:
                best[found] = shrink(problem, best[found], found, near, far, self.queries)
        return best

    def _begin(self, problem: Problem, pixels: _Pixels) -> _State:
        x, n = problem.x, problem.n

        def full(value: float) -> Tensor:
            return torch.full((n,), value, dtype=x.dtype, device=x.device)

        zeros = torch.zeros(n, dtype=torch.int64, device=x.device)
        everything = torch.arange(n, device=x.device)
        flat = torch.zeros_like(x)
        return _State(
            everything, x, problem.y, pixels.inverse(x), flat, flat.clone(), flat.clone(), full(self.c0), full(0.0), full(torch.inf),
            zeros, zeros.clone(), zeros.clone(), full(torch.inf), full(torch.inf),
        )  # fmt: skip

    def _advance(self, problem: Problem, pixels: _Pixels, s: _State, best: Tensor, length: Tensor, before: Tensor) -> _State:
        """One Adam step of every sample still at work; those whose search ended begin the next one, or leave."""
        there, slope = pixels.forward(s.origin + s.moved)
        # the margin's own gradient, on a graph that ends at the logits: cheaper than through gather, scatter and maximum
        logits, ascent = problem.class_gradients(there, lambda z, y: rivals(z, y, 1), s.row)
        gap, gradient = margin(logits, s.y), ascent.squeeze(1)
        delta = there - s.x
        squared = delta.flatten(1).square().sum(1)
        size, hinge = squared.sqrt(), gap + self.kappa
        over = (logits.argmax(1) != s.y) & (hinge <= 0)
        better = over & (size < length[s.row])
        won = s.row[better]
        best[won], length[won] = there[better], size[better]

        loss = squared + s.c * hinge.clamp(min=0)
        found = torch.isfinite(s.shortest)
        closer = over & (size < (1 - PROGRESS) * s.shortest)
        s.idle.add_(1).masked_fill_(closer | ~found & (loss < (1 - PROGRESS / 10) * s.lowest), 0)
        s.shortest.copy_(torch.where(over, torch.minimum(size, s.shortest), s.shortest))
        s.lowest.copy_(torch.minimum(loss, s.lowest))

        force = torch.addcmul(delta.mul_(2), per_row(torch.where(hinge > 0, -s.c, 0), delta), gradient)
        force = force if slope is None else force.mul_(slope)
        s.step.add_(1)
        rate = self.lr * (1 - (1 - DECAY) * (s.step - 1) / self.steps)
        s.mean.lerp_(force, 1 - BETA_1)
        s.square.mul_(BETA_2).addcmul_(force, force, value=1 - BETA_2)
        scale = rate / (1 - BETA_1**s.step)
        root = s.square.sqrt().mul_(per_row((1 - BETA_2**s.step).rsqrt(), delta)).add_(ADAM_EPS)
        s.moved.sub_(s.mean.div(root).mul_(per_row(scale.to(delta.dtype), delta)))

        # before the first success patience is doubled: pixels on a face leave it slowly, and the loss shows little of it
        patience = self.patience or max(8, self.steps // 8)
        ended = (s.step >= self.steps) | (s.idle >= torch.where(torch.isfinite(s.shortest), patience, 2 * patience))
        return self._next_search(s, torch.nonzero(ended).squeeze(1), length, before) if bool(ended.any()) else s

    def _next_search(self, s: _State, ended: Tensor, length: Tensor, before: Tensor) -> _State:
        """Move c of the rows `ended`, restart them, and drop those that are done."""
        row, c = s.row[ended], s.c[ended]
        success = torch.isfinite(s.shortest[ended])
        high = torch.where(success, c, s.high[ended])
        low = torch.where(success, s.low[ended], c)
        s.high[ended], s.low[ended] = high, low
        s.c[ended] = torch.where(torch.isfinite(high), (low + high) / 2, c * 10)
        settled = success & torch.isfinite(before[row]) & (length[row] > (1 - SETTLED) * before[row])
        before[row] = length[row]
        s.search[ended] += 1
        for counter in (s.step, s.idle):
            counter[ended] = 0
        for lowest in (s.shortest, s.lowest):
            lowest[ended] = torch.inf
        for vector in (s.moved, s.mean, s.square):
            vector[ended] = 0
        done = settled | (s.search[ended] >= self.searches)
        if not bool(done.any()):
            return s
        stay = torch.ones_like(s.row, dtype=torch.bool)
        stay[ended[done]] = False
        return s.take(stay)


def _polish(problem: Problem, best: Tensor, length: Tensor, found: Tensor, rounds: int) -> Tensor:
    """Move `best` [B, *S] of the rows `found` to the point closest to x on the linearised boundary, where that pays; returns the margins.

    The first move tries the boundaries of the POLISH_CLASSES highest other classes, the later ones that of the highest. A move that ends
    on the wrong side is halved once before it is given up, and with it the row.
    """
    far = torch.full_like(length, -torch.inf)
    rows = found
    for turn in range(rounds):
        if len(rows) == 0:
            break
        here = best[rows]
        there = _project(problem, here, rows, 1 if turn else POLISH_CLASSES)
        paid = torch.zeros_like(rows, dtype=torch.bool)
        for _ in range(2):
            left = torch.nonzero(~paid).squeeze(1)
            if len(left) == 0:
                break
            where, point = rows[left], there[left]
            value = margin(problem.logits(point, where), problem.y[where])
            size = L2.size(point - problem.x[where])
            good = (value < 0) & (size < (1 - SHORTER) * length[where])
            won = where[good]
            best[won], length[won], far[won] = point[good], size[good], value[good]
            paid[left[good]] = True
            there = torch.lerp(here, there, 0.5)
        rows = rows[paid]
    unknown = found[~torch.isfinite(far[found])]
    if len(unknown):
        far[unknown] = margin(problem.logits(best[unknown], unknown), problem.y[unknown])
    return far[found]


def _project(problem: Problem, here: Tensor, rows: Tensor, classes: int) -> Tensor:
    """The point closest to x [b, *S] on any of the class boundaries linearised at `here`, slightly beyond."""
    y, start = problem.y[rows], problem.x[rows].flatten(1)
    logits, gradients = problem.class_gradients(here, lambda z, y: rivals(z, y, classes), rows)
    short = logits.gather(1, y[:, None]) - logits.gather(1, rivals(logits, y, classes))
    nearest, least = here.clone(), torch.full_like(short[:, 0], torch.inf)
    for w, gap in zip(gradients.flatten(2).unbind(1), short.unbind(1), strict=True):
        there = reach(start, w, (w * (here.flatten(1) - start)).sum(1) + gap + LEAN * gap.abs(), problem.domain)
        reached = (w * (there - here.flatten(1))).sum(1) >= gap - LEAN * gap.abs()
        size = torch.where(reached & torch.isfinite(there).all(1), (there - start).norm(dim=1), torch.inf)
        closer = (size < least) & (size > 0)
        nearest[closer], least[closer] = there[closer].view_as(nearest[closer]), size[closer]
    return nearest
