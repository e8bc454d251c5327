"""The whole of a specification, and what has to fit together in it. Not here: its parts, or what is done with it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, ValidationInfo, field_validator, model_validator

from isogrid.core.errors import InputError, one_of
from isogrid.study.spec.attack import AttackSpec
from isogrid.study.spec.part import WITHOUT_SOURCES, Part
from isogrid.study.spec.parts import (
    CONTROL_ROUNDS,
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
from isogrid.study.spec.reading import explain, preset_data, read_yaml
from isogrid.study.spec.theory import CertifySpec, ExactSpec, LipschitzSpec
from isogrid.training import OBJECTIVES, PENALTIES, EarlyStop, OptimizerConfig

DEFAULT_ATTACKS: tuple[dict[str, Any], ...] = (
    {"name": "fgs", "eps": 0.1},
    {"name": "deepfool"},
    {"name": "cw", "converge": True, "samples": 200},
)


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


OneOrMany = Discriminator(_one_or_many)


class Spec(Part):
    """A whole study; `Spec.read` and `Spec.preset` are the ways in. Unknown keys are refused with the nearest accepted name.

    `models`, and `training` and `pruning` where they are lists, span a grid: every model is trained in every way and pruned in every way.
    """

    name: str = Field("study", min_length=1)
    data: DataSpec = DataSpec()
    models: tuple[ModelSpec, ...] = (ModelSpec(name="lenet-300-100"),)
    training: Annotated[Annotated[TrainingSpec, Tag("one")] | Annotated[tuple[TrainingSpec, ...], Tag("many")], OneOrMany] = TrainingSpec()
    pruning: Annotated[Annotated[PrunerSpec, Tag("one")] | Annotated[tuple[PrunerSpec, ...], Tag("many")], OneOrMany] = Field(
        default_factory=lambda: PrunerSpec.model_validate({})
    )
    control: ControlSpec = ControlSpec()
    attacks: tuple[AttackSpec, ...] = Field(default_factory=lambda: tuple(AttackSpec.model_validate(a) for a in DEFAULT_ATTACKS))
    transfer: TransferSpec | None = None
    blackbox: BlackBoxSpec | None = None
    audit: AuditSpec | None = None
    certify: CertifySpec | None = None
    exact: Annotated[Annotated[ExactSpec, Tag("one")] | Annotated[tuple[ExactSpec, ...], Tag("many")], OneOrMany] = ()
    lipschitz: LipschitzSpec | None = None
    cells: tuple[CellSpec, ...] = ()
    seeds: int = Field(3, ge=1, le=1000)
    tolerance: ToleranceSpec = ToleranceSpec()
    threads: int = Field(1, ge=1, le=256)
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("name")
    @classmethod
    def _one_folder(cls, value: str) -> str:
        """Where no folder is given the study's is called so."""
        if value in (".", "..") or value != value.strip() or any(sign in value for sign in "/\\\0\n"):
            raise InputError("name", value, "the name of one folder: no slashes, no line breaks, no spaces around it")
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _data_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _control(cls, value: Any) -> Any:
        """`twin` is another name of `control`; and a default asks for no rounds that are not there."""
        if not isinstance(value, dict):
            return value
        if "twin" in value:
            if "control" in value:
                raise InputError("twin", value["twin"], "either `control` or its other name `twin`, not both")
            value = {("control" if name == "twin" else name): part for name, part in value.items()}
        control, pruning = value.get("control", {}), value.get("pruning", {})
        each = pruning if isinstance(pruning, list) else [pruning]
        if isinstance(control, dict) and "rounds" not in control:
            last = max((rounds_of(one) for one in each), default=0)
            return value | {"control": control | {"rounds": [*(k for k in CONTROL_ROUNDS if k < last), *([last] if last > 0 else [])]}}
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Spec:
        if info.context == WITHOUT_SOURCES:
            return self
        named = {
            "models": [model.title for model in self.models],
            "training": [f"{training.title} {training.regularised}".strip() for training in self.trainings],
            "pruning": [pruner.title for pruner in self.prunings],
        }
        for field, titles in named.items():
            for title in titles:
                if titles.count(title) > 1:
                    raise InputError(field, title, "each one once, or with a `label` of its own")
            if not titles:
                raise InputError(field, [], "at least one model" if field == "models" else "at least one")
        if not self.attacks:
            raise InputError("attacks", [], "at least one attack")
        for training in self.trainings:
            OBJECTIVES.make(training.objective, "training.objective")
            if training.penalty is not None:
                PENALTIES.make(training.penalty, "training.penalty")
        names = {name for attack in self.attacks for name in (attack.name, attack.label) if name}
        for name in self.control.attacks or ():
            if name not in names:
                raise one_of("control.attacks", name, names)
        self._check_levels()
        for first, second in combinations(self.searches, 2):
            if twice := first.overlap(second):
                raise InputError("exact", twice, "each norm, and the distances of each, once on a level")
        ids = [identity for attack in self.attacks for identity, _ in attack.named()]
        for identity in ids:
            if ids.count(identity) > 1:
                raise InputError(
                    "attacks", identity, "each name and eps once: where two settings of one attack are meant, give one of them a `label`"
                )
        return self

    def _check_levels(self) -> None:
        """Raises InputError for a round or a level that no model of the study has."""
        rounds = max(pruner.rounds for pruner in self.prunings)
        deepest = max(len(model.checkpoints) - 1 if model.checkpoints else rounds for model in self.models)
        named = [("control.rounds", self.control.rounds if isinstance(self.control.rounds, tuple) else (), "rounds", rounds)]
        named += [("blackbox.levels", self.blackbox.levels or (), "levels", deepest)] if self.blackbox is not None else []
        named += [("audit.levels", self.audit.levels, "levels", deepest)] if self.audit is not None else []
        named += [("cells.levels", cell.levels or (), "levels", deepest) for cell in self.cells]
        for field, part in (
            ("certify.levels", self.certify),
            ("lipschitz.levels", self.lipschitz),
            *(("exact.levels", one) for one in self.searches),
        ):
            named += [(field, part.levels or (), "levels", deepest)] if part is not None else []
        for field, numbers, what, last in named:
            for number in numbers:
                if not 0 <= number <= last:
                    raise InputError(field, number, f"{what} 0 to {last}")

    @property
    def trainings(self) -> tuple[TrainingSpec, ...]:
        """Every way of training."""
        return self.training if isinstance(self.training, tuple) else (self.training,)

    @property
    def prunings(self) -> tuple[PrunerSpec, ...]:
        """Every way of pruning."""
        return self.pruning if isinstance(self.pruning, tuple) else (self.pruning,)

    @property
    def searches(self) -> tuple[ExactSpec, ...]:
        """Every complete search."""
        return self.exact if isinstance(self.exact, tuple) else (self.exact,)

    def seeds_of(self, model: ModelSpec) -> int:
        """How many chains of levels a model has: given files are one."""
        return 1 if model.checkpoints else self.seeds

    @property
    def control_rounds(self) -> tuple[int, ...]:
        """The rounds >= 1 at which the control is attacked; its round 0 is the dense reference itself.

        Those that are asked for, of pruners that go from level to level; and round 1 where levels come from the dense reference, which all
        of them are one round of training after.
        """
        if self.control.rounds == "none":
            return ()
        last = max((pruner.rounds for pruner in self.prunings if pruner.chained), default=0)
        asked = range(1, last + 1) if self.control.rounds == "all" else self.control.rounds
        first = {1} if any(pruner.rounds and not pruner.chained for pruner in self.prunings) else set()
        return tuple(sorted({k for k in asked if 1 <= k <= last} | first))

    @property
    def control_attacks(self) -> tuple[AttackSpec, ...]:
        """The attacks that the control gets, chosen by name or label."""
        wanted = self.control.attacks
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


PARTS: dict[str, type] = {
    "data": DataSpec,
    "models": ModelSpec,
    "training": TrainingSpec,
    "control": ControlSpec,
    "attacks": AttackSpec,
    "transfer": TransferSpec,
    "blackbox": BlackBoxSpec,
    "audit": AuditSpec,
    "certify": CertifySpec,
    "exact": ExactSpec,
    "lipschitz": LipschitzSpec,
    "tolerance": ToleranceSpec,
    "optimizer": OptimizerConfig,
    "early_stop": EarlyStop,
}
"""Where a key may stand, by the name of its part: for the nearest accepted name of an unknown one."""
