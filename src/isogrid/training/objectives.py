"""What training minimises: one function per objective, (model, x, y) -> scalar loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


def natural(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy; for a binary model, whose logits are (0, z), that is the softplus loss."""
    return cross_entropy(model(x), y)


OBJECTIVES: dict[str, Objective] = {"natural": natural}
