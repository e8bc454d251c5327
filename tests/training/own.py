"""An objective and a penalty of a user's own, outside the package: loaded by name, as `own.py:Class`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isogrid.training import Objective, Penalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy(Objective):
    """Cross-entropy on x + sigma n; `seen` keeps what was drawn for each sample."""

    name: ClassVar[str] = "noisy"
    seen: ClassVar[list] = []

    sigma: float = 0.1

    def loss(self, model, x, y, streams, box):
        noise = streams.normal(tuple(x.shape), "noise")
        self.seen.append((streams.ids.clone(), noise))
        return cross_entropy(model(x + self.sigma * noise), y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations(Penalty):
    """The mean of |a| after every ReLU, in the last forward pass."""

    name: ClassVar[str] = "activations"

    @contextlib.contextmanager
    def on(self, model):
        last = {}
        handles = [m.register_forward_hook(lambda m, _, out: last.update({m: out})) for m in model.modules() if isinstance(m, nn.ReLU)]
        try:
            yield lambda: torch.stack([out.abs().mean() for out in last.values()]).sum()
        finally:
            for handle in handles:
                handle.remove()
