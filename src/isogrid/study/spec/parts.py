"""The parts of a specification beside attacks and pruning, each with its defaults. Not here: the whole, or what is done with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from isogrid.core.errors import InputError, one_of
from isogrid.core.parameters import require_whole
from isogrid.core.registry import Config, Registry
from isogrid.core.typed import Whole
from isogrid.study.cells import Cell, Train, kind_of
from isogrid.study.spec.attack import AttackSpec, one_attack
from isogrid.study.spec.part import WITHOUT_SOURCES, Part
from isogrid.training import OBJECTIVES, PENALTIES, FitConfig


class DataSpec(Part):
    """Which samples: a registered name or a path, and how many of them. `box`: the limits of the inputs, instead of the source's own."""

    name: str = "mnist-5k"
    box: tuple[float, float] | None = None
    train: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class ModelSpec(Part):
    """A registered model or `file.py:factory`, optionally on some classes only, of which it takes as many samples as there are, at most
    `data.train` and `data.test`.

    `weights`: a trained network instead of dense training. `checkpoints`: networks that somebody else pruned, as the levels 0, 1, ...
    (dense first); then nothing is trained here, and there is no dense control.
    """

    name: str
    classes: tuple[int, ...] | None = None
    weights: str | None = None
    checkpoints: tuple[str, ...] = ()
    label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def title(self) -> str:
        """The label that tables and figures show."""
        suffix = "" if self.classes is None else "-" + "v".join(map(str, self.classes))
        return self.label or self.name + suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec(FitConfig):
    """How the dense reference is trained, and with `retrain_epochs` how every round retrains. `label`: the objective's name in tables."""

    retrain_epochs: Whole = 15
    label: str = ""

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        object.__setattr__(self, "retrain_epochs", require_whole("retrain_epochs", self.retrain_epochs, 0))

    @property
    def title(self) -> str:
        """The objective in tables."""
        return self.label or _shown(self.objective, OBJECTIVES)

    @property
    def regularised(self) -> str:
        """The penalty in tables, "" for none."""
        return "" if self.penalty is None else _shown(self.penalty, PENALTIES)

    def fit(self, *, dense: bool) -> FitConfig:
        """The configuration of the dense training or of one round's retraining."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(FitConfig)}
        return FitConfig(**values | {"epochs": self.epochs if dense else self.retrain_epochs})


def _shown(config: Config, registry: Registry[Any]) -> str:
    """A configuration by its name, with the settings that are not the defaults."""
    if isinstance(config, str):
        return config
    name = str(config["name"])
    defaults = {f.name: f.default for f in dataclasses.fields(registry[name])} if name in registry else {}
    told = [f"{key}={value}" for key, value in config.items() if key != "name" and defaults.get(key, object()) != value]
    return f"{name}({','.join(told)})" if told else name


CONTROL_ROUNDS = (6, 10, 14)
"""Of studies of 14 rounds; the last round of any other is the last one here: no level beyond it could be judged."""


class ControlSpec(Part):
    """The dense control of equal training: at which rounds it is attacked, and with which attacks (their names or labels; None = all)."""

    rounds: tuple[int, ...] | Literal["all", "none"] = CONTROL_ROUNDS
    attacks: tuple[str, ...] | None = None


class TransferSpec(Part):
    """The transfer matrix between the levels of each model's first seed: what fools level i, submitted to level j."""

    attack: AttackSpec = Field(default_factory=lambda: AttackSpec.model_validate({"name": "fgs", "eps": 0.1}))
    samples: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _effective(self, info: ValidationInfo) -> TransferSpec:
        if info.context != WITHOUT_SOURCES:
            one_attack("transfer.attack", self.attack, "transfer.samples says how many test samples are moved between levels")
        return self


class BlackBoxSpec(Part):
    """The paper's black-box attack: per level a substitute, trained on the level's labels, is attacked and its examples submitted.

    `attack`: fixed-budget, on the substitute. `seed_samples`: training samples that the attacker starts from; `rounds` of Jacobian-based
    augmentation; `model`: the substitute's architecture. `levels`: which pruned levels (None = all).
    """

    attack: AttackSpec = Field(default_factory=lambda: AttackSpec.model_validate({"name": "fgs", "eps": 0.1}))
    model: str = "lenet-300-100"
    seed_samples: int = Field(150, ge=1)
    rounds: int = Field(6, ge=1)
    levels: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _effective(self, info: ValidationInfo) -> BlackBoxSpec:
        if info.context == WITHOUT_SOURCES:
            return self
        attack = one_attack("blackbox.attack", self.attack, "the substitute's examples are made for every test sample")
        if attack.budget is None:
            raise InputError("blackbox.attack", self.attack.name, "a fixed-budget attack, such as {name: fgs, eps: 0.1}")
        return self


class AuditSpec(Part):
    """The levels of the first seed that are probed beyond their own attacks: doubled steps, growing budgets, gradient-free attacks."""

    levels: tuple[int, ...] = (0,)
    samples: int = Field(100, ge=1)


class CellSpec(Part):
    """A further kind of cell on every pruned level: `kind` is its registered name or `package.module:Class`, every key beside these a
    field of its own.

    `levels`: which (None = all); `seeds`: of the first so many seeds (None = all).
    """

    kind: str
    levels: tuple[int, ...] | None = None
    seeds: int | None = Field(None, ge=1)
    parameters: dict[str, Any] = Field(default={}, validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _flat_form(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict) or "kind" not in value:
            return value
        own = ("kind", "levels", "seeds")
        given, parameters = {k: v for k, v in value.items() if k in own}, {k: v for k, v in value.items() if k not in own}
        if info.context != WITHOUT_SOURCES:
            fields = settings_of(kind_of(given["kind"]))
            for name in parameters:
                if name not in fields:
                    raise one_of("key", f"cells.{name}", [f"cells.{known}" for known in (*own, *fields)])
            for name, needed in fields.items():
                if needed and name not in parameters:
                    raise InputError(f"cells.{name}", "nothing", f"a value: {given['kind']} has no default for it")
        return given | {"parameters": parameters}

    def on(self, network: Train, **common: Any) -> Cell:
        """The cell on one level."""
        try:
            return kind_of(self.kind)(network=network, **self.parameters, **common)  # type: ignore[call-arg]
        except TypeError as error:
            raise InputError("cells", self.parameters, f"settings of the right types for {self.kind} ({error})") from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"kind": self.kind, "levels": self.levels, "seeds": self.seeds} | self.parameters


def settings_of(kind: type[Cell]) -> dict[str, bool]:
    """The fields of a cell on a level that its user sets, with whether they must be; raises InputError for a kind that is on no level."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hidden = [name for name, f in fields.items() if not f.metadata.get("key", True)]
    if "network" not in fields or hidden:
        raise InputError("cells.kind", kind.kind, "a kind of cell with a field `network` (the level) and plain settings")
    missing = dataclasses.MISSING
    return {
        name: f.default is missing and f.default_factory is missing
        for name, f in fields.items()
        if name not in ("network", "threads", "device")
    }


class ToleranceSpec(Part):
    """What counts as not worse: r_inf and accuracy absolute, distances as a share of the dense one."""

    r_inf: float = Field(0.02, ge=0)
    distance: float = Field(0.03, ge=0)
    accuracy: float = Field(0.02, ge=0)

    @field_validator("distance", mode="before")
    @classmethod
    def _per_cent(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().endswith("%"):
            try:
                return float(value.strip()[:-1]) / 100
            except ValueError:
                raise InputError("tolerance.distance", value, "a share such as 3% or 0.03") from None
        return value
