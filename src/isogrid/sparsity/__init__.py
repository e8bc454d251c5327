"""Masks, and the methods that choose them; `PRUNERS` is the registry, one row a method."""

from isogrid.core.registry import Registry
from isogrid.sparsity.activations import ActivationSparsity, activation_sparsity
from isogrid.sparsity.allocation import ALLOCATIONS, Allocation, survivors
from isogrid.sparsity.channels import Channels
from isogrid.sparsity.coupling import Structures, compact, structures
from isogrid.sparsity.criteria import CRITERIA, Batch, Criterion, Loss, Magnitude
from isogrid.sparsity.cubic import Cubic
from isogrid.sparsity.dense import Dense
from isogrid.sparsity.evolutionary import SET
from isogrid.sparsity.flying_bird import FlyingBird
from isogrid.sparsity.hydra import Hydra
from isogrid.sparsity.layers import counted_share, prunable
from isogrid.sparsity.lottery import Lottery
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.n_of_m import NofM
from isogrid.sparsity.one_shot import OneShot
from isogrid.sparsity.own_loop import prune_during
from isogrid.sparsity.paths import live_outputs, row_axes
from isogrid.sparsity.progressive import Progressive
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training, enforce, forget
from isogrid.sparsity.rigl import RigL
from isogrid.sparsity.surgery import Surgery
from isogrid.sparsity.surgery_target import SurgeryTarget
from isogrid.sparsity.variational import VariationalDropout

PRUNERS: Registry[Pruner] = Registry(
    "pruner",
    Pruner,
    Progressive,
    Dense,
    OneShot,
    Cubic,
    Lottery,
    NofM,
    Channels,
    Surgery,
    SurgeryTarget,
    SET,
    RigL,
    FlyingBird,
    Hydra,
    VariationalDropout,
)

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PRUNERS",
    "SET",
    "ActivationSparsity",
    "Allocation",
    "Batch",
    "Channels",
    "Criterion",
    "Cubic",
    "Dense",
    "Dynamics",
    "FlyingBird",
    "Hydra",
    "Loss",
    "Lottery",
    "Magnitude",
    "Masks",
    "NofM",
    "OneShot",
    "Progressive",
    "Pruner",
    "RigL",
    "Static",
    "Structures",
    "Surgery",
    "SurgeryTarget",
    "Training",
    "VariationalDropout",
    "activation_sparsity",
    "compact",
    "counted_share",
    "enforce",
    "forget",
    "live_outputs",
    "prunable",
    "prune_during",
    "row_axes",
    "structures",
    "survivors",
]
