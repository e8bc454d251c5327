"""The loop that DDN and FMN share: gradient steps of annealed length around a radius that closes in on the decision boundary.

Each attack brings two rules: how the radius of a row follows its verdicts, and how a perturbation is placed on (or inside) the ball.
Here are the steps, the record of the closest adversarial point, and the moment at which a row leaves. What does not belong here:
schedules (`schedules`), a rule that only one attack has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Domain, Loss, Problem, margin
from isogrid.attacks.steps.geometry import least_move, shrink
from isogrid.attacks.steps.losses import log_odds_slope
from isogrid.attacks.steps.schedules import Plan
from isogrid.core.norms import L2, rows as per_row

FIRST_GROWTH, GROWTH, GROWTH_CAP = 0.05, 1.1, 1.0
"""Before the first success a radius grows by FIRST_GROWTH, a share that multiplies by GROWTH at each failure, up to doubling. At 1.3 the
radius outran the search for a direction: on a ResNet, l_inf distances ended 17 % longer."""
NO_GRADIENT_RADIUS = 0.02
"""Where the gradient is exactly zero, the radius starts at that of a move by this much in every element."""
STREAK, STREAK_CAP = 1.5, 0.3
"""A radius shrinks by a share that multiplies by STREAK at each further success in a row: a first success far beyond the boundary (four
times too far in l_inf on one ResNet digit in ten) would otherwise use up all steps on the way back."""
SHORTER = 0.93
"""Before the first success the step's share of the radius multiplies by this at each failure: a radius that has grown to the box's own
size would otherwise send every step to one of its corners."""
RESTART, AGAIN = 20, 10
"""A row without a success after RESTART steps goes on from a random point of the box, and after every AGAIN steps more from another one:
growth alone finds nothing where the gradient is zero, or points along a ray that never leaves the class."""
FREE_REACH = 4.0
"""The free domain is searched up to this many box sizes ||high - low|| from x. Without a limit a radius that doubles at each failure ends
at 1e20, and one such success ruins every mean; what lies farther is a failure, and counted as one."""
STUCK = 5
"""Steps after which a row without a success is steered along the faces of the box."""
ON_FACE = 1e-6
"""An element this share of the box's width from a face lies on it: what is left is the rounding of x + (point - x)."""
_TINY, _FLAT = 1e-30, 1e-18


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What a radius rule sees of the active rows, [b] each.

    radius: so far; size: of this perturbation; best: the closest success so far (inf: none); adversarial: this point is; margin: of
    the logits that the loss sees; steepness: the dual norm of its gradient; gamma: by the schedule; failures: steps without a success;
    streak: successes in a row, this one included.
    """

    radius: Tensor
    size: Tensor
    best: Tensor
    adversarial: Tensor
    margin: Tensor
    steepness: Tensor
    gamma: Tensor | float
    failures: Tensor
    streak: Tensor

    @property
    def shrinkage(self) -> Tensor:
        """The share by which the radius of a row that is adversarial shrinks."""
        return (self.gamma * STREAK ** (self.streak - 1)).clamp(max=STREAK_CAP)

    @property
    def found(self) -> Tensor:
        """bool [b]: some point of this row was adversarial."""
        return torch.isfinite(self.best)

    @property
    def gap(self) -> Tensor:
        """The distance from this point to the boundary as linearised here."""
        return self.margin.abs() / self.steepness.clamp_min(_TINY)

    @property
    def growth(self) -> Tensor:
        """The share by which the radius of a row without a success deserves to grow."""
        return (FIRST_GROWTH * GROWTH**self.failures).clamp(max=GROWTH_CAP)


RadiusRule = Callable[[Verdicts], Tensor]
PlaceRule = Callable[[Tensor, Tensor, Tensor, Domain], Tensor]
"""(x [b, n], perturbation [b, n], radius [b], domain) -> x + the perturbation as placed, a point of the domain [b, n]; it may be written
into the perturbation's memory."""


@dataclass(slots=True, kw_only=True)
class _Active:
    """The rows still at work; every field has one entry a row."""

    rows: Tensor
    x: Tensor
    point: Tensor
    radius: Tensor
    worst: Tensor
    cycle: Tensor
    clock: Tensor
    failures: Tensor
    streak: Tensor
    before: Tensor

    @classmethod
    def all(cls, problem: Problem, start: float | None) -> _Active:
        x, box = problem.x.flatten(1), problem.domain
        none = torch.zeros(problem.n, dtype=x.dtype, device=x.device)
        size = problem.norm.size
        corner = none + FREE_REACH * size(torch.full_like(x[:1], box.high - box.low))
        return cls(
            rows=torch.arange(problem.n, device=x.device),
            x=x,
            point=x.clone(),
            radius=none if start is None else none + start,
            worst=corner if box.name == "free" else size(torch.maximum(box.high - x, x - box.low)),
            cycle=none.clone(),
            clock=none.clone(),
            failures=none.clone(),
            streak=none.clone(),
            before=torch.full_like(none, math.inf),
        )

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows, at once: one that stayed would go on, and be charged, for as long as its neighbours need."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])

    def index(self, problem: Problem) -> Tensor | None:
        """The rows, or None while they are all rows of the problem: copies by index cost more than small arithmetic."""
        return None if len(self.rows) == problem.n else self.rows


def tempered(scale: Tensor) -> Loss:
    """The slope of the log-odds of the logits times `scale` [b]: with the scale near a row's own (sharpness / clean margin), attacks that
    steer by it do not depend on the unit of the logits. Pitfall: the plain cross-entropy of a network with logits a tenth as large misled
    DDN to distances 17 % longer, and one with logits ten times as large (where it saturates too) 26 %."""

    def slope(logits: Tensor, y: Tensor) -> Tensor:
        unit = scale[:, None]
        return log_odds_slope(logits * unit, y).mul_(unit)

    return slope


@dataclass(slots=True, kw_only=True)
class _Record:
    """Of every row of the problem: the closest success (its size, perturbation, margin), the clean margin, the scale of its logits."""

    size: Tensor
    delta: Tensor
    margin: Tensor
    clean: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, x: Tensor) -> _Record:
        ones = torch.ones_like(x[:, 0])
        return cls(size=torch.full_like(ones, math.inf), delta=torch.zeros_like(x), margin=-ones, clean=ones, scale=ones.clone())

    def best(self, rows: Tensor | None) -> Tensor:
        """The closest successes of these rows."""
        return self.size if rows is None else self.size[rows]

    def offer(self, rows: Tensor | None, delta: Tensor, size: Tensor, margin: Tensor, adversarial: Tensor) -> None:
        """Keep what is adversarial and closer than before."""
        closer = torch.nonzero(adversarial & (size < self.best(rows))).squeeze(1)
        if len(closer):
            where = closer if rows is None else rows[closer]
            for mine, value in ((self.size, size), (self.delta, delta), (self.margin, margin)):
                mine.index_copy_(0, where, value.index_select(0, closer))  # at less than half the cost of mine[where] = value[closer]


def anneal(
    problem: Problem,
    plan: Plan,
    *,
    radius: RadiusRule,
    place: PlaceRule,
    slope: Loss,
    steps: int,
    tolerance: float,
    sharpness: float | None,
    start: float | None,
) -> Tensor:
    """Candidates [B, *S]: the closest adversarial point of each row, or its clean sample where none was met.

    `steps`: at most that many gradients a row. `start`: the first radius in units of the box's width (None: the distance to the boundary
    as linearised at x). `slope`: that of the loss in the logits as they are. A converging plan puts `tempered` log-odds in its place,
    unless `sharpness`, the clean margin that logits are scaled to, times `Plan.focus`, is None; it lets a row leave once a cycle
    shortened its distance by less than the share `tolerance`, steers rows that faces of the box hold up, starts lost ones anew from
    random points, and shrinks what it found onto the boundary.
    """
    sharpness = sharpness if plan.converging else None
    width = problem.domain.high - problem.domain.low
    live, record = _Active.all(problem, None if start is None else start * width), _Record.empty(problem.x.flatten(1))
    least = least_move(problem) * problem.norm.size(torch.ones_like(live.x[:1]))  # at a tie the linearised boundary is at distance 0
    for step in range(steps):
        rows = live.index(problem)
        y, scale = (problem.y, record.scale) if rows is None else (problem.y[rows], record.scale[rows])
        if sharpness is not None:
            scale = scale * plan.focus(live.cycle, live.clock)
        point = live.point.view(-1, *problem.x.shape[1:])
        problem.progress(step / plan.leaky_steps)
        last = step == steps - 1
        if step == 0:
            logits, gradient = _first_gradient(problem, point, record, slope, sharpness)
            scale = record.scale  # the first radius is read off the loss at the sharpness itself
        elif last:
            logits = problem.logits(point, rows)  # nothing would follow a gradient here
        else:
            logits, gradient = problem.pull_back(point, slope if sharpness is None else tempered(scale), rows)
        gap, wrong = margin(logits, y), logits.argmax(1) != y
        # the point becomes the perturbation and, in `_move`, the next point, all in one buffer: such passes are what this loop costs
        # beside the model. From here on `logits` may be gone: a model may hand out a view of its input
        delta = live.point.sub_(live.x)
        size = problem.norm.size(delta)
        adversarial = wrong & (gap <= 0) & (size > 0)
        record.offer(rows, delta, size, gap, adversarial)
        if last:
            break
        gradient = gradient.flatten(1)
        length, gamma = plan.at(live.cycle, live.clock, step)
        live.streak = (live.streak + 1 if plan.converging else 1) * adversarial
        seen = Verdicts(
            radius=live.radius,
            size=size,
            best=record.best(rows),
            adversarial=adversarial,
            margin=gap if sharpness is None else scale * gap,
            steepness=problem.norm.dual_size(gradient),
            gamma=gamma,
            failures=live.failures,
            streak=live.streak,
        )
        if plan.converging:
            length = length * torch.where(seen.found, 1.0, SHORTER**live.failures)
        live.radius = torch.maximum(seen.gap, least) if step == 0 and start is None else radius(seen)
        if plan.converging and problem.domain.name == "box" and step >= STUCK and not bool(seen.found.all()):
            gradient = _free_stuck(problem, live.x + delta, gradient, seen)
        _move(problem, plan, live, gradient, seen.steepness, length, place, step)
        if plan.converging:
            if step + 1 >= RESTART and (step + 1) % AGAIN == 0:
                _restart(problem, live, seen.found, step)
            if not _turn(plan, live, seen.found, record, tolerance):
                break
    return _candidates(problem, plan, record)


def _candidates(problem: Problem, plan: Plan, record: _Record) -> Tensor:
    """The closest successes as points of the domain, shrunk onto the boundary where the schedule is ours."""
    x_adv = problem.domain.clip(problem.x + record.delta.view_as(problem.x))
    met = torch.nonzero(torch.isfinite(record.size)).squeeze(1)
    if plan.converging and len(met):
        x_adv[met] = shrink(problem, x_adv[met], met, record.clean[met], record.margin[met])
    return x_adv


def _first_gradient(problem: Problem, point: Tensor, record: _Record, slope: Loss, sharpness: float | None) -> tuple[Tensor, Tensor]:
    """Logits and gradient at the clean samples; the clean margins and the scales come out of the same forward pass."""

    def first(logits: Tensor, y: Tensor) -> Tensor:
        record.clean = margin(logits, y)
        if sharpness is None:
            return slope(logits, y)
        floor = logits.gather(1, y[:, None]).squeeze(1).abs() * problem.unit + _TINY
        record.scale = sharpness / torch.maximum(record.clean, floor)
        return tempered(record.scale)(logits, y)

    return problem.pull_back(point, first)


def _free_stuck(problem: Problem, point: Tensor, gradient: Tensor, seen: Verdicts) -> Tensor:
    """The gradient, for rows without a success 0 where it pushes an element of `point` against a face of the box that it lies on.

    A step spent against faces leaves nothing for the elements that can still move: FMN l2 stalls there for good.
    """
    stuck = torch.nonzero(~seen.found).squeeze(1)
    point, pushes, box = point[stuck], gradient[stuck], problem.domain
    near = ON_FACE * (box.high - box.low)
    pushes = pushes.clamp_(torch.where(point > box.low + near, -torch.inf, 0), torch.where(point < box.high - near, torch.inf, 0))
    gradient = gradient.clone()
    gradient[stuck], seen.steepness[stuck] = pushes, problem.norm.dual_size(pushes)
    return gradient


def _move(
    problem: Problem,
    plan: Plan,
    live: _Active,
    gradient: Tensor,
    steepness: Tensor,
    length: Tensor | float,
    place: PlaceRule,
    step: int,
) -> None:
    """Turn the perturbations in `live.point` into the next points: one step along the gradient, placed at the new radius.

    A row without a gradient takes a random direction of its own stream.
    """
    norm = problem.norm
    flat = torch.nonzero(~(steepness > _FLAT)).squeeze(1)
    if len(flat):
        direction = norm.steepest(gradient[flat])  # what is tiny, but not zero, still has a direction
        lost = direction.abs().amax(1) == 0
        noise = problem.streams.take(live.rows[flat][lost]).normal(
            (int(lost.sum()), gradient.shape[1]), "no gradient", step, dtype=gradient.dtype
        )
        direction[lost] = norm.steepest(noise)
        gradient = gradient.clone()  # it is autograd's
        gradient[flat], steepness[flat] = direction, norm.dual_size(direction)
        least = NO_GRADIENT_RADIUS * norm.size(torch.ones_like(live.x[:1]))
        live.radius[flat[lost]] = torch.maximum(live.radius[flat[lost]].nan_to_num(0, 0, 0), least)
    live.radius = torch.minimum(live.radius, live.worst)
    if not plan.converging:
        width = problem.domain.high - problem.domain.low
        scale = length * width / (steepness if norm is L2 else L2.size(gradient))
    elif norm is L2:
        scale = length * live.radius / steepness
    else:
        gradient, scale = norm.steepest(gradient), length * live.radius
    live.point = place(live.x, live.point.addcmul_(gradient, per_row(scale, gradient)), live.radius, problem.domain)
    live.failures += 1


def _restart(problem: Problem, live: _Active, found: Tensor, step: int) -> None:
    """Put the rows without a success at random points of the box, each from its own stream; the radius starts there, too."""
    lost = torch.nonzero(~found).squeeze(1)
    if len(lost) == 0:
        return
    shape, box = (len(lost), live.x.shape[1]), problem.domain
    share = problem.streams.take(live.rows[lost]).uniform(shape, "restart", step, dtype=live.x.dtype)
    live.point[lost] = box.low + (box.high - box.low) * share
    live.radius[lost] = problem.norm.size(live.point[lost] - live.x[lost])
    live.failures[lost] = 0


def _turn(plan: Plan, live: _Active, found: Tensor, record: _Record, tolerance: float) -> bool:
    """Advance the clocks of the rows with a success; where a cycle ends, the row leaves or goes on from its best point. False: all left."""
    live.clock += found
    over = live.clock >= torch.where(live.cycle == 0, plan.length[0], plan.length[1])
    ended = torch.nonzero(over).squeeze(1)
    if len(ended) == 0:
        return True
    size = record.size[live.rows[ended]]
    leaves = size >= live.before[ended] * (1 - tolerance)
    live.before[ended], live.radius[ended] = size, size
    live.point[ended] = live.x[ended] + record.delta[live.rows[ended]]
    live.cycle[ended] += 1
    live.clock[ended] = live.streak[ended] = 0
    if bool(leaves.any()):
        stay = torch.ones_like(over)
        stay[ended[leaves]] = False
        live.keep(torch.nonzero(stay).squeeze(1))
    return len(live.rows) > 0
