"""Randomness that belongs to (seed, purpose, sample index). Nothing in isogrid leaves a global random state moved.

Two sources: `generator` for whole-run draws (initial weights, shuffles), `Streams` for draws that belong to single samples and so
must not depend on which other samples share the batch. `Streams` is counter-based (SplitMix64 over sample index and element
index), hence the same on every device, in every batch, in any order.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_TWO_53 = 1.0 / 9007199254740992.0


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit integer that depends on every part of (seed, purpose...): the first bytes of a SHA-256.

    >>> derive(0, "shuffle", 1) == derive(0, "shuffle", 1), derive(0, "a", 1) == derive(0, "a", 2)
    (True, False)
    """
    text = "\x1f".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for (seed, purpose...).

    >>> a, b = (torch.rand(2, generator=generator(0, "init")) for _ in range(2))
    >>> bool((a == b).all())
    True
    """
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


def seed_global(seed: int, *purpose: object) -> None:
    """Set every global generator (torch on all devices in use, numpy, python) to (seed, purpose...); inside `isolated` only."""
    value = derive(seed, *purpose)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    np.random.seed(value % 2**32)
    random.seed(value)


@contextlib.contextmanager
def isolated(seed: int, *purpose: object) -> Iterator[None]:
    """Inside, what draws from a global generator (dropout, say) draws from (seed, purpose...); after, all of them are as before.

    >>> before = torch.get_rng_state()
    >>> with isolated(0, "dropout"):
    ...     first = torch.rand(3)
    >>> with isolated(0, "dropout"):
    ...     print(bool((first == torch.rand(3)).all()))
    True
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    state, arrays, plain = torch.get_rng_state(), np.random.get_state(), random.getstate()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        seed_global(seed, *purpose)
        yield
    finally:
        torch.set_rng_state(state)
        np.random.set_state(arrays)
        random.setstate(plain)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014) on int64, with logical shifts."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX_1
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """One random stream per sample: row b of a draw depends only on (seed, purpose, ids[b], draw) and the element's position.

    `ids` [B] int64: the samples' indices in their data set. `draw` separates the draws of one purpose (a step, a restart).

    >>> s = Streams(seed=0, ids=torch.tensor([3, 8]))
    >>> bool((s.uniform((2, 4), "start")[1] == s.take(torch.tensor([1])).uniform((1, 4), "start")[0]).all())
    True
    """

    seed: int
    ids: Tensor

    def take(self, rows: Tensor) -> Streams:
        """The streams of some rows; `rows` is an index or a bool tensor [B]."""
        return Streams(seed=self.seed, ids=self.ids[rows])

    def bits(self, shape: tuple[int, ...], *purpose: object) -> Tensor:
        """int64 tensor of `shape` (shape[0] = number of rows), every bit random."""
        key = derive(self.seed, *purpose)
        row = _mix((self.ids + 1) * _GOLDEN + key)
        size = math.prod(shape[1:])
        column = torch.arange(1, size + 1, device=self.ids.device) * _GOLDEN
        return _mix(row[:, None] + column[None, :]).view(shape)

    def uniform(self, shape: tuple[int, ...], *purpose: object, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on (0, 1), of `dtype`; neither end is ever drawn in float64."""
        bits = (self.bits(shape, *purpose) >> 11) & 0x1FFFFFFFFFFFFF
        return ((bits.double() + 0.5) * _TWO_53).to(dtype)

    def normal(self, shape: tuple[int, ...], *purpose: object, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, by the inverse of its distribution function."""
        normal: Tensor = torch.special.ndtri(self.uniform(shape, *purpose, dtype=torch.float64))
        return normal.to(dtype)

    def sign(self, shape: tuple[int, ...], *purpose: object, dtype: torch.dtype = torch.float32) -> Tensor:
        """-1 or +1 with equal probability: the sign of a standard normal."""
        return ((self.bits(shape, *purpose) >> 63).to(dtype) * 2 + 1).to(dtype)
