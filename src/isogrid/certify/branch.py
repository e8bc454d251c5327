"""Branch and bound over the phases of ReLUs, complete where its limits allow. Not here: a node's bounds (dual.py), leaves (leaf.py)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from isogrid.attacks.driver.problem import margin
from isogrid.certify.bounds import Sweep, backward, margin_rows
from isogrid.certify.crown import by_lines, proved
from isogrid.certify.dual import Bound, Dual, Multipliers
from isogrid.certify.graph import Graph
from isogrid.certify.leaf import BEYOND, NOISE, leaf_bound
from isogrid.certify.method import Certifier, Found, Problem
from isogrid.certify.optimise import optimised, refined
from isogrid.certify.programmes import Queue
from isogrid.certify.region import Region, region
from isogrid.core.errors import InputError
from isogrid.core.norms import L2
from isogrid.core.numbers import real
from isogrid.core.parameters import require_number, require_whole

_BATCH: Final = 128  # nodes split at once
_TRIED: Final = 4  # candidates that the whole network looks at, the closest first
_POLISH: Final = 3  # steps towards the boundary from a point of a bound
_INSIDE: Final = 1 - 1e-6  # counterexamples are drawn in by this share, for float32 within what is asked
_LEAST: Final = 1e-12
_ROUGH: Final = 1e-2  # CROWN's own radius is wanted to this share
_NEAR: Final = 0.75  # from this share of the upper end on, all of it is tried at once
_FEW: Final = 40  # units up to which linear programmes are worth solving
_SOME: Final = 100  # units up to which they find counterexamples just within a radius that the batched search goes on looking for
_MANY: Final = 500  # units from which on a region is so dear to make that the next radius follows the root's outlook
_BRIEF: Final = 12  # steps of multipliers at the root where programmes follow, which find the best ones
_PATIENCE, _LONGER = 6, 16  # steps of the batched search before that, of few units and of some
_PROGRAMME: Final = 10  # bounds that one of them counts as
_SHARE: Final = 0.25  # of the budget, for one radius
_COSTS, _STRIDES = (0.02, 0.1, math.inf), (1.3, 1.15, 1.07)  # the less of the budget a radius took, the farther the next
_WORTH: Final = 0.97  # a search that has come so close to its radius is worth the rest of the budget


@dataclass(slots=True)
class Budget:
    """What one sample may cost: bounds computed and seconds of this process's CPU time."""

    nodes: int
    seconds: float
    started: float = field(default_factory=time.process_time)
    whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.whole = max(1, self.nodes)

    @property
    def left(self) -> float:
        """The share that is left, 0 or less where it is spent."""
        gone = 0.0 if math.isinf(self.seconds) else (time.process_time() - self.started) / self.seconds
        return min(1 - gone, self.nodes / self.whole)


@dataclass(slots=True, eq=False)
class Search:
    """One sample x [*S] of class y: certified to `lower`, broken at `upper` by `point` [*S] where one was found.

    Only counterexamples `within` a radius count. `pixels`: the inputs that the region is left with.
    """

    graph: Graph
    x: Tensor
    y: int
    upper: float
    within: float
    lower: float = 0.0
    point: Tensor | None = None
    pixels: Tensor | None = None

    def meet(self, distance: Tensor, points: Tensor) -> None:
        """Points [M, n] at `distance` [M] that may be counterexamples: the closest that the whole network misclassifies is kept.

        A region says nothing of points beyond its own radius.
        """
        promising = torch.nonzero((distance < self.upper) & (distance <= self.within)).squeeze(1)
        flat = self.x.flatten()
        for i in promising[distance[promising].argsort()][:_TRIED].tolist():
            whole = flat.clone()
            whole[self.pixels] += (points[i] - flat[self.pixels]) * _INSIDE
            candidate = whole.reshape(self.x.shape)
            if float(margin(self.graph(candidate[None]), torch.tensor([self.y]))) < 0:
                self.upper, self.point = float(distance[i]), candidate
                return


class Tree:
    """Branch and bound of one sample within its region's radius `top`.

    Every node is a set of multipliers with some phases fixed and a radius that it certifies; a node whose radius reaches `goal` is closed.
    The nodes of the smallest radii are split first, at the unit whose relaxation loses most at the point where the bound is reached.
    """

    def __init__(self, dual: Dual, search: Search, *, steps: int, root_steps: int, gap: float, decide: bool) -> None:
        self.dual, self.search, self.steps, self.gap, self.decide = dual, search, steps, gap, decide
        self.top = float(dual.region.ball.radius)
        self.small, self.patience = few(dual.region), patience(dual.region, decide)
        self.settled = math.inf  # the smallest radius among leaves that nothing closes
        targets = torch.arange(len(dual.region.C))
        start = dual.first(targets)
        first = dual.critical(dual.bound(start))
        keep = first < self.goal
        self.nodes, self.radius, self.outlook = start.take(keep), first[keep], float(first.amin())
        if len(self.radius):
            reach = torch.full_like(self.radius, self.goal)
            self.nodes, better = optimised(dual, self.nodes, reach, min(root_steps, _BRIEF) if self.small else root_steps)
            self.radius = torch.maximum(self.radius, better)
            self.outlook = min(float(self.radius.amin()), float(first[~keep].amin()) if bool((~keep).any()) else math.inf)
            self.prune()
        self.roots, self.first, self.steps_done = self.nodes, self.radius, 0
        self.queue: Queue | None = None

    @property
    def goal(self) -> float:
        """A node that certifies this is of no more interest."""
        return min(self.top, self.search.upper * (1 - self.gap))

    @property
    def lower(self) -> float:
        """What is certified so far."""
        found = min(self.goal, self.settled, math.inf if self.queue is None else self.queue.lower)
        return min(found, float(self.radius.min())) if len(self.radius) else found

    @property
    def open(self) -> bool:
        """Whether a node is left that can be split."""
        return len(self.radius) > 0 or (self.queue is not None and len(self.queue) > 0)

    def prune(self) -> None:
        """Close the nodes that reach the goal."""
        keep = self.radius < self.goal
        if not bool(keep.all()):
            self.nodes, self.radius = self.nodes.take(keep), self.radius[keep]

    def run(self, budget: Budget, share: float) -> None:
        """Split until nothing is open, the question is answered, or `share` of the whole budget is spent in this call."""
        stop = max(budget.left - share, 0.0)
        while self.open and budget.left > stop and not (self.decide and self.search.point is not None):
            if self.steps_done >= self.patience:
                self.solve(budget)
            else:
                self.step(budget)
                self.steps_done += 1

    def solve(self, budget: Budget) -> None:
        """One node by its linear programme, which starts at the roots again: its bounds are better than those of splits so far."""
        if self.queue is None:
            kept = torch.isin(self.roots.target, self.nodes.target)
            self.queue = Queue(self.dual, self.roots.take(kept), self.first[kept])
            self.nodes, self.radius = self.nodes.take(slice(0)), self.radius[:0]
        budget.nodes -= _PROGRAMME
        x, target = self.queue.step(self.goal)
        if x is not None:
            self.polish(x, target, *self.dual.region.forward(x))

    def step(self, budget: Budget) -> None:
        """Split the nodes of the smallest radii."""
        chosen = self.radius.topk(min(_BATCH, len(self.radius)), largest=False).indices
        rest = torch.ones(len(self.radius), dtype=torch.bool)
        rest[chosen] = False
        parents, radius = self.nodes.take(chosen), self.radius[chosen]
        bound = self.dual.bound(parents)
        units, open_ = self.look(parents, bound, radius)
        self.leaves(parents.take(~open_), radius[~open_])
        parents, radius, units = parents.take(open_), radius[open_], units[open_]
        children, inherited = split(parents, units), torch.cat([radius, radius])
        self.nodes, self.radius = self.nodes.take(rest), self.radius[rest]
        if len(units):
            children, certified = optimised(self.dual, children, torch.full_like(inherited, self.goal), self.steps)
            self.nodes = self.nodes.with_(children)
            self.radius = torch.cat([self.radius, torch.maximum(inherited, certified)])
            budget.nodes -= len(inherited)
        self.prune()

    def look(self, nodes: Multipliers, bound: Bound, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(the unit to split [N], whether there is one [N]); the points where the bounds are reached may be counterexamples."""
        small, ball = self.dual.region, self.dual.region.ball
        at = ball.point(bound.A[None], radius.clamp(0, self.top)[None])[0]
        z, h = small.forward(at)
        self.polish(at, nodes.target, z, h)
        free = (nodes.phase == 0) & ~small.curved
        loss = torch.where(free, bound.c * h - bound.g * z - bound.offset, -1.0)
        return loss.argmax(1) if small.units else torch.zeros_like(nodes.target), free.any(1)

    def polish(self, x: Tensor, target: Tensor, z: Tensor, h: Tensor) -> None:
        """Look for counterexamples at x [N, n], and at the closest points of the boundary as the affine pieces around them have it."""
        small, ball = self.dual.region, self.dual.region.ball
        for _ in range(_POLISH + 1):
            value = (x * small.C[target]).sum(1) + small.c[target] + (h * small.Q[target]).sum(1)
            distance, gradient = ball.norm.size(x - ball.x), self.gradient(target, z)
            height, slope = value - (gradient * x).sum(1), ball.norm.dual_size(gradient)
            noise = small.slack[target] * NOISE
            crossed = value < -BEYOND / 3 * slope * distance - noise / 2
            self.search.meet(distance[crossed], x[crossed])
            radius = ball.critical(gradient[None], height[None])[0].clamp(0, 1e30) * (1 + BEYOND) + noise / slope.clamp_min(_LEAST)
            near = torch.nonzero(radius < self.search.upper).squeeze(1)
            if len(near) == 0:
                return
            target = target[near]
            x = ball.point(gradient[None, near], radius[None, near])[0]
            z, h = small.forward(x)

    def gradient(self, target: Tensor, z: Tensor) -> Tensor:
        """The margins' gradients [N, n] on the affine pieces of z [N, U]."""
        small = self.dual.region
        slope = torch.where(small.curved, 1 - z.tanh().square(), (z > 0).to(z))
        A, coef = small.C[target], small.Q[target]
        for block in reversed(small.blocks):
            g = coef[:, block] * slope[:, block]
            A = A + g @ small.P[block]
            if block.start:
                coef = coef[:, : block.start] + g @ small.T[block, : block.start]
        return A

    def leaves(self, nodes: Multipliers, radius: Tensor) -> None:
        """Nodes with nothing left to split: their exact solution, by multipliers that are bounds themselves."""
        for i in range(len(radius)):
            better, point = leaf_bound(self.dual, nodes.take(torch.tensor([i])), self.goal)
            if point is not None:
                z, h = self.dual.region.forward(point[None])
                self.polish(point[None], nodes.target[i : i + 1], z, h)
            self.settled = min(self.settled, max(float(radius[i]), better))


def few(region: Region) -> bool:
    """Whether linear programmes are worth solving on it, which find the best slopes of every unit by themselves."""
    return math.isfinite(patience(region, decide=False))


def patience(region: Region, decide: bool) -> float:
    """Steps of the batched search before linear programmes take over; inf: they never do."""
    if region.ball.norm is L2 or bool(region.curved.any()):
        return math.inf
    if region.units <= _FEW:
        return _PATIENCE
    return _LONGER if decide and region.units <= _SOME else math.inf


def split(nodes: Multipliers, units: Tensor) -> Multipliers:
    """Two children of each of N nodes: unit [N] active in the first N, inactive in the others."""
    rows = torch.arange(len(units))
    both = []
    for sign in (1, -1):
        phase = nodes.phase.clone()
        phase[rows, units] = sign
        both.append(replace(nodes, phase=phase))
    return both[0].with_(both[1])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BranchAndBound(Certifier):
    """Splits ReLUs into their two phases until every part is certified, a counterexample is found, or the budget of a sample is spent.

    `nodes`: bounds computed per sample; `seconds`: of CPU time per sample (results then depend on the machine). `gap`: radii are sought to
    this share of the closest counterexample. Source: Wang et al. 2021 (beta-CROWN). Pitfall: one thread; samples come one by one.
    """

    name: ClassVar[str] = "branch-and-bound"

    nodes: int = 20000
    seconds: float = math.inf
    gap: float = 1e-3
    steps: int = 12
    root_steps: int = 40
    inner: int = 8

    def __post_init__(self) -> None:
        Certifier.__post_init__(self)
        for name, least in (("steps", 1), ("root_steps", 1), ("inner", 0), ("nodes", 0)):
            object.__setattr__(self, name, require_whole(name, getattr(self, name), least))
        if not (real(self.seconds) or 0.0) > 0:
            raise InputError("seconds", self.seconds, "a number above 0")
        object.__setattr__(self, "gap", require_number("gap", self.gap, 0, 1, low_open=True))

    def search(self, problem: Problem) -> Found:
        points, radius = torch.full_like(problem.x, math.nan), problem.limit.clone()
        if problem.decide:
            margins = margin_rows(problem.graph, problem.y)
            swept = problem.bounder.sweep(problem.ball(problem.limit), "lines")
            form = backward(swept, {len(problem.graph.nodes) - 1: margins}, swept.relax)
            open_ = form.critical(swept.ball).amin(1) < problem.limit
        else:
            swept, open_ = None, torch.ones(len(problem.y), dtype=torch.bool)
        for row in torch.nonzero(open_).squeeze(1).tolist():
            found = self.one(problem, row, swept)
            radius[row] = found.lower
            if found.point is not None:
                points[row] = found.point
        return Found(radius=radius, point=points)

    def one(self, problem: Problem, row: int, swept: Sweep | None) -> Search:
        """One sample; `swept`: bounds of the whole batch at the limits, where only these matter."""
        budget, limit = Budget(self.nodes, self.seconds), float(problem.limit[row])
        if swept is not None:
            found = Search(problem.graph, problem.x[row], int(problem.y[row]), upper=math.inf, within=limit)
            self.attempt(problem, row, swept, row, found, budget, 1.0)
        else:
            found = Search(problem.graph, problem.x[row], int(problem.y[row]), upper=float(problem.known[row]), within=math.inf)
            self.climb(problem, row, found, budget)
        return found

    def climb(self, problem: Problem, row: int, found: Search, budget: Budget) -> None:
        """Certify larger and larger radii: bounds made for a radius hold below it, and are the better the smaller it is.

        CROWN's own radius comes first. While a radius closes, the next is farther, the more so the less it took; one that does not is
        brought nearer to what it certified, until the rest of the budget is best spent on it.
        """
        rows, most = torch.tensor([row]), float(problem.limit[row])
        found.lower = float(proved(by_lines, problem.take(rows), _ROUGH)[0])
        top = most if found.lower > _NEAR * most else found.lower * _STRIDES[0]
        while 0 < found.lower < min(found.upper * (1 - self.gap), most) and budget.left > 0:
            before, top = budget.left, min(top, found.upper, most)
            swept = problem.bounder.sweep(problem.ball(torch.tensor([top], dtype=torch.float64), rows), "lines")
            tree = self.attempt(problem, row, swept, 0, found, budget, _SHARE)
            spent = before - budget.left
            if found.lower >= tree.goal:
                top *= next(stride for cost, stride in zip(_COSTS, _STRIDES, strict=True) if spent <= cost)
                if tree.dual.region.units > _MANY:
                    top = max(top, math.sqrt(tree.goal * max(min(tree.outlook, found.upper), 0.0)))
            elif not tree.open:  # only leaves are left below the goal: no radius makes them better
                break
            elif found.lower > _WORTH * top or budget.left < _SHARE:
                tree.run(budget, 1.0)
                found.lower = max(found.lower, tree.lower)
                top *= _STRIDES[-1]
            else:
                top = (found.lower + top) / 2

    def attempt(self, problem: Problem, row: int, swept: Sweep, place: int, found: Search, budget: Budget, share: float) -> Tree:
        """Branch and bound of sample `row`, whose bounds are `place` of the sweep, with a share of the budget; the radius is kept."""
        dual = Dual(region(problem.bounder, swept, place, margin_rows(problem.graph, problem.y[row : row + 1])[0]))
        if self.inner and not few(dual.region):
            dual = refined(dual, self.inner)
        found.pixels = dual.region.pixels
        budget.nodes -= len(dual.region.C)
        tree = Tree(dual, found, steps=self.steps, root_steps=self.root_steps, gap=self.gap, decide=problem.decide)
        tree.run(budget, share)
        found.lower = max(found.lower, tree.lower)
        return tree
