"""Criteria: how much each weight is worth. What belongs here: one small class per criterion. What does not: which get removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

from torch import Tensor, nn

from isogrid.sparsity.masks import prunable


class Criterion(ABC):
    """Scores of the prunable weights, higher = keep."""

    name: ClassVar[str]

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, Tensor]:
        """{parameter name: scores of the parameter's shape}."""


@final
class Magnitude(Criterion):
    """|w| (Han et al. 2015)."""

    name = "magnitude"

    def score(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in prunable(model).items()}


CRITERIA: dict[str, type[Criterion]] = {cls.name: cls for cls in (Magnitude,)}
