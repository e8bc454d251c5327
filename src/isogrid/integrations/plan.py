"""What a callback of any library is given, checked, and how it begins. Not here: any library, or when a step is one (`own_loop.Steps`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from isogrid.core.errors import InputError
from isogrid.sparsity import Masks, Pruner
from isogrid.sparsity.criteria import Batch
from isogrid.sparsity.own_loop import begin
from isogrid.sparsity.pruner import Dynamics, Static


class Plan:
    """A pruner with the samples that it scores on, or masks alone; `rest`: other settings of `own_loop.begin`."""

    def __init__(self, pruner: Pruner | None, samples: Batch | None, masks: Masks | None, rest: Mapping[str, Any]) -> None:
        if pruner is None and masks is None:
            raise InputError("pruner", None, "a pruner with samples=(x, y), or masks=...")
        if pruner is not None and samples is None:
            raise InputError("samples", None, "some training samples (x, y) beside the pruner")
        self.pruner, self._samples, self._rest = pruner, samples, rest

    def resumes(self, field: str, step: int) -> None:
        """Raise InputError where a fit under a pruner goes on in its middle, `step` > 0: its schedule would start over."""
        if self.pruner is not None and step:
            raise InputError(field, f"step {step}", "a fit from its start, or masks=Masks.of_zeros(model)")

    def begin(self, model: nn.Module, optimizer: Optimizer, steps: int, device: torch.device, masks: Masks | None) -> Dynamics:
        """For a training of so many optimizer steps, from these masks."""
        if self.pruner is None or self._samples is None:
            assert masks is not None
            return Static(model, masks.on(model))
        x, y = (part.to(device) for part in self._samples)
        return begin(self.pruner, model, optimizer, steps=steps, samples=(x, y), masks=masks, **self._rest)
