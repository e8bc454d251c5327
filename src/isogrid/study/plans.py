"""What a study is going to have: its models, levels and cells, as plain values. Not here: how they are derived, or run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isogrid.engines import Task
from isogrid.study.spec import ModelSpec, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackCell:
    """One attack on one trained level."""

    id: str
    key: str
    config: dict[str, Any]
    norm: str
    domain: str
    eps: float | None
    gradient_free: bool
    samples: int | None = None
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPlan:
    """One level of one network: its train cell, its attacks, its theory cell (linear models)."""

    model: str
    method: str
    seed: int
    level: int
    train: str
    attacks: tuple[AttackCell, ...]
    theory: str | None
    audit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What a model's cells share. `samples`: the cell that says which data these are; `files`: the user's weights per level, with their
    digests (levels that are not trained here)."""

    spec: ModelSpec
    data: dict[str, Any]
    model: dict[str, Any]
    samples: str
    files: tuple[tuple[str, str], ...]
    linear: bool
    weights: int
    gradient_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlan:
    """The transfer matrix of one model: its cell, the levels in order, the attack."""

    model: str
    key: str
    levels: tuple[int, ...]
    attack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All levels of a study, and the tasks that fill their cells."""

    spec: Spec
    models: tuple[ModelPlan, ...]
    levels: tuple[LevelPlan, ...]
    transfers: tuple[TransferPlan, ...]
    tasks: tuple[Task, ...]
