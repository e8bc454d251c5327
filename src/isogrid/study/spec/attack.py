"""One attack in a specification: its parameters, its samples, its name in tables. Not here: which attacks a study has."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from isogrid import attacks
from isogrid.attacks.driver.base import Attack
from isogrid.attacks.naming import attack_id, with_eps
from isogrid.core.errors import InputError
from isogrid.study.spec.part import WITHOUT_SOURCES, Part

TAKEN = {*attacks.ATTACKS, *attacks.COMPOSED, "envelope", "theory", "substitute", "certificate", "lipschitz"}
"""Names that mean something else in tables."""


class AttackSpec(Part):
    """One attack: its name, its parameters, and which of the test samples it gets.

    `samples`: the first so many (None = all); `samples_of`: another number for some models. `survivors`: only those that the attacks
    before it, of the same norm, domain and eps, did not break: it then speaks through the envelope, where only the verdict counts.
    `label`: its name in tables, so that two settings of one attack can stand in one study; no cell's key depends on it.
    """

    name: str
    label: str = ""
    parameters: dict[str, Any] = Field(default={}, validate_default=False)
    samples: int | None = Field(None, ge=1)
    samples_of: dict[str, int] = Field(default={}, validate_default=False)
    survivors: bool = False

    @model_validator(mode="before")
    @classmethod
    def _flat_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "parameters" not in value:
            own = {"name", "label", "samples", "samples_of", "survivors"}
            return {k: v for k, v in value.items() if k in own} | {"parameters": {k: v for k, v in value.items() if k not in own}}
        return value

    def build(self) -> list[Attack]:
        """The attacks that it stands for: one per eps where `eps` is a list."""
        eps = self.parameters.get("eps")
        if eps == []:
            raise InputError("eps", eps, "one eps or more")
        _check_finite(self.parameters)
        grid = [self.parameters | {"eps": e} for e in eps] if isinstance(eps, list | tuple) else [self.parameters]
        return [attacks.make({"name": self.name} | parameters) for parameters in grid]

    def named(self) -> list[tuple[str, Attack]]:
        """The same with their names in tables: `attack_id`, or the label with the eps of a fixed-budget attack."""
        built = self.build()
        return [(with_eps(self.label, attack.budget) if self.label else attack_id(attack), attack) for attack in built]

    @field_validator("label")
    @classmethod
    def _plain_label(cls, value: str) -> str:
        """A label stands in file names and before `@eps`, and may not pass for another attack."""
        if value in TAKEN or value.startswith(("substitute-", "envelope-")):
            raise InputError("label", value, "a name that no attack of isogrid has")
        if value and not re.fullmatch(r"[\w.+=(&-][\w .,+=()&-]*", value):
            raise InputError("label", value, "letters, digits, spaces and . , + - = & ( )")
        return value

    @model_validator(mode="after")
    def _buildable(self, info: ValidationInfo) -> AttackSpec:
        if info.context == WITHOUT_SOURCES:
            return self
        for attack in self.build():
            if self.survivors and attack.budget is None:
                raise InputError("survivors", self.name, "a fixed-budget attack: a minimum-norm one is measured on every sample")
        return self


def _check_finite(value: Any, field: str = "parameters") -> None:
    """Raises InputError for a number in an attack's parameters that is infinite or none: nothing could be measured with it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(field, value, "a finite number, > 0 for a budget or a count")
    for name, part in value.items() if isinstance(value, dict) else [(field, v) for v in value] if isinstance(value, list | tuple) else ():
        _check_finite(part, name)


def one_attack(field: str, entry: AttackSpec, instead: str) -> Attack:
    """The one attack that `entry` stands for; raises InputError for settings that would have no effect in `field`."""
    built = entry.build()
    if len(built) > 1:
        raise InputError(f"{field}.eps", entry.parameters["eps"], "one eps")
    for name in ("samples", "samples_of", "survivors"):
        if getattr(entry, name):
            raise InputError(f"{field}.{name}", getattr(entry, name), f"no such setting here: {instead}")
    return built[0]
