"""Masks, and the methods that choose them; `PRUNERS` is the registry, one row a method."""

from isogrid.core.registry import Registry
from isogrid.sparsity.activations import ActivationSparsity, activation_sparsity
from isogrid.sparsity.allocation import ALLOCATIONS, Allocation, survivors
from isogrid.sparsity.criteria import CRITERIA, Batch, Criterion, Loss, Magnitude
from isogrid.sparsity.dense import Dense
from isogrid.sparsity.layers import counted_share, prunable
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.paths import live_outputs, row_axes
from isogrid.sparsity.progressive import Progressive
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training, enforce, forget

PRUNERS: Registry[Pruner] = Registry("pruner", Pruner, Progressive, Dense)

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PRUNERS",
    "ActivationSparsity",
    "Allocation",
    "Batch",
    "Criterion",
    "Dense",
    "Dynamics",
    "Loss",
    "Magnitude",
    "Masks",
    "Progressive",
    "Pruner",
    "Static",
    "Training",
    "activation_sparsity",
    "counted_share",
    "enforce",
    "forget",
    "live_outputs",
    "prunable",
    "row_axes",
    "survivors",
]
