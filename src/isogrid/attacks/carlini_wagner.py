"""Carlini & Wagner's minimum-norm l2 attack: every sample runs its own searches over the constant and leaves when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.attacks.base import Attack, Domain, Problem, margin, require
from isogrid.attacks.deepfool import rivals
from isogrid.attacks.geometry import limits, reach, shrink, slope
from isogrid.core.norms import L2, Norm, rows as per_row

INSIDE = 1e-3
"""Pixels are shrunk towards the middle of the box by this share before atanh: at exactly 0 or 1 it would be infinite, and 1e-6, as is
common, leaves a slope of 2e-6 in which a pixel stays for 40 steps."""
PROGRESS = 1e-2
"""A search goes on while it gains at least this share of its distance (before its first success: of its margin)."""
SHORTER = 1e-4
"""A polishing move counts where it shortens the distance by this share."""
SETTLED = 2e-2
"""A sample is done when a successful search shortened its distance by less than this share."""
AMPLE = 2.0
"""c is chosen this many times the critical constant that was estimated: a constant just above it would creep to the boundary."""
WORTH = 4.0
"""A sample is done when its c succeeded and is at most this many times the critical constant."""
FACES = 2
"""Before the first success patience is longer by these steps: pixels on a face leave it slowly."""
BETA_1, BETA_2, ADAM_EPS = 0.9, 0.999, 1e-8
DECAY = 0.5
"""The learning rate falls linearly to this share within a search: a constant one circles around the boundary more widely."""
POLISH_CLASSES = 9
LEAN = 1e-3
"""A polished point is put beyond the linearised boundary by this share of the margin that was to be gained."""


class _Work:
    """What the samples still at work carry along, A rows each: see `CarliniWagner` for the symbols.

    Everything lies in three blocks, so that dropping rows (the last ones fill the gaps) is three copies of just the rows that move.
    """

    def __init__(self, problem: Problem, origin: Tensor, c0: float) -> None:
        n, x = problem.n, problem.x
        self._vectors = torch.stack((x, origin, origin, torch.zeros_like(x), torch.zeros_like(x)))
        self._numbers = torch.full((8, n), torch.inf, dtype=x.dtype, device=x.device)
        self._numbers[0], self._numbers[1] = c0, 0.0
        self._counters = torch.zeros((5, n), dtype=torch.int64, device=x.device)
        self._counters[0], self._counters[1] = torch.arange(n, device=x.device), problem.y
        self.fresh = True
        self._view(n)

    def _view(self, n: int) -> None:
        self.n = n
        # the clean sample; where its variable starts; that variable, which Adam works on; Adam's two means
        self.x, self.origin, self.v, self.mean, self.square = self._vectors[:, :n].unbind()
        # largest constant that failed, smallest that succeeded; of this search: the closest adversarial point's distance and the least
        # margin; the clean margin; the distance of the row's best point when this search began
        self.c, self.low, self.high, self.shortest, self.lowest, self.gap, self.before, self.linear = self._numbers[:, :n].unbind()
        # row of the problem, label, searches finished, steps taken in this search, and those of them without progress
        self.row, self.y, self.search, self.step, self.idle = self._counters[:, :n].unbind()

    def restart(self, rows: Tensor) -> None:
        """Begin the next search of some rows."""
        self.v[rows] = self.origin[rows]
        self._vectors[3:, rows] = 0
        self._numbers[3:5, rows] = torch.inf
        self._counters[3:, rows] = 0
        self.search[rows] += 1

    def drop(self, rows: Tensor) -> None:
        """Forget some rows (ascending)."""
        n = self.n - len(rows)
        holes = rows[rows < n]
        last = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        last[rows[len(holes) :] - n] = False
        filling = n + torch.nonzero(last).squeeze(1)
        for block in (self._vectors, self._numbers, self._counters):
            block[:, holes] = block[:, filling]
        self._view(n)


class _Pixels:
    """The change of variables: x' = mid + half tanh(v) in a box, x' = v in the free domain."""

    def __init__(self, domain: Domain) -> None:
        self.free = domain.name == "free"
        self.low, self.width = domain.low, domain.high - domain.low

    def inverse(self, x: Tensor) -> Tensor:
        """v at x, pixels shrunk inside."""
        return x.clone() if self.free else ((x - (self.low + self.width / 2)) * ((1 - INSIDE) / (self.width / 2))).atanh()

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """(x', its slope but for a factor, which Adam divides out), the slope None where it is 1.

        With s = sigmoid(2 v) = (1 + tanh v) / 2: x' = low + width s, and the slope is 2 width s (1 - s). A sigmoid costs a third of a tanh.
        """
        if self.free:
            return v.clone(), None
        s = (v + v).sigmoid_()
        there = torch.mul(s, self.width)
        if self.low:
            there += self.low
        return there, torch.addcmul(s, s, s, value=-1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagner(Attack):
    r"""C&W l2: minimise ||x' - x||^2 + c max(z_y - max_{k != y} z_k + kappa, 0) over v, x' = mid + half tanh(v), with a search over c.

    `searches` x `steps`: at most that many Adam steps (`lr`, falling to half within a search) from v = atanh(x). c starts at `c0`; None:
    at twice the critical constant 2 gap / ||grad gap||^2 of the model linearised at x, so that the scale of the logits does not matter.
    After a failure c rises to that estimate (at least x3, from the second failure on x10); after a success it falls to twice the
    Lagrange multiplier at the point found, or halves the bracket between failure and success. Bracket, steps and stopping belong to
    each sample alone. A search ends after `patience` steps (default: steps / 8, at least 8) without progress. A sample leaves when c
    succeeded at no more than 4 times the multiplier or the largest failure, or improved its distance by less than 2 %: beyond the
    critical constant the hinge is an exact penalty, and every c has the same minimiser. In domain "free" v = x'.

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
    c0: float | None = None
    kappa: float = 0.0
    patience: int | None = None
    polish: int = 3
    queries: int = 4

    def __post_init__(self) -> None:
        for name in ("searches", "steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "an integer >= 1")
        require("lr", self.lr, 0 < self.lr < float("inf"), "a finite number > 0")
        require("c0", 1.0 if self.c0 is None else self.c0, self.c0 is None or 0 < self.c0 < float("inf"), "a finite number > 0, or None")
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
        work = _Work(problem, pixels.inverse(problem.x), self.c0 or 0.0)
        with torch.no_grad():
            while work.n:
                self._advance(problem, pixels, work, best, length)
        found = torch.nonzero(torch.isfinite(length)).squeeze(1)
        if self.kappa == 0 and len(found):
            near = margin(problem.logits(problem.x[found], found), problem.y[found]) if self.queries else length[found]
            far = _polish(problem, best, length, found, self.polish)
            if self.queries:
                best[found] = shrink(problem, best[found], found, near, far, self.queries)
        return best

    def _advance(self, problem: Problem, pixels: _Pixels, s: _Work, best: Tensor, length: Tensor) -> None:
        """One Adam step of every sample still at work; those whose search ended begin the next one, or leave."""
        there, slope = pixels.forward(s.v)
        # the margin's own gradient, on a graph that ends at the logits: cheaper than through gather, scatter and maximum
        logits, gradient = problem.pull_back(there, _towards_rival, s.row)
        hinge = margin(logits, s.y)
        over = hinge < 0
        if self.kappa:
            hinge = hinge + self.kappa
            over &= hinge <= 0
        delta = there - s.x
        size = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        won = torch.nonzero(over & (size < length[s.row])).squeeze(1)
        if len(won):
            row = s.row[won]
            best[row], length[row] = there[won], size[won]
        if s.fresh:
            s.fresh = False
            s.gap.copy_(hinge)
            s.linear.copy_(AMPLE * _critical(hinge, gradient, there, problem.domain))
            if self.c0 is None:
                s.c.copy_(s.linear)
        push = torch.where(hinge > 0, s.c / -2, 0)
        force = torch.addcmul(delta, per_row(push, delta), gradient)
        if slope is not None:
            force.mul_(slope)
        # progress is a shorter distance, or before the first success a smaller margin
        waiting = torch.isinf(s.shortest)
        closer = torch.where(over, size < (1 - PROGRESS) * s.shortest, waiting & (hinge < s.lowest - PROGRESS * s.gap))
        torch.where(closer, hinge, s.lowest, out=s.lowest)
        s.idle.add_(~closer)
        if bool(waiting.any()):  # where the margin's pull is outweighed before the boundary, idle steps count double and none resets
            uphill = (force * (gradient if slope is None else gradient * slope)).flatten(1).sum(1) > 0
            stuck = uphill & waiting & ~over
            s.idle.add_(stuck & ~closer)
            closer &= ~stuck
        s.idle.masked_fill_(closer, 0)
        torch.where(over, torch.minimum(size, s.shortest), s.shortest, out=s.shortest)

        s.step.add_(1)
        step = s.step.to(size.dtype)
        rate = self.lr * (1 - (1 - DECAY) / self.steps * (step - 1)) / (1 - BETA_1**step)
        s.mean.lerp_(force, 1 - BETA_1)
        s.square.mul_(BETA_2).addcmul_(force, force, value=1 - BETA_2)
        root = s.square.sqrt().mul_(per_row((1 - BETA_2**step).rsqrt() / rate, delta)).add_(ADAM_EPS)
        s.v.addcdiv_(s.mean, root, value=-1)

        patience = self.patience or max(8, self.steps // 8)
        ended = torch.nonzero((s.step >= self.steps) | (s.idle >= patience + FACES * waiting)).squeeze(1)
        if len(ended):
            scale = slope[ended] if slope is not None else None
            self._next_search(s, ended, length, _multiplier(delta[ended], gradient[ended], scale))

    def _next_search(self, s: _Work, ended: Tensor, length: Tensor, critical: Tensor) -> None:
        """Move c of the rows `ended`, restart them, and drop those that are done; `critical`: estimates of the least c that succeeds."""
        c, row = s.c[ended], s.row[ended]
        success = torch.isfinite(s.shortest[ended])
        high = torch.where(success, c, s.high[ended])
        low = torch.where(success, s.low[ended], c)
        again = s.low[ended] > 0
        s.high[ended], s.low[ended] = high, low
        grown = torch.where(again, 10 * c, torch.maximum(s.linear[ended], 3 * c))
        wanted = AMPLE * critical
        inside = (wanted > low) & (wanted < high)
        s.c[ended] = torch.where(torch.isfinite(high), torch.where(inside, wanted, (low + high) / 2), grown)
        settled = success & (length[row] > (1 - SETTLED) * s.before[ended])
        s.before[ended] = length[row]
        done = settled | (s.search[ended] + 1 >= self.searches) | success & (c <= WORTH * critical) | (high <= WORTH * low)
        stay = ended[~done]
        if len(stay):
            s.restart(stay)
        if len(stay) < len(ended):
            s.drop(ended[done])


def _towards_rival(logits: Tensor, y: Tensor) -> Tensor:
    """d (max_{k != y} z_k - z_y) / d logits [b, C]."""
    return torch.zeros_like(logits).scatter_(1, rivals(logits, y, 1), 1.0).scatter_(1, y[:, None], -1.0)


def _critical(gap: Tensor, w: Tensor, x: Tensor, domain: Domain) -> Tensor:
    """The least c [b] with which a linear model of margin `gap` [b] and gradient `w` [b, *S] at `x` is broken: 2 gap / ||w||^2."""
    steep = slope(w.flatten(1), limits(x.flatten(1), domain))
    c = 2 * (gap / steep) / steep
    return torch.where(torch.isfinite(c) & (c > 0), c, 1.0)


def _multiplier(delta: Tensor, w: Tensor, slope: Tensor | None) -> Tensor:
    """The c [b] for which 2 delta + c w is as small as can be, over the variable v, by least squares: Lagrange's multiplier."""
    pull, push = (delta, w) if slope is None else (delta * slope, w * slope)
    pull, push = pull.flatten(1), push.flatten(1)
    return 2 * (pull * push).sum(1) / (push * push).sum(1)


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
    logits, chosen, gradients = problem.boundaries(here, lambda z, y: rivals(z, y, classes), rows)
    short = logits.gather(1, y[:, None]) - logits.gather(1, chosen)
    nearest, least = here.clone(), torch.full_like(short[:, 0], torch.inf)
    for w, gap in zip((g.flatten(1) for g in gradients), short.unbind(1), strict=True):
        there = reach(start, w, (w * (here.flatten(1) - start)).sum(1) + gap + LEAN * gap.abs(), problem.domain)
        reached = (w * (there - here.flatten(1))).sum(1) >= gap - LEAN * gap.abs()
        size = torch.where(reached & torch.isfinite(there).all(1), (there - start).norm(dim=1), torch.inf)
        closer = (size < least) & (size > 0)
        nearest[closer], least[closer] = there[closer].view_as(nearest[closer]), size[closer]
    return nearest
