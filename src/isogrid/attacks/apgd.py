"""Auto-PGD: projected gradient ascent that sets its own step size, in the versions APGD-CE, APGD-DLR and APGD-T."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Loss, Problem, Role
from isogrid.attacks.driver.kinds import SPENT, FixedBudget
from isogrid.attacks.driver.parameters import choice, number, switch, whole
from isogrid.attacks.steps.losses import LOSSES, targeted_dlr
from isogrid.attacks.steps.region import Region
from isogrid.core.norms import NORMS, rows as per_row

MOMENTUM = 0.75
"""alpha of the paper: the share of the new step, the rest repeats the one before."""
RISES = 0.75
"""rho of the paper: fewer rises than this share of a window's steps halve the step size."""
_FIRST, _SHRINK, _SHORTEST = 0.22, 0.03, 0.06


def checkpoints(steps: int) -> list[int]:
    """The iterations at which step sizes are judged: p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), p_0 = 0, p_1 = 0.22, times `steps`.

    Windows are whole iterations, as in the authors' code. Source: Croce & Hein 2020, section 3.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    window, shrink, shortest = (max(int(share * steps), 1) for share in (_FIRST, _SHRINK, _SHORTEST))
    found, at = [], window
    while at <= steps:
        found.append(at)
        window = max(window - shrink, shortest)
        at += window
    return found


@dataclass(slots=True, kw_only=True)
class _Runs:
    """The state of the runs that still climb, one row a run; `owner` [b] is the sample, `run` [b] the run's number."""

    owner: Tensor
    run: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    value: Tensor
    top: Tensor
    mark: Tensor
    needed: Tensor
    stride: Tensor
    rises: Tensor
    reduced: Tensor

    def take(self, stay: Tensor) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[stay])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How long runs go on; `needed` of a run is its loss at the clean sample, 0 where that says nothing."""

    steps: int
    prospect: float | None
    exhaustive: bool

    def hopeless(self, runs: _Runs, t: int) -> Tensor:
        """bool [b]: runs that climbed less than the share min(prospect, 2 t / steps) of the way from the clean loss to 0."""
        share = 0.0 if self.prospect is None else min(self.prospect, 2 * t / self.steps)
        return (runs.top < (1 - share) * runs.needed) & (runs.needed < 0)


@dataclass(slots=True, kw_only=True)
class _Found:
    """Per sample: the best candidate so far, whether it is misclassified, and its loss (inf where a misclassified one ends the search)."""

    x: Tensor
    top: Tensor
    broken: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> _Found:
        """Before any candidate for the samples `x` [B, *S]."""
        return cls(x=x.clone(), top=x.new_full((len(x),), -math.inf), broken=torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def offer(self, owner: Tensor, x: Tensor, value: Tensor, *, wrong: bool) -> None:
        """Take over what is better, misclassified ones (`wrong`) first; of several runs of one sample the best, of equals the first
        (`owner` is sorted)."""
        if wrong:
            fresh = owner[~self.broken[owner]]
            self.top[fresh], self.broken[fresh] = -math.inf, True
        elif bool(self.broken.any()):
            able = ~self.broken[owner]
            owner, x, value = owner[able], x[able], value[able]
        before = self.top[owner]
        self.top.scatter_reduce_(0, owner, value, "amax")
        wins = (value > before) & (value == self.top[owner])
        chosen = torch.nonzero(wins).squeeze(1)
        names = owner[chosen]
        first = torch.ones_like(names, dtype=torch.bool)
        first[1:] = names[1:] != names[:-1]
        self.x[names[first]] = x[chosen[first]]


def _climb(
    problem: Problem, owner: Tensor, x: Tensor, losses: Callable[[Tensor], Loss], plan: _Plan, found: _Found, clean: Tensor | None
) -> None:
    """Runs from `x` [b, *S], run i for the sample owner[i] (sorted) under the loss losses(i); outcomes go to `found`.

    All runs of a sample leave at the first misclassified iterate of any of them, unless `plan.exhaustive`. `clean` [b, C]: logits at
    the clean samples, wanted where `plan.prospect` is set.
    """
    region = Region.of(problem).take(owner)
    steps, checks, past = plan.steps, checkpoints(plan.steps), 0
    runs = _start(region, owner, x)
    if clean is not None:
        runs.needed = losses(runs.run)(clean, problem.y[owner]).to(x.dtype)
    for t in range(steps + 1):
        loss = losses(runs.run)
        problem.progress(t / steps)
        if t < steps:
            z, value, gradient = problem.gradient(runs.x, loss, runs.owner)
            runs.gradient = gradient
        else:
            z = problem.logits(runs.x, runs.owner)
            value = loss(z, problem.y[runs.owner])
        value = value.to(runs.x.dtype)
        runs.rises += value > runs.value
        runs.value = value
        out = z.argmax(1) != problem.y[runs.owner]
        if plan.exhaustive:
            found.offer(runs.owner[out], runs.x[out], value[out], wrong=True)
        elif bool(out.any()):
            found.offer(runs.owner[out], runs.x[out], torch.full_like(value[out], math.inf), wrong=True)
            region = _leave(runs, region, found.broken[runs.owner])
            if not len(runs.owner):
                return
        better = torch.nonzero(runs.value > runs.top).squeeze(1)
        runs.top[better], runs.best[better], runs.best_gradient[better] = runs.value[better], runs.x[better], runs.gradient[better]
        if t == steps:
            break
        if t in checks:
            _judge(runs, t - past)
            past = t
            hopeless = plan.hopeless(runs, t)
            if bool(hopeless.any()):
                found.offer(runs.owner[hopeless], runs.best[hopeless], runs.top[hopeless], wrong=False)
                region = _leave(runs, region, hopeless)
                if not len(runs.owner):
                    return
        _advance(runs, region, MOMENTUM if t else 1.0)
    found.offer(runs.owner, runs.best, runs.top, wrong=False)


def _start(region: Region, owner: Tensor, x: Tensor) -> _Runs:
    n, zeros = len(owner), torch.zeros_like(x)
    lowest = x.new_full((n,), -math.inf)
    return _Runs(
        owner=owner,
        run=torch.arange(n, device=x.device),
        x=x,
        before=x,
        gradient=zeros,
        best=x.clone(),
        best_gradient=zeros.clone(),
        value=x.new_full((n,), math.inf),
        top=lowest,
        mark=lowest.clone(),
        needed=torch.zeros_like(lowest),
        stride=2 * region.radius,
        rises=torch.zeros(n, dtype=torch.int64, device=x.device),
        reduced=torch.ones(n, dtype=torch.bool, device=x.device),
    )


def _leave(runs: _Runs, region: Region, gone: Tensor) -> Region:
    stay = torch.nonzero(~gone).squeeze(1)
    runs.take(stay)
    return region.take(stay)


def _judge(runs: _Runs, window: int) -> None:
    """Halve the step size of runs that oscillate or stall and send them back to their best point."""
    stalled = ~runs.reduced & (runs.mark >= runs.top)
    halve = (runs.rises <= RISES * window) | stalled
    runs.reduced, runs.mark = halve, runs.top.clone()
    runs.rises.zero_()
    back = torch.nonzero(halve).squeeze(1)
    runs.stride[back] /= 2
    runs.x = runs.x.index_copy(0, back, runs.best[back])
    runs.gradient[back] = runs.best_gradient[back]


def _advance(runs: _Runs, region: Region, share: float) -> None:
    """z = P(x + s d); x+ = P(x + share (z - x) + (1 - share) (x - x-))."""
    x = runs.x
    z = region.project(torch.addcmul(x, region.norm.steepest(runs.gradient), per_row(runs.stride, x)))
    if share < 1:
        z = region.project(torch.lerp(x.mul(2).sub_(runs.before), z, share))
    runs.before, runs.x = x, z


@dataclass(frozen=True, slots=True, kw_only=True)
class APGD(FixedBudget):
    r"""Auto-PGD under l_inf or l2: momentum, and a step size per sample, 2 eps at first, halved at checkpoints where it oscillates.

    z = P(x_t + s grad), x_{t+1} = P(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1})). At each of `checkpoints(steps)` a run whose loss rose
    in less than 75 % of the window's steps, or whose best loss and step size both stood still, halves s and returns to its best point.
    A sample leaves the batch once it is misclassified. With `prospect` = c a run also ends at a checkpoint t where its best loss has
    climbed less than the share min(c, 2 t / steps) of the way from the clean sample's loss to 0 (a positive loss is necessary to be
    misclassified). None, the default, runs all steps, as published. With `exhaustive` no sample leaves when it is misclassified; of
    its misclassified iterates the one of the highest loss counts, of all where none is: what transfers to another model.

    `eps` > 0 in the units of x, `steps` iterations for each of `restarts` random starts. Raises InputError for parameters out of
    range. Source: Croce & Hein 2020, algorithm 1.
    Pitfall: the number of queries differs from sample to sample; compare `forwards`, not `steps`.
    """

    role: ClassVar[Role] = "strong"
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 14

    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    steps: int = whole(100)
    restarts: int = whole(1)
    prospect: float | None = number(None, 0, 1, low_open=True, high_open=False, otherwise="all steps", word="thrifty")
    exhaustive: bool = switch(False, "exhaustive")
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    @final
    def search(self, problem: Problem) -> Tensor:
        found = _Found.nothing(problem.x)
        for restart in range(self.restarts):
            alive = torch.nonzero(self._open(found)).squeeze(1)
            if not len(alive):
                break
            self._round(problem, alive, restart, found)
        return found.x

    @abstractmethod
    def _round(self, problem: Problem, alive: Tensor, restart: int, found: _Found) -> None:
        """One restart on the samples `alive`."""

    def _plan(self) -> _Plan:
        return _Plan(steps=self.steps, prospect=self.prospect, exhaustive=self.exhaustive)

    def _open(self, found: _Found) -> Tensor:
        """bool [B]: the samples that further runs may improve."""
        return torch.ones_like(found.broken) if self.exhaustive else ~found.broken

    def _untargeted(self, problem: Problem, alive: Tensor, restart: int, loss: Loss, found: _Found) -> None:
        """One run of each of the samples `alive`."""
        clean = None if self.prospect is None else problem.logits(problem.x[alive], alive)
        _climb(problem, alive, self._points(problem, alive, restart), lambda _: loss, self._plan(), found, clean)

    def _points(self, problem: Problem, owner: Tensor, *purpose: object) -> Tensor:
        """A start on the surface of each ball, clipped to the domain, from the sample's own stream."""
        return Region.of(problem).take(owner).random(problem.streams.take(owner), self.name, *purpose, surface=True)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class APGDCE(APGD):
    """APGD on the cross-entropy, in the log-odds form that does not saturate. See `APGD`."""

    name: ClassVar[str] = "apgd-ce"
    strength: ClassVar[Mapping[str, int]] = {"linf": 50}  # the APGDs in the order of Croce & Hein 2020, tables 1 and 2

    def expected_gradients(self) -> float:
        return SPENT * self.steps * self.restarts

    def _round(self, problem: Problem, alive: Tensor, restart: int, found: _Found) -> None:
        self._untargeted(problem, alive, restart, LOSSES["ce"], found)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class APGDDLR(APGD):
    """APGD on the difference of logits ratio; with two classes, where the ratio is not defined, on the margin. See `APGD` and `dlr`."""

    name: ClassVar[str] = "apgd-dlr"
    strength: ClassVar[Mapping[str, int]] = {"linf": 60}

    def expected_gradients(self) -> float:
        return SPENT * self.steps * self.restarts

    def _round(self, problem: Problem, alive: Tensor, restart: int, found: _Found) -> None:
        self._untargeted(problem, alive, restart, LOSSES["dlr"], found)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, towards each of the `targets` classes of the highest clean logits.

    The best target of a sample, by logit gap, is tried alone, then all others of the samples that it left unbroken side by side: that
    changes no run, and a sample leaves with the first of its runs that breaks it. With fewer than four classes the ratio is
    not defined and the targeted margin takes its place. See `APGD`. Source: Croce & Hein 2020, section 4.
    """

    name: ClassVar[str] = "apgd-t"
    strength: ClassVar[Mapping[str, int]] = {"linf": 70}

    targets: int = whole(9)

    def expected_gradients(self) -> float:
        return SPENT * self.steps * self.restarts * self.targets

    def _round(self, problem: Problem, alive: Tensor, restart: int, found: _Found) -> None:
        z = problem.logits(problem.x[alive], alive)
        others = z.scatter(1, problem.y[alive][:, None], -math.inf)
        classes = others.topk(min(self.targets, z.shape[1] - 1), 1).indices
        self._towards(problem, alive, z, classes[:, :1], 0, restart, found)
        rest = classes.shape[1] - 1
        if not rest:
            return
        size = max(1, problem.room // rest)
        left = torch.nonzero(self._open(found)[alive]).squeeze(1)
        for part in torch.split(left, size):
            self._towards(problem, alive[part], z[part], classes[part, 1:], 1, restart, found)

    def _towards(self, problem: Problem, samples: Tensor, z: Tensor, classes: Tensor, rank: int, restart: int, found: _Found) -> None:
        """Runs of each sample [b], clean logits `z` [b, C], towards each of its `classes` [b, K], ranked from `rank` on."""
        k = classes.shape[1]
        owner, target = samples.repeat_interleave(k), classes.flatten()
        starts = [self._points(problem, samples, restart, rank + j) for j in range(k)]
        x = torch.stack(starts, 1).flatten(0, 1)
        clean = None if self.prospect is None else z.repeat_interleave(k, 0)
        _climb(problem, owner, x, lambda run: targeted_dlr(target[run]), self._plan(), found, clean)
