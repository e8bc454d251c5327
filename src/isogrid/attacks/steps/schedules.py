"""The schedules of DDN and FMN: `CONVERGING` repeats short cycles per row, each from the best point of the cycle before, until one cycle
gains less than a tolerance; `fixed` spends all steps on every row, as the two papers do. What does not belong here: the loop itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SOFT, SHARP = 0.35, 2.0
"""The loss sees logits scaled to SOFT times the sharpness at first and to SHARP times at the end of the first cycle. A soft loss weighs all
rivals and chooses the side to go to, a sharp one follows the closest; one constant sharpness ended 0.3 to 2 % farther away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cosine schedules of one cycle: (first cycle, later cycles) of lengths, of the step's start, of the radius factor gamma's start.

    Where `converging`, a row's clock starts with its first success, its steps count in units of the radius, and all that we add to the
    papers applies (see `annealed`); otherwise all is theirs: absolute lengths, the clock from the first step on, a single cycle.
    """

    length: tuple[int, int]
    step: tuple[float, float]
    last_step: float
    gamma: tuple[float, float]
    last_gamma: float
    converging: bool
    leaky_steps: int

    def at(self, cycle: Tensor, clock: Tensor, step: int) -> tuple[Tensor | float, Tensor | float]:
        """(step length, gamma) of each row, or of all rows alike where the clock is the same for all."""
        if not self.converging:
            share = (1 + math.cos(math.pi * step / self.length[0])) / 2
            return self.last_step + (self.step[0] - self.last_step) * share, self.last_gamma + (self.gamma[0] - self.last_gamma) * share
        first = cycle == 0
        shares = (1 + torch.cos(math.pi * clock / torch.where(first, self.length[0], self.length[1]))) / 2
        length = self.last_step + (torch.where(first, self.step[0], self.step[1]) - self.last_step) * shares
        return length, self.last_gamma + (torch.where(first, self.gamma[0], self.gamma[1]) - self.last_gamma) * shares

    def focus(self, cycle: Tensor, clock: Tensor) -> Tensor:
        """The share of the sharpness that the loss is given, row by row: SOFT to SHARP over the first cycle."""
        shares = (1 + torch.cos(math.pi * clock / self.length[0])) / 2
        return torch.where(cycle == 0, SHARP + (SOFT - SHARP) * shares, SHARP)


CONVERGING = Plan(length=(15, 10), step=(1.0, 0.3), last_step=0.02, gamma=(0.05, 0.02), last_gamma=0.001, converging=True, leaky_steps=30)
"""Measured for DDN: 32 to 35 gradients a row on LeNet and LeNet-300-100, 44 on a ResNet, at mean distances below those of DDN-100."""


def fixed(steps: int, gamma: float, last_gamma: float) -> Plan:
    """One cycle of `steps` on every row: step lengths from 1 to 0.01 of the box's width, as published for DDN and FMN."""
    gammas = (gamma, 0.0)
    return Plan(
        length=(steps, 0), step=(1.0, 0.0), last_step=0.01, gamma=gammas, last_gamma=last_gamma, converging=False, leaky_steps=steps
    )
