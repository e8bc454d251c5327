"""The set of inputs that a bound holds for: a ball in l2 or linf, cut by the box where there is one. Not here: networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.core.norms import L2, Norm, rows as per_row

_STEPS: Final = 6  # fixed-point steps for the multiplier of a ball within a box; any value of it gives a bound
_STEPS_MOST: Final = 40  # of the search for a critical radius
_TINY: Final = 1e-30  # stands for zero in a denominator
_FAR: Final = 1e30
_NEWTON: Final = 5  # steps from a guess
_ENTRIES: Final = 2**17  # coefficients worked on at once
_CLOSE: Final = {torch.float64: 1e-7, torch.float32: 2e-6}  # relative length of a step, below which it is left


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ball:
    r"""{ x' : ||x' - x||_p <= radius, low <= x' <= high } per sample: x [B, *S] and radius [B] in one type.

    low = -inf and high = inf where the domain is free. A sample that lies outside the limits by rounding widens them for itself.
    """

    x: Tensor
    radius: Tensor
    norm: Norm
    low: float = -math.inf
    high: float = math.inf

    @property
    def free(self) -> bool:
        """No box."""
        return math.isinf(self.low)

    def at(self, radius: Tensor) -> Ball:
        """The same around the same samples, of other radii [B]."""
        return replace(self, radius=radius)

    def released(self) -> Ball:
        """The same without the box."""
        return replace(self, low=-math.inf, high=math.inf)

    def take(self, rows: Tensor | slice) -> Ball:
        """The sets of some samples."""
        return replace(self, x=self.x[rows], radius=self.radius[rows])

    def room(self) -> tuple[Tensor, Tensor]:
        """How far each input may move down and up [B, n], infinite where the domain is free."""
        x = self.x.flatten(1)
        return (x - self.low).clamp_min(0), (self.high - x).clamp_min(0)

    def reach(self) -> Tensor:
        """The radius [B] from which on a ball holds the whole domain; infinite where it is free."""
        down, up = self.room()
        return self.norm.size(torch.maximum(down, up))

    def hull(self) -> tuple[Tensor, Tensor]:
        """The smallest box [B, *S] around the set."""
        limit = per_row(self.radius, self.x)
        down, up = (room.view_as(self.x) for room in self.room())
        return self.x - torch.minimum(limit, down), self.x + torch.minimum(limit, up)

    def lowest(self, A: Tensor) -> Tensor:
        """min <A, x'> over the set for each row of A [B, R, n] -> [B, R]; for an l2 ball cut by a box a bound below it (`drop`)."""
        return self.centre(A) - self.drop(A, self.radius[:, None].expand(A.shape[:2]))[0]

    def centre(self, A: Tensor) -> Tensor:
        """<A, x> [B, R]."""
        return torch.einsum("brn,bn->br", A, self.x.flatten(1))

    def drop(self, A: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        r"""(max <-A, d> over the perturbations d of size `radius` [B, R], its derivative in the radius), both [B, R].

        Exact but for an l2 ball cut by a box. There it is the dual value sum_i max_{d_i in the box} (-A_i d_i - lam/2 d_i^2) + lam/2
        radius^2 at a lam >= 0 from a few fixed-point steps, an upper bound for any lam, and never above the smaller of the ball's
        and the box's own.
        """
        return self._along(A, radius, points=False)[:2]

    def least(self, A: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`drop`, its derivative, and where <A, x'> is least or nearly so: inputs [B, R, n] in the set, at about `radius`."""
        return self._along(A, radius, points=True)

    def _along(self, A: Tensor, radius: Tensor, *, points: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self.free:
            slope = A.norm(dim=2) if self.norm is L2 else A.abs().sum(2)
            return radius * slope, slope, self.point(A, radius) if points else A
        (down, up), found = self.room(), []
        samples, rows = _at_once(*A.shape)
        for some in (slice(i, i + samples) for i in range(0, max(1, len(A)), samples)):
            for part in (slice(i, i + rows) for i in range(0, max(1, A.shape[1]), rows)):
                value, slope, step = _drop_in_box(self.norm, down[some, None], up[some, None], A[some, part], radius[some, part])
                found.append((value, slope, step if points else value))
        value, slope, step = (torch.cat([one.flatten() for one in side]) for side in zip(*found, strict=True))
        shape = A.shape[:2]
        at = self.x.flatten(1)[:, None] - A.sign() * step.view(A.shape) if points else A
        return value.view(shape), slope.view(shape), at

    def point(self, A: Tensor, radius: Tensor) -> Tensor:
        """Where the drop of each row is reached, or nearly so: inputs [B, R, n] in the set, at distance `radius` [B, R] at most."""
        x, down, up = self.x.flatten(1)[:, None], *(room[:, None] for room in self.room())
        room, size = torch.where(A > 0, down, up), A.abs()
        if self.norm is not L2:
            step = torch.minimum(room, radius[:, :, None])
        elif self.free:
            step = size * (radius / A.norm(dim=2).clamp_min(_TINY))[:, :, None]
        else:
            step = _cut(size, room, radius)[2]
            step = step * (radius / step.norm(dim=2).clamp_min(_TINY)).clamp_max(1)[:, :, None]
        found: Tensor = x - A.sign() * step
        return found

    def critical(
        self, A: Tensor, value: Tensor, curve: Tensor | float = 0.0, slant: Tensor | float = 0.0, guess: Tensor | None = None
    ) -> Tensor:
        r"""The largest r >= 0 with value + <A, x> - drop(A, r) - slant r - curve r^2 >= 0, per row [B, R].

        Where it is not positive at r = 0, the radius that it lacks, below 0 and linear in the height; infinite where nothing makes it
        negative (in a box: from `reach` on the ball is the domain). From below: what is returned fulfils the inequality up to float64's
        rounding. `guess` [B, R]: in a box, a few of Newton's steps from there instead of the whole search.
        """
        height = value + self.centre(A)
        slope = self.released().drop(A, torch.ones_like(height))[0] + slant
        top = height.clamp_min(0)
        root = 2 * top / (slope + (slope.square() + 4 * curve * top).sqrt())
        lacking = (height / slope.clamp_min(_TINY)).clamp(-_FAR, -_TINY)
        root = torch.where(height > 0, torch.where(slope + curve > 0, root, math.inf), lacking)
        if self.free:
            return root
        return self._boxed(A, height, curve, slant, root) if guess is None else self._near(A, height, curve, slant, root, guess)

    def _near(self, A: Tensor, height: Tensor, curve: Tensor | float, slant: Tensor | float, root: Tensor, guess: Tensor) -> Tensor:
        """`critical` in a box from below, by Newton's steps from `guess`: the largest of the radii tried that fulfil the inequality."""
        whole, close = self.reach()[:, None].expand_as(height), _CLOSE[height.dtype]
        low, radius = torch.zeros_like(height), torch.minimum(guess.clamp_min(0), whole)
        for _ in range(_NEWTON):
            drop, slope = self.drop(A, radius)
            left = height - drop - slant * radius - curve * radius.square()
            low = torch.where(left >= 0, torch.maximum(low, radius), low)
            step = left / (slope + slant + 2 * curve * radius).clamp_min(_TINY)
            radius = torch.minimum((radius + step - close * torch.where(left >= 0, step, radius)).clamp_min(0), whole)
        return torch.where(height > 0, torch.where(low >= whole, math.inf, low), root)

    def _boxed(self, A: Tensor, height: Tensor, curve: Tensor | float, slant: Tensor | float, root: Tensor) -> Tensor:
        """`critical` in a box: Newton's steps from the free domain's `root`, which is too large by rounding at most.

        What is left of the height is convex and falls with the radius, so that steps from below stay below.
        """
        whole, close = self.reach()[:, None].expand_as(height), _CLOSE[height.dtype]
        low, radius = torch.zeros_like(height), torch.minimum(root.clamp_min(0), whole)
        done = height <= 0
        for _ in range(_STEPS_MOST):
            drop, slope = self.drop(A, radius)
            left = height - drop - slant * radius - curve * radius.square()
            low = torch.where(left >= 0, torch.maximum(low, radius), low)
            step = left / (slope + slant + 2 * curve * radius).clamp_min(_TINY)
            short = close * torch.where(left >= 0, step, radius)  # on the safe side of the root, where rounding left it on the other
            following = torch.minimum((radius + step - short).clamp_min(0), whole)
            moved = torch.where(left >= 0, following - radius, radius - low)  # or how far what is known is from what is too far
            done = done | (moved <= 4 * close * radius)
            if bool(done.all()):
                break
            radius = torch.where(done, radius, following)
        return torch.where(height > 0, torch.where(low >= whole, math.inf, low), root)


def _at_once(samples: int, rows: int, inputs: int) -> tuple[int, int]:
    """How many of them are looked at together, for what is worked on to stay in the processor's cache."""
    most = max(1, _ENTRIES // max(1, inputs))
    return max(1, most // max(1, rows)), min(max(1, rows), most)


def _drop_in_box(norm: Norm, down: Tensor, up: Tensor, A: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(value, derivative, sizes of the moves) of `Ball.least` where the inputs may move by `down` and `up` [B, 1, n] at most."""
    room, size = _room(A, down, up), A.abs()
    if norm is not L2:
        limit = radius[:, :, None]
        step = torch.minimum(room, limit)
        return torch.linalg.vecdot(size, step), torch.linalg.vecdot(size, above(room, limit)), step
    boxed, norms = torch.linalg.vecdot(size, room), A.norm(dim=2)
    whole, (cut, multiplier, step) = radius * norms, _cut(size, room, radius)
    value = torch.minimum(torch.minimum(boxed, whole), cut)
    return value, torch.where(value == boxed, 0.0, torch.where(value == whole, norms, multiplier * radius)), step


@torch.no_grad()
def above(a: Tensor, b: Tensor) -> Tensor:
    """1 where a > b, else 0, of a's type and shape: many times faster than a choice by a mask of bits."""
    return torch.gt(a, b, out=torch.empty_like(b if a.dim() < b.dim() else a))


def _room(A: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """How far each input may move in the direction of -A [B, R, n]: down where A > 0, else up [B, 1, n]."""
    lowers = above(A, A.new_zeros(()))
    return torch.addcmul(up - up * lowers, lowers, down)


def _cut(size: Tensor, room: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(the dual value, its multiplier, the moves' sizes) for |A| = size, the room [B, R, n] in the direction of -A, and radius [B, R].

    The multiplier is a fixed point of ||A on the coordinates that do not reach the box|| / what the others leave of the radius; float32
    serves, for any gives a bound. Where they leave almost nothing it is large, and so is what rounding does to the radius's own square:
    that is added.
    """
    with torch.no_grad():
        scale = size.amax(2, keepdim=True).clamp_min(_TINY)  # squares of coefficients far from 1 would leave float32's range
        steep, wide, reach = (size / scale).float(), room.float(), radius.float()
        ends, squares, rooms = steep / wide.clamp_min(_TINY), steep.square(), wide.square()
        total = squares.sum(2)
        multiplier = total.sqrt() / reach.clamp_min(_TINY)
        for _ in range(_STEPS):
            closed = above(ends, multiplier[:, :, None])
            rest = reach.square() - torch.linalg.vecdot(closed, rooms)
            wanted = (total - torch.linalg.vecdot(closed, squares)).clamp_min(0).sqrt() / rest.clamp_min(_TINY).sqrt()
            multiplier = torch.where(rest > 0, wanted, multiplier * 2)
        multiplier = multiplier.to(size) * scale[:, :, 0]
        step = torch.minimum(size / multiplier.clamp_min(_TINY)[:, :, None], room)
    rounding = (size.shape[2] + 8) * torch.finfo(size.dtype).eps * radius.square()
    value = torch.linalg.vecdot(size, step) + multiplier / 2 * (radius.square() - step.square().sum(2) + rounding)
    return value, multiplier, step
