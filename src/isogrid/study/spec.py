"""The specification of a study: what may be written in YAML or flags, its defaults, and its presets. Not here: what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from isogrid.core.errors import InputError, one_of
from isogrid.sparsity import ALLOCATIONS, CRITERIA
from isogrid.study.attack_spec import WITHOUT_SOURCES, AttackSpec, Part, one_attack
from isogrid.study.reading import PRESETS, explain, preset_data, read_yaml
from isogrid.training import OBJECTIVES, EarlyStop, FitConfig, OptimizerConfig
from isogrid.verdicts.evidence import GIVEN


def _registered(field: str, value: str, registry: Mapping[str, Any]) -> str:
    if value not in registry:
        raise one_of(field, value, registry)
    return value


class DataSpec(Part):
    """Which samples: a registered name or a path, how many, which classes."""

    name: str = "mnist-5k"
    train: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class ModelSpec(Part):
    """A registered model or `file.py:factory`, optionally on some classes only, of which it takes as many samples as there are, at most
    `data.train` and `data.test`.

    `weights`: a trained network instead of dense training. `checkpoints`: networks that somebody else pruned, as the levels 0, 1, ...
    (dense first); then nothing is trained here, and there is no dense twin.
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


class OptimizerSpec(Part):
    """See `training.OptimizerConfig`."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0, ge=0)


class EarlyStopSpec(Part):
    """Stop a fit when its training loss has not fallen by `min_delta` for `patience` epochs."""

    patience: int = Field(5, ge=1)
    min_delta: float = Field(1e-4, ge=0)


class TrainingSpec(Part):
    """How the dense reference is trained, and how every round retrains."""

    objective: str = "natural"
    epochs: int = Field(40, ge=0)
    retrain_epochs: int = Field(15, ge=0)
    batch_size: int = Field(128, ge=1)
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    optimizer: OptimizerSpec = OptimizerSpec()
    early_stop: EarlyStopSpec | None = None

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        return _registered("objective", value, OBJECTIVES)

    def fit(self, *, dense: bool) -> FitConfig:
        """The configuration of the dense training or of one round's retraining."""
        return FitConfig(
            epochs=self.epochs if dense else self.retrain_epochs,
            batch_size=self.batch_size,
            objective=self.objective,
            schedule=self.schedule,
            optimizer=OptimizerConfig(**self.optimizer.model_dump()),
            early_stop=None if self.early_stop is None else EarlyStop(**self.early_stop.model_dump()),
        )


class PruningSpec(Part):
    """The pruning method and its rounds."""

    method: Literal["progressive"] = "progressive"
    rate: float = Field(1 / 3, gt=0, lt=1)
    rounds: int = Field(14, ge=0, le=200)
    criterion: str = "magnitude"
    allocation: str = "layer"

    @field_validator("criterion")
    @classmethod
    def _criterion(cls, value: str) -> str:
        return _registered("criterion", value, CRITERIA)

    @field_validator("allocation")
    @classmethod
    def _allocation(cls, value: str) -> str:
        return _registered("allocation", value, ALLOCATIONS)


TWIN_ROUNDS = (6, 10)


class TwinSpec(Part):
    """The dense twin of equal training: at which rounds it is attacked, and with which attacks (their names or labels; None = all)."""

    rounds: tuple[int, ...] | Literal["all", "none"] = TWIN_ROUNDS
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


DEFAULT_ATTACKS: tuple[dict[str, Any], ...] = ({"name": "fgs", "eps": 0.1}, {"name": "deepfool"}, {"name": "cw", "samples": 200})


class Spec(Part):
    """A whole study; `Spec.read` and `Spec.preset` are the ways in. Unknown keys are refused with the nearest accepted name."""

    name: str = Field("study", min_length=1)
    data: DataSpec = DataSpec()
    models: tuple[ModelSpec, ...] = (ModelSpec(name="lenet-300-100"),)
    training: TrainingSpec = TrainingSpec()
    pruning: PruningSpec = PruningSpec()
    twin: TwinSpec = TwinSpec()
    attacks: tuple[AttackSpec, ...] = Field(default_factory=lambda: tuple(AttackSpec.model_validate(a) for a in DEFAULT_ATTACKS))
    transfer: TransferSpec | None = None
    blackbox: BlackBoxSpec | None = None
    audit: AuditSpec | None = None
    seeds: int = Field(3, ge=1, le=1000)
    tolerance: ToleranceSpec = ToleranceSpec()
    threads: int = Field(1, ge=1, le=256)
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("data", mode="before")
    @classmethod
    def _data_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _default_twin(cls, value: Any) -> Any:
        """A default may not ask for rounds that are not there: the twin's go as far as the study does."""
        if not isinstance(value, dict):
            return value
        twin, pruning = value.get("twin", {}), value.get("pruning", {})
        rounds = pruning.get("rounds") if isinstance(pruning, dict) else None
        if isinstance(twin, dict) and "rounds" not in twin and isinstance(rounds, int):
            return value | {"twin": twin | {"rounds": [k for k in TWIN_ROUNDS if k <= rounds]}}
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Spec:
        if info.context == WITHOUT_SOURCES:
            return self
        titles = [model.title for model in self.models]
        for title in titles:
            if titles.count(title) > 1:
                raise InputError("models", title, "each model once, or with a `label` of its own")
        if not self.models:
            raise InputError("models", [], "at least one model")
        if not self.attacks:
            raise InputError("attacks", [], "at least one attack")
        names = {name for attack in self.attacks for name in (attack.name, attack.label) if name}
        for name in self.twin.attacks or ():
            if name not in names:
                raise one_of("twin.attacks", name, names)
        self._check_levels()
        ids = [identity for attack in self.attacks for identity, _ in attack.named()]
        for identity in ids:
            if ids.count(identity) > 1:
                raise InputError(
                    "attacks", identity, "each name and eps once: where two settings of one attack are meant, give one of them a `label`"
                )
        return self

    def _check_levels(self) -> None:
        """Raises InputError for a round or a level that no model of the study has."""
        deepest = max(self.rounds_of(model) for model in self.models)
        rounds = self.twin.rounds if isinstance(self.twin.rounds, tuple) else ()
        named = [("twin.rounds", rounds, "rounds", self.pruning.rounds)]
        named += [("blackbox.levels", self.blackbox.levels or (), "levels", deepest)] if self.blackbox is not None else []
        named += [("audit.levels", self.audit.levels, "levels", deepest)] if self.audit is not None else []
        for field, numbers, what, last in named:
            for number in numbers:
                if not 0 <= number <= last:
                    raise InputError(field, number, f"{what} 0 to {last}")

    def method_of(self, model: ModelSpec) -> str:
        """How the levels of a model come about."""
        return GIVEN if model.checkpoints else self.pruning.method

    def rounds_of(self, model: ModelSpec) -> int:
        """The last level of a model."""
        return len(model.checkpoints) - 1 if model.checkpoints else self.pruning.rounds

    def seeds_of(self, model: ModelSpec) -> int:
        """How many chains of levels a model has: given files are one."""
        return 1 if model.checkpoints else self.seeds

    @property
    def twin_rounds(self) -> tuple[int, ...]:
        """The rounds >= 1 at which the twin is attacked; round 0 is the dense reference itself."""
        if self.twin.rounds == "none":
            return ()
        rounds = range(1, self.pruning.rounds + 1) if self.twin.rounds == "all" else self.twin.rounds
        return tuple(sorted({k for k in rounds if 1 <= k <= self.pruning.rounds}))

    @property
    def twin_attacks(self) -> tuple[AttackSpec, ...]:
        """The attacks that the twin gets, chosen by name or label."""
        wanted = self.twin.attacks
        return tuple(attack for attack in self.attacks if wanted is None or {attack.name, attack.label} & set(wanted))

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults written out, as plain data."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """`study.yaml`."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)

    @classmethod
    def parse(cls, value: Any, *, sources: bool = True) -> Spec:
        """Validate plain data; raises InputError that names the first wrong field.

        Without `sources`, settings that were validated before: files that they name (a callable's) need not be there any more.
        """
        if not isinstance(value, dict):
            raise InputError("study", value, "a mapping of settings (see `isogrid run --help`)")
        try:
            return cls.model_validate(value, context=None if sources else WITHOUT_SOURCES)
        except ValidationError as error:
            raise explain(error, Spec, PARTS) from None

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Read a YAML file."""
        return cls.parse(read_yaml(path))

    @classmethod
    def preset(cls, name: str) -> Spec:
        """One of the presets that ship with isogrid.

        >>> Spec.preset("quick").seeds
        3
        """
        return cls.parse(preset_data(name))


PARTS: dict[str, type[BaseModel]] = {
    "data": DataSpec,
    "models": ModelSpec,
    "training": TrainingSpec,
    "pruning": PruningSpec,
    "twin": TwinSpec,
    "attacks": AttackSpec,
    "transfer": TransferSpec,
    "blackbox": BlackBoxSpec,
    "audit": AuditSpec,
    "tolerance": ToleranceSpec,
    "optimizer": OptimizerSpec,
    "early_stop": EarlyStopSpec,
}
"""Where a key may stand, by the name of its part: for the nearest accepted name of an unknown one."""

__all__ = [
    "DEFAULT_ATTACKS",
    "GIVEN",
    "PRESETS",
    "AttackSpec",
    "BlackBoxSpec",
    "ModelSpec",
    "Spec",
    "preset_data",
    "read_yaml",
]
