"""Regions side by side, padded to one shape, for a search over all of them at once. Not here: the search (optimise.py)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isogrid.certify.ball import Ball
from isogrid.certify.dual import Dual, Multipliers

Index = tuple[Tensor, ...]
_NONE = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """W regions of one depth with N margins of each, in one type; names as in `Region`, whose units are the last dimension here.

    P [W, U, n], T [W, U, U], C [W, N, n], Q [W, N, U], c [W, N] less its slack, phase [W, N, U]; the others of units [W, 1, U]. `plus` and
    `minus`: the ends of what is above and below 0. `tilts`: the slopes of tanh's lines, None where there is none. `spans`: w [W, 1, U],
    ell and delta [W, blocks]. `places`: where each region's units are. What is padded reads nothing, stays at 0 and is read by nothing.
    """

    ball: Ball
    blocks: tuple[slice, ...]
    P: Tensor
    T: Tensor
    C: Tensor
    Q: Tensor
    c: Tensor
    phase: Tensor
    p: Tensor
    drift: Tensor
    centre: Tensor
    plus: tuple[Tensor, Tensor]
    minus: tuple[Tensor, Tensor]
    curved: Tensor
    tilts: tuple[Tensor, Tensor] | None
    spans: tuple[Tensor, Tensor, Tensor] | None
    places: tuple[Tensor, ...]

    def of(self, rows: Sequence[Tensor], fill: float = 0.0) -> Tensor:
        """[W, N, U] of each region's own [N_w, U_w]."""
        index = [(torch.arange(len(row))[:, None], place) for row, place in zip(rows, self.places, strict=True)]
        return _stack(rows, index, tuple(self.Q.shape[1:]), self.c.dtype, fill)


def stacked(duals: Sequence[Dual], starts: Sequence[Multipliers], dtype: torch.dtype) -> Stack:
    """The regions of `duals`, which have as many blocks, with the targets and phases of `starts`."""
    regions = [dual.region for dual in duals]
    ends = [0]
    for k in range(len(regions[0].blocks)):
        ends.append(ends[-1] + max(one.blocks[k].stop - one.blocks[k].start for one in regions))
    blocks = tuple(slice(a, b) for a, b in itertools.pairwise(ends))
    places = []
    for one in regions:
        parts = [torch.arange(mine.stop - mine.start) + block.start for mine, block in zip(one.blocks, blocks, strict=True)]
        places.append(torch.cat([_NONE, *parts]))
    columns = [torch.arange(one.P.shape[1]) for one in regions]
    rows = [torch.arange(len(start.target)) for start in starts]
    n, N, U = max(len(v) for v in columns), max(len(v) for v in rows), ends[-1]

    def units(values: Sequence[Tensor], fill: float = 0.0) -> Tensor:
        return _stack(values, [(place,) for place in places], (U,), dtype, fill)[:, None]

    def table(values: Sequence[Tensor], down: Sequence[Tensor], across: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        return _stack(values, [(a[:, None], b) for a, b in zip(down, across, strict=True)], shape, dtype)

    tied = bool(duals[0].spans)
    spans = [tuple(torch.stack([span[part] for span in dual.spans]) for part in (1, 2)) for dual in duals] if tied else []
    flats = [dual.flat for dual in duals if dual.flat is not None]
    return Stack(
        ball=replace(
            regions[0].ball,
            x=_stack([one.ball.x[0] for one in regions], [(column,) for column in columns], (n,), dtype),
            radius=torch.cat([one.ball.radius for one in regions]).to(dtype),
        ),
        blocks=blocks,
        P=table([one.P for one in regions], places, columns, (U, n)),
        T=table([one.T for one in regions], places, places, (U, U)),
        C=table([one.C[start.target] for one, start in zip(regions, starts, strict=True)], rows, columns, (N, n)),
        Q=table([one.Q[start.target] for one, start in zip(regions, starts, strict=True)], rows, places, (N, U)),
        c=_stack(
            [(one.c - one.slack)[start.target] for one, start in zip(regions, starts, strict=True)], [(v,) for v in rows], (N,), dtype
        ),
        phase=table([start.phase for start in starts], rows, places, (N, U)),
        p=units([one.p for one in regions]),
        drift=units([one.drift for one in regions]),
        centre=units([dual.centre for dual in duals]),
        plus=(units([dual.plus[0] for dual in duals]), units([dual.plus[1] for dual in duals])),
        minus=(units([dual.minus[0] for dual in duals]), units([dual.minus[1] for dual in duals])),
        curved=units([one.curved for one in regions]) > 0,
        tilts=(units([flat.below for flat in flats]), units([flat.above for flat in flats])) if len(flats) == len(duals) else None,
        spans=(
            units([torch.cat([span[0] for span in dual.spans]) for dual in duals], 1.0),
            torch.stack([ell for ell, _ in spans]).to(dtype),
            torch.stack([delta for _, delta in spans]).to(dtype),
        )
        if tied
        else None,
        places=tuple(places),
    )


def _stack(values: Sequence[Tensor], index: Sequence[Index], shape: tuple[int, ...], dtype: torch.dtype, fill: float = 0.0) -> Tensor:
    """[W, *shape] with each value at its index, `fill` beside it."""
    if len(values) == 1 and values[0].shape == shape:
        return values[0][None].to(dtype)
    found = torch.full((len(values), *shape), fill, dtype=dtype)
    for one, value, at in zip(found, values, index, strict=True):
        one[at] = value.to(dtype)
    return found
