"""What training minimises: one small class per objective. Not here: the loop, or what is added to the loss (`penalties`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isogrid.core.random import Streams
from isogrid.core.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(ABC):
    """A loss and its settings: the fields of a frozen dataclass, plain data each."""

    name: ClassVar[str]

    @abstractmethod
    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        """The scalar loss of one batch x [B, *S], y [B]; `model` is in train mode and gives logits.

        `streams`: one random stream per sample of the batch, of this training and this step: all randomness of an objective comes from
        here. An objective that passes `model` more than once (an attack within) leaves its mode and its buffers to the last pass.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Natural(Objective):
    """Mean cross-entropy; for a binary model, whose logits are (0, z), that is the softplus loss."""

    name: ClassVar[str] = "natural"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        return cross_entropy(model(x), y)


OBJECTIVES: Registry[Objective] = Registry("objective", Objective, Natural)
