"""The specification of a study: what may be written in YAML or flags, its defaults, and its presets. Not here: what is done with it."""

from isogrid.study.spec.attack import AttackSpec
from isogrid.study.spec.parts import (
    AuditSpec,
    BlackBoxSpec,
    CellSpec,
    ControlSpec,
    DataSpec,
    ModelSpec,
    ToleranceSpec,
    TrainingSpec,
    TransferSpec,
)
from isogrid.study.spec.pruner import PrunerSpec, rounds_of
from isogrid.study.spec.reading import PRESETS, preset_data, read_yaml
from isogrid.study.spec.study import DEFAULT_ATTACKS, Spec
from isogrid.study.spec.theory import CertifySpec, LipschitzSpec

__all__ = [
    "DEFAULT_ATTACKS",
    "PRESETS",
    "AttackSpec",
    "AuditSpec",
    "BlackBoxSpec",
    "CellSpec",
    "CertifySpec",
    "ControlSpec",
    "DataSpec",
    "LipschitzSpec",
    "ModelSpec",
    "PrunerSpec",
    "Spec",
    "ToleranceSpec",
    "TrainingSpec",
    "TransferSpec",
    "preset_data",
    "read_yaml",
    "rounds_of",
]
