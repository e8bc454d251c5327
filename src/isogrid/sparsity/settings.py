"""The settings that several pruners have in common, checked, and what they stand for. Not here: any one method."""

from __future__ import annotations

from typing import Any

from isogrid.core.parameters import checked, choice, number, whole
from isogrid.sparsity.allocation import ALLOCATIONS
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.masks import Masks


def sparsity(default: float) -> Any:
    """The share of all prunable weights that is removed in the end."""
    return number(default, 0, 1)


def rate(default: float) -> Any:
    """The share of the weights still alive that a round removes."""
    return number(default, 0, 1, low_open=True)


def criterion(default: str = "magnitude") -> Any:
    """A registered criterion, or one's own: what a weight is worth."""
    return checked(default, lambda name, value: CRITERIA.plain(value, name))


def allocation(default: str = "layer") -> Any:
    """A registered allocation, or one's own: how many weights each layer keeps."""
    return checked(default, lambda name, value: ALLOCATIONS.plain(value, name))


def start() -> Any:
    """Where a level's training starts: from the dense `reference`, or from `scratch`, the weights that the reference's started from."""
    return choice("reference", ("reference", "scratch"))


def every(default: int) -> Any:
    """The number of steps between two revisions of the masks."""
    return whole(default)


def until(default: float = 0.75) -> Any:
    """The share of the training after which masks are fixed."""
    return number(default, 0, 1, low_open=True, high_open=False)


def left(masks: Masks, sparsity: float) -> int:
    """How many weights that sparsity leaves, of all that there are: round((1 - sparsity) * total)."""
    return int((1 - sparsity) * masks.total + 0.5)
