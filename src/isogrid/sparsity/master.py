"""A dense master: weights that go on learning while dead, which no forward pass sees. Not here: when and which weights die."""

from __future__ import annotations

import torch
from torch import Tensor

from isogrid.sparsity.layers import named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Record, Training


class Master(Dynamics):
    """The optimizer steps on the dense master with the gradient at the masked weights; the model holds master o mask.

    Gradients are those of every weight, dead ones too, so what is dead keeps learning and can be spliced back with the value that it has
    by then; momentum and weight decay go on in the master as well. What was dead when the training began (`training.masks`) stays dead.
    Pitfall that it avoids: masks that are recomputed from masked weights, where a dead weight is zero for ever.
    """

    def __init__(self, training: Training) -> None:
        weights = named_weights(training.model)
        self.first = training.masks
        self._weights: list[Tensor] = [weights[name] for name in self.first]
        self.first.apply(training.model)
        self.dense = {name: weights[name].detach().clone() for name in self.first}
        self._never = [(dense, ~mask) for dense, mask in zip(self.dense.values(), self.first.values(), strict=True) if not bool(mask.all())]
        self._record = Record()
        self.masks = self.first
        self._show()

    def revise(self, masks: Masks, step: int) -> None:
        """From now on these masks are in force."""
        self._record.note(step, self.masks, masks)
        self.masks = masks
        self._show()

    @torch.no_grad()
    def _show(self) -> None:
        for weight, dense, mask in zip(self._weights, self.dense.values(), self.masks.values(), strict=True):
            torch.mul(dense, mask, out=weight)

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        torch._foreach_copy_(self._weights, list(self.dense.values()))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        torch._foreach_copy_(list(self.dense.values()), self._weights)
        for dense, dead in self._never:
            dense.masked_fill_(dead, 0.0)
        self._show()

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()
