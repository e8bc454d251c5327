"""C&W's converging form: every sample runs its own searches over the constant, leaves when it is done, and is polished at the end.

What belongs here: what we add to the published attack. What does not: its parameters, and its published form (`carlini_wagner`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from isogrid.attacks.deepfool import rivals
from isogrid.attacks.driver.base import Domain, Problem, margin
from isogrid.attacks.steps.geometry import limits, reach, shrink, slope
from isogrid.core.norms import L2, rows as per_row

INSIDE = 1e-3
"""Of `Pixels`: 1e-6, as published, leaves a slope of 2e-6 in which a pixel stays for 40 steps."""
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
HIGHEST = -1
"""Goes for the class that is highest at the moment, as published; a row whose margin has no gradient names another."""
CLASSES = 9
"""How many of the highest other classes are looked at where more than one is."""
LEAN = 1e-3
"""A polished point is put beyond the linearised boundary by this share of the margin that was to be gained."""


class _Work:
    """What the samples still at work carry along, A rows each: see `CarliniWagner` for the symbols.

    Everything lies in three blocks, so that dropping rows (the last ones fill the gaps) is three copies of just the rows that move.
    """

    def __init__(self, problem: Problem, origin: Tensor, c0: float) -> None:
        n, x = problem.n, problem.x
        self._vectors = torch.stack((x, origin, origin, torch.zeros_like(x), torch.zeros_like(x)))
        self._numbers = torch.full((9, n), torch.inf, dtype=x.dtype, device=x.device)
        self._numbers[0], self._numbers[1] = c0, 0.0
        self._counters = torch.zeros((6, n), dtype=torch.int64, device=x.device)
        self._counters[0], self._counters[1], self._counters[2] = torch.arange(n, device=x.device), problem.y, HIGHEST
        self.fresh, self.aimed = True, False
        self._view(n)

    def _view(self, n: int) -> None:
        self.n = n
        # the clean sample; where its variable starts; that variable, which Adam works on; Adam's two means
        self.x, self.origin, self.v, self.mean, self.square = self._vectors[:, :n].unbind()
        # c; the largest that failed, the smallest that succeeded; the length of the row's best point when this search began; of this
        # search: the closest adversarial point's distance, and the margin to get under. For good: the clean margin, c of the model
        # linearised at x, and the length of the best point
        numbers = self._numbers[:, :n]
        self.c, self.low, self.high, self.before, self.shortest, self.bar, self.gap, self.linear, self.length = numbers.unbind()
        # row of the problem, label, class to go for, searches finished, steps taken in this search, and those of them without progress
        self.row, self.y, self.target, self.search, self.step, self.idle = self._counters[:, :n].unbind()

    def numbers(self, rows: Tensor) -> tuple[Tensor, ...]:
        """All numbers of some rows, in the order of `_view`."""
        return self._numbers.index_select(1, rows).unbind()

    def close(self, rows: Tensor, c: Tensor, low: Tensor, high: Tensor, before: Tensor) -> None:
        """Note what the search of some rows came to; the next one is a search without a success so far."""
        none = torch.full_like(c, torch.inf)
        self._numbers[:6].index_copy_(1, rows, torch.stack((c, low, high, before, none, none)))
        self._counters[4:].index_fill_(1, rows, 0)
        self.search.index_add_(0, rows, torch.ones_like(rows))

    def restart(self, rows: Tensor) -> None:
        """Put some rows back to where their variable starts."""
        self.v.index_copy_(0, rows, self.origin.index_select(0, rows))
        self._vectors[3:].index_fill_(1, rows, 0)

    def drop(self, rows: Tensor) -> None:
        """Forget some rows."""
        n = self.n - len(rows)
        gone = set(rows.tolist())
        holes = [row for row in gone if row < n]
        if holes:
            filling = torch.tensor([row for row in range(n, self.n) if row not in gone], device=rows.device)
            into = torch.tensor(holes, device=rows.device)
            for block in (self._vectors, self._numbers, self._counters):
                block.index_copy_(1, into, block.index_select(1, filling))
        self._view(n)


class Pixels:
    """The change of variables: x' = mid + half tanh(v) in a box, x' = v in the free domain.

    Pixels are shrunk towards the middle of the box by the share `inside` before atanh: at exactly 0 or 1 it would be infinite.
    """

    def __init__(self, domain: Domain, inside: float) -> None:
        self.inside = inside
        self.free = domain.name == "free"
        self.low, self.width = domain.low, domain.high - domain.low
        self.unit = self.width if self.free else 1.0  # of v: Adam's steps do not follow the scale of x by themselves

    def inverse(self, x: Tensor) -> Tensor:
        """v at x, pixels shrunk inside."""
        return x.clone() if self.free else ((x - (self.low + self.width / 2)) * ((1 - self.inside) / (self.width / 2))).atanh()

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
class Converging:
    """The settings of one attack (see `CarliniWagner`), and its search."""

    searches: int
    steps: int
    lr: float
    c0: float | None
    kappa: float
    patience: int | None
    polish: int
    queries: int

    def search(self, problem: Problem) -> Tensor:
        """Candidates [B, *S]: the closest adversarial point of each row."""
        pixels = Pixels(problem.domain, INSIDE)
        best = problem.x.clone()
        length = torch.full((problem.n,), torch.inf, dtype=best.dtype, device=best.device)
        work = _Work(problem, pixels.inverse(problem.x), self.c0 or 0.0)
        pace = self._pace(pixels).to(best)
        with torch.no_grad():
            moves = 0
            while work.n:
                problem.progress(moves / self.steps)
                self._advance(problem, pixels, work, best, length, pace)
                moves += 1
        found = torch.nonzero(torch.isfinite(length)).squeeze(1)
        if self.kappa == 0 and len(found):
            near = margin(problem.logits(problem.x[found], found), problem.y[found]) if self.queries else length[found]
            far = _polish(problem, best, length, found, self.polish)
            if self.queries:
                best[found] = shrink(problem, best[found], found, near, far, self.queries)
        return best

    def _pace(self, pixels: Pixels) -> Tensor:
        """What the root of Adam's second mean is multiplied with in steps 1 to `steps`: both bias corrections over the learning rate."""
        step = torch.arange(self.steps, dtype=torch.float64)
        rate = self.lr * pixels.unit * (1 - (1 - DECAY) / self.steps * step)
        return (1 - BETA_1 ** (step + 1)) / (1 - BETA_2 ** (step + 1)).sqrt() / rate

    def _advance(self, problem: Problem, pixels: Pixels, s: _Work, best: Tensor, length: Tensor, pace: Tensor) -> None:
        """One Adam step of every sample still at work; those whose search ended begin the next one, or leave.

        On a small network its two dozen numbers a row cost as much as the model: no operation here is one too many.
        """
        there, slope = pixels.forward(s.v)
        # the margin's own gradient, on a graph that ends at the logits: cheaper than through gather, scatter and maximum
        rival = _Rival(s.target if s.aimed else None)
        _, gradient = problem.pull_back(there, rival, s.row)
        if s.fresh:
            s.fresh = False
            self._begin(problem, s, there, rival, gradient)
        over = rival.margin < 0
        if self.kappa:
            over &= rival.margin <= -self.kappa
        hinge = rival.gap.add_(self.kappa).masked_fill_(over, 0)
        delta = there - s.x
        size = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        # twice the objective's gradient in v is the distance's, `drag`, less c / 2 times the margin's, `pull`
        drag, pull = (delta, gradient) if slope is None else (delta.mul_(slope), gradient * slope)
        push = s.c.masked_fill(over, 0)  # at a tie the hinge is 0, but not yet behind the boundary
        force = torch.addcmul(drag, per_row(push, pull), pull, value=-0.5)

        size.masked_fill_(~over, torch.inf)
        won = torch.nonzero(size < s.length).squeeze(1)
        if len(won):
            best.index_copy_(0, s.row.index_select(0, won), there.index_select(0, won))
            torch.minimum(size, s.length, out=s.length)
        # progress is a shorter distance, or before the first success a smaller margin
        waiting = s.shortest == torch.inf
        closer = (size < (1 - PROGRESS) * s.shortest).logical_or_(hinge < s.bar)
        torch.where(closer, torch.sub(hinge, s.gap, alpha=PROGRESS), s.bar, out=s.bar)
        torch.minimum(size, s.shortest, out=s.shortest)
        # where the margin's pull is outweighed before the boundary, idle steps count double and none resets
        stuck = (((force * pull).flatten(1).sum(1) > 0).logical_and_(waiting)) > over
        s.idle.add_(~closer).add_(stuck > closer).masked_fill_(closer > stuck, 0)

        s.mean.lerp_(force, 1 - BETA_1)
        s.square.mul_(BETA_2).addcmul_(force, force, value=1 - BETA_2)
        root = s.square.sqrt().mul_(per_row(pace.index_select(0, s.step), force)).add_(ADAM_EPS)
        s.v.addcdiv_(s.mean, root, value=-1)

        s.step.add_(1)
        patience = self.patience or max(8, self.steps // 8)
        ended = torch.nonzero((torch.sub(s.idle, waiting.long(), alpha=FACES) >= patience).logical_or_(s.step >= self.steps)).squeeze(1)
        if len(ended):
            self._next_search(s, ended, length, _multiplier(drag.index_select(0, ended), pull.index_select(0, ended)))

    def _begin(self, problem: Problem, s: _Work, there: Tensor, rival: _Rival, gradient: Tensor) -> None:
        """What a row is measured by: clean margin and linear model. Rows whose margin has no gradient go for the nearest class that has."""
        flat = torch.nonzero(~gradient.flatten(1).any(1)).squeeze(1)
        if len(flat):
            s.target[flat], rival.gap[flat], gradient[flat] = _aim(problem, there[flat], s.row[flat])
            s.aimed = True
        s.gap.copy_(rival.gap).add_(self.kappa)
        s.linear.copy_(AMPLE * _critical(s.gap, gradient, there, problem.domain))
        if self.c0 is None:
            s.c.copy_(s.linear)

    def _next_search(self, s: _Work, ended: Tensor, length: Tensor, critical: Tensor) -> None:
        """Move c of the rows `ended`, restart them, and drop those that are done; `critical`: estimates of the least c that succeeds."""
        c, failed, succeeded, before, shortest, _, _, linear, best = s.numbers(ended)
        success = shortest < torch.inf
        high = torch.where(success, c, succeeded)
        low = torch.where(success, failed, c)
        wanted = AMPLE * critical
        inside = (wanted > low).logical_and_(wanted < high)
        grown = torch.where(failed > 0, 10 * c, torch.maximum(linear, 3 * c))
        chosen = torch.where(high < torch.inf, torch.where(inside, wanted, (low + high) / 2), grown)
        settled = (best > (1 - SETTLED) * before).logical_or_(c <= WORTH * critical).logical_and_(success)
        s.close(ended, chosen, low, high, best)
        done = settled.logical_or_(high <= WORTH * low).logical_or_(s.search.index_select(0, ended) >= self.searches)
        stay, leave = ended[~done], ended[done]
        if len(stay):
            s.restart(stay)
        if len(leave):
            length.index_copy_(0, s.row.index_select(0, leave), s.length.index_select(0, leave))
            s.drop(leave)


class _Rival:
    """The slope d (z_t - z_y) / d logits [b, C] as a function of logits and labels, which keeps what it saw on the way.

    t [b]: `target`, where it names a class, else the highest class other than y. After a call, `margin` [b] is z_y - max_{k != y} z_k,
    and `gap` [b] is z_y - z_t.
    """

    margin: Tensor
    gap: Tensor

    def __init__(self, target: Tensor | None = None) -> None:
        self.target = target

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        own = y[:, None]
        highest, rival = logits.scatter(1, own, -torch.inf).max(1, keepdim=True)
        z_y = logits.gather(1, own)
        self.margin = (z_y - highest).squeeze(1)
        self.gap = self.margin.clone()
        if self.target is not None:
            rival = torch.where(self.target == HIGHEST, rival.squeeze(1), self.target)[:, None]
            self.gap = (z_y - logits.gather(1, rival)).squeeze(1)
        return torch.zeros_like(logits).scatter_(1, rival, 1.0).scatter_(1, own, -1.0)


def _aim(problem: Problem, there: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the CLASSES highest others the one whose linearised boundary is nearest: (class [b], z_y - z_class [b], its gradient [b, *S]).

    HIGHEST and a gradient of zero where all of them are flat.
    """
    y = problem.y[rows]
    logits, chosen, gradients = problem.boundaries(there, lambda z, y: rivals(z, y, CLASSES), rows)
    short = logits.gather(1, y[:, None]) - logits.gather(1, chosen)
    within = limits(there.flatten(1), problem.domain)
    target, gap, gradient = torch.full_like(y, HIGHEST), short[:, 0].clone(), torch.zeros_like(there)
    least = torch.full_like(gap, torch.inf)
    for j, w in enumerate(gradients):
        away = short[:, j] / slope(w.flatten(1), within)
        nearer = torch.nonzero(away < least).squeeze(1)
        least[nearer], target[nearer], gap[nearer], gradient[nearer] = away[nearer], chosen[nearer, j], short[nearer, j], w[nearer]
    return target, gap, gradient


def _critical(gap: Tensor, w: Tensor, x: Tensor, domain: Domain) -> Tensor:
    """The least c [b] with which a linear model of margin `gap` [b] and gradient `w` [b, *S] at `x` is broken: 2 gap / ||w||^2."""
    steep = slope(w.flatten(1), limits(x.flatten(1), domain))
    c = 2 * (gap / steep) / steep
    return torch.where(torch.isfinite(c) & (c > 0), c, 1.0)


def _multiplier(drag: Tensor, pull: Tensor) -> Tensor:
    """The c [b] for which 2 drag + c pull is as small as can be, over the variable v, by least squares: Lagrange's multiplier."""
    drag, pull = drag.flatten(1), pull.flatten(1)
    return 2 * (drag * pull).sum(1) / (pull * pull).sum(1)


def _polish(problem: Problem, best: Tensor, length: Tensor, found: Tensor, rounds: int) -> Tensor:
    """Move `best` [B, *S] of the rows `found` to the point closest to x on the linearised boundary, where that pays; returns the margins.

    The first move tries the boundaries of the CLASSES highest other classes, the later ones that of the highest. A move that ends
    on the wrong side is halved once before it is given up, and with it the row.
    """
    far = torch.full_like(length, -torch.inf)
    rows = found
    for turn in range(rounds):
        if len(rows) == 0:
            break
        here = best[rows]
        there = _project(problem, here, rows, 1 if turn else CLASSES)
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
