"""Square attack: random search over square-shaped changes, without gradients, l_inf and l2."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Problem, Role, margin
from isogrid.attacks.driver.kinds import FORWARD, FixedBudget
from isogrid.attacks.driver.parameters import choice, number, switch, whole
from isogrid.attacks.steps.region import Region
from isogrid.core.norms import LINF, NORMS, rows as per_row
from isogrid.core.random import Streams

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BLOCK = 64  # proposals drawn at a time: one hash and a few kernels for all of them
_PATIENT, _SETTLED = 80, 2000
_SMALLEST = 1e-12
_MIN_SIDE_L2 = 3


def share_of_pixels(query: int, share: float) -> float:
    """p at query number `query`: `share` at first, halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries.

    >>> share_of_pixels(10, 0.8), share_of_pixels(11, 0.8), share_of_pixels(5000, 0.8)
    (0.8, 0.4, 0.00625)
    """
    return share / 2.0 ** sum(query > limit for limit in _HALVINGS)


def expected_fall(query: int, prospect: float) -> float:
    """prospect * min(1, log(q / 80) / log(25)), 0 up to 80 queries: samples that a margin this far from 0 leaves behind are given up.

    Measured without it on the benchmark's networks, the least share of the clean margin that had fallen among samples broken later
    was 0.34, 0.56, 0.78 and 0.93 after 200, 500, 1,000 and 2,000 queries; with prospect 0.8 this asks for 0.23, 0.46, 0.63 and 0.80.
    """
    return prospect * min(1.0, max(0.0, math.log(query / _PATIENT) / math.log(_SETTLED / _PATIENT)))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Square(FixedBudget):
    r"""Random search: each query changes one square of the image to another corner of the ball and keeps the change if the margin falls.

    The square holds the share p of the pixels (`share` at first, halved on the published schedule, see `share_of_pixels`); in l_inf every
    channel of it is set to x - eps or x + eps; in l2 the energy of a second window moves into it. `queries` per sample, the start
    included; a sample leaves the batch once it is misclassified. Every sample has its own squares, so its result does not
    depend on its neighbours. A proposal that changes nothing costs no query to the model, but counts as one of `queries`.
    Samples [C, H, W] are images, [H, W] are images of one channel; flat tables [D] and other shapes are read as one column of
    elements in memory order, where a square is a contiguous block of p D elements.
    With `prospect` = c a sample also leaves where, after q > 80 queries, its margin has fallen by less than the share
    c * min(1, log(q / 80) / log(25)) of the clean one (see `expected_fall`). None, the default, spends all queries, as published.
    With `exhaustive` a misclassified sample goes on, to ever lower margins: what transfers to another model.

    `eps` > 0 in the units of x. Raises InputError for parameters out of range. Source: Andriushchenko et al. 2020, algorithms 1-3.
    Pitfall: it is there to expose gradient masking; on undefended networks it is weaker than PGD at the same budget.
    """

    name: ClassVar[str] = "square"
    role: ClassVar[Role] = "gradient-free"
    strength: ClassVar[Mapping[str, int]] = {"linf": 30}  # weaker than white-box attacks where gradients work: its own paper, table 3
    state_copies: ClassVar[int] = 8

    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    queries: int = whole(5000)
    share: float = number(0.8, 0, 1, low_open=True, high_open=False)
    prospect: float | None = number(None, 0, 1, low_open=True, high_open=False, otherwise="all queries", word="thrifty")
    exhaustive: bool = switch(False, "exhaustive")

    def expected_gradients(self) -> float:
        return FORWARD * self.queries

    def search(self, problem: Problem) -> Tensor:
        planes = as_planes(problem.x)
        moves: _Moves = (_Corners if problem.norm is LINF else _Energy)(
            region=Region.around(planes, _budget(problem), problem.norm, problem.domain)
        )
        clean = problem.x.new_zeros(problem.n) if self.prospect is None else margin(problem.logits(problem.x), problem.y)
        found, x = problem.x.clone(), moves.start(problem.streams)
        rows = torch.arange(problem.n, device=x.device)
        lowest = margin(problem.logits(x.view_as(problem.x)), problem.y)
        streams, draws = problem.streams, torch.empty(0)
        for query in range(1, self.queries):
            stay = lowest >= (-math.inf if self.exhaustive else 0)  # a tie is not misclassified yet
            if self.prospect is not None and query > _PATIENT and (query - 1) % _BLOCK == 0:
                stay &= lowest <= (1 - expected_fall(query, self.prospect)) * clean
            if not bool(stay.all()):
                found[rows[~stay]] = x[~stay].view(-1, *problem.x.shape[1:])
                rows, x, lowest, clean = (value[stay] for value in (rows, x, lowest, clean))
                moves, streams = moves.take(stay), streams.take(stay)
                draws = draws[stay] if len(draws) else draws
                if not len(rows):
                    return found
            if (query - 1) % _BLOCK == 0:
                draws = streams.uniform((len(rows), _BLOCK, moves.numbers), self.name, query, dtype=torch.float64)
            proposal, changed = moves.propose(x, share_of_pixels(query, self.share), draws[:, (query - 1) % _BLOCK])
            active = torch.nonzero(changed).squeeze(1)
            if not len(active):
                continue
            tried = proposal[active]
            value = margin(problem.logits(tried.view(-1, *problem.x.shape[1:]), rows[active]), problem.y[rows[active]])
            better = value < lowest[active]
            x[active[better]], lowest[active[better]] = tried[better], value[better].to(lowest.dtype)
        found[rows] = x.view(-1, *problem.x.shape[1:])
        return found


def as_planes(x: Tensor) -> Tensor:
    """Samples [B, *S] as planes [B, C, H, W]: [C, H, W] as it is, [H, W] with one channel, anything else as one column [1, D, 1]."""
    if x.dim() == 4:
        return x.contiguous()
    return x.reshape(len(x), 1, *x.shape[1:]) if x.dim() == 3 else x.reshape(len(x), 1, -1, 1)


def _budget(problem: Problem) -> Tensor:
    assert problem.budget is not None
    return problem.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moves(ABC):
    """Proposals for points [b, C, H, W] of `region`, each from `numbers` uniform numbers a row."""

    region: Region

    @property
    @abstractmethod
    def numbers(self) -> int:
        """How many uniform numbers a proposal takes."""

    @abstractmethod
    def start(self, streams: Streams) -> Tensor:
        """The first point of every row."""

    @abstractmethod
    def propose(self, x: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
        """New points [b, C, H, W], and which rows they differ in [b]."""

    @final
    def take(self, rows: Tensor) -> _Moves:
        return type(self)(region=self.region.take(rows))

    @final
    def sides(self, share: float, shortest: int) -> tuple[int, int]:
        """Height and width of a window with about `share` of the pixels."""
        height, width = self.region.center.shape[2:]
        if width == 1:
            return min(max(round(share * height), shortest), height), 1
        side = max(round(math.sqrt(share * height * width)), shortest)
        return min(side, height), min(side, width)

    @final
    def window(self, sides: tuple[int, int], draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index of one window a row, placed by two uniform numbers [b, 2]: broadcasts to [b, C, h, w]."""
        b, channels, height, width = self.region.center.shape
        device = draws.device
        top = (draws[:, 0] * (height - sides[0] + 1)).long().view(b, 1, 1, 1)
        left = (draws[:, 1] * (width - sides[1] + 1)).long().view(b, 1, 1, 1)
        return (
            torch.arange(b, device=device).view(b, 1, 1, 1),
            torch.arange(channels, device=device).view(1, channels, 1, 1),
            top + torch.arange(sides[0], device=device).view(1, 1, -1, 1),
            left + torch.arange(sides[1], device=device).view(1, 1, 1, -1),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Corners(_Moves):
    """l_inf: vertical stripes of -eps / +eps at the start, then squares of them."""

    @property
    def numbers(self) -> int:
        return 2 + self.region.center.shape[1]

    def start(self, streams: Streams) -> Tensor:
        b, channels, height, width = self.region.center.shape
        stripes = (b, channels, 1, width) if width > 1 else (b, channels, height, 1)
        return torch.where(streams.sign(stripes, "square", "start") > 0, self.region.high, self.region.low)

    def propose(self, x: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
        at = self.window(self.sides(share, 1), draws)
        up = draws[:, 2:, None, None] > 0.5
        new = torch.where(up, self.region.high[at], self.region.low[at])
        changed = (new != x[at]).flatten(1).any(1)
        proposal = x.clone()
        proposal[at] = new
        return proposal, changed


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Energy(_Moves):
    """l2: a grid of bumps at the start; then the energy of one window moves into another, shaped by a bump of random sign."""

    @property
    def numbers(self) -> int:
        return 5 + self.region.center.shape[1]

    def start(self, streams: Streams) -> Tensor:
        center = self.region.center
        b, channels, height, width = center.shape
        h, w = max(height // 5, 1), (max(width // 5, 1) if width > 1 else 1)
        rows, columns = height // h, width // w
        signs = streams.sign((b, channels, rows, columns), "square", "start", dtype=center.dtype)
        bumps = torch.kron(signs, bump(h, w, center))
        delta = torch.zeros_like(center)
        delta[:, :, : rows * h, : columns * w] = bumps
        return self._on_sphere(delta)

    def propose(self, x: Tensor, share: float, draws: Tensor) -> tuple[Tensor, Tensor]:
        center, norm = self.region.center, self.region.norm
        channels = center.shape[1]
        sides = self.sides(share, _MIN_SIDE_L2)
        sides = (sides[0] - (sides[0] % 2 == 0 and sides[0] > _MIN_SIDE_L2), sides[1] - (sides[1] % 2 == 0 and sides[1] > _MIN_SIDE_L2))
        to, source = self.window(sides, draws[:, :2]), self.window(sides, draws[:, 2:4])
        delta = x - center
        inside, total = delta[to], norm.size(delta).square()
        rest = delta.clone()
        rest[to] = 0
        rest[source] = 0
        energy = total - norm.size(rest).square()
        spare = (self.region.radius.square() - total).clamp_min(0)
        shape = bump(*sides, center)
        if sides[0] == sides[1]:
            shape = torch.where(per_row(draws[:, 4] > 0.5, center), shape, shape.mT)
        signs = torch.where(draws[:, 5:, None, None] > 0.5, 1.0, -1.0).to(center.dtype)
        new = shape * signs + inside / (_SMALLEST + _length(inside))
        new = new / (_SMALLEST + _length(new)) * per_row((spare + energy).clamp_min(0).div(channels).sqrt(), center)
        delta[source] = 0
        delta[to] = new
        proposal = self._on_sphere(delta)
        return proposal, (proposal != x).flatten(1).any(1)

    def _on_sphere(self, delta: Tensor) -> Tensor:
        region = self.region
        return region.domain.clip(region.center + region.norm.steepest(delta) * per_row(region.radius, delta))


def _length(window: Tensor) -> Tensor:
    """||window|| over height and width [b, C, 1, 1]."""
    return window.square().sum((-2, -1), keepdim=True).sqrt()


def bump(height: int, width: int, like: Tensor) -> Tensor:
    """A pattern [height, width] of unit l2 size: nested rectangles of weight 1 / k^2, positive in the upper half, negative in the lower."""

    def nested(h: int, w: int) -> Tensor:
        pattern = torch.zeros(h, w, dtype=like.dtype, device=like.device)
        for k in range(1, max(h // 2, w // 2) + 2):
            rows = slice(max(h // 2 + 1 - k, 0), h // 2 + k)
            columns = slice(max(w // 2 + 1 - k, 0), w // 2 + k)
            pattern[rows, columns] += 1.0 / k**2
        return pattern.div_(torch.linalg.vector_norm(pattern))

    upper = height // 2
    if not upper:
        return nested(height, width)
    whole = torch.cat([nested(upper, width), -nested(height - upper, width)])
    return whole.div_(torch.linalg.vector_norm(whole))


__all__ = ["Square", "as_planes", "bump", "share_of_pixels"]
