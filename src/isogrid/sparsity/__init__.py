"""Masks, criteria, allocation and pruners."""

from isogrid.sparsity.allocation import ALLOCATIONS
from isogrid.sparsity.criteria import CRITERIA, Criterion, Magnitude
from isogrid.sparsity.masks import Masks, enforce, prunable
from isogrid.sparsity.paths import live_outputs
from isogrid.sparsity.progressive import PRUNERS, Dense, Progressive, Pruner

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PRUNERS",
    "Criterion",
    "Dense",
    "Magnitude",
    "Masks",
    "Progressive",
    "Pruner",
    "enforce",
    "live_outputs",
    "prunable",
]
