"""How the levels of a study come about: one pruner, its parameters and its rounds. Not here: pruning."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, model_serializer, model_validator

from isogrid.core.errors import InputError, IsogridError, one_of
from isogrid.core.numbers import whole
from isogrid.sparsity import PRUNERS
from isogrid.study.spec.part import WITHOUT_SOURCES, Part

OWN = ("method", "rounds", "label")


def rounds_of(pruning: Any) -> int:
    """How many levels a specification of a pruner asks for; 0 where it is none, which is said where it is read."""
    try:
        return PrunerSpec.model_validate(pruning).rounds
    except (ValidationError, IsogridError):
        return 0


class PrunerSpec(Part):
    """One pruner: `method` is its name (or `file.py:Class`), and every key beside these a parameter of its own.

    `rounds`: how many levels follow the dense reference, where each comes from the one before. Where each comes from the dense
    reference instead, one parameter is a list, with a value for every level; without a list the pruner's own `levels`, at most `rounds`
    of them. `label`: the pruner's name in tables.
    """

    method: str = "progressive"
    rounds: int = Field(14, ge=0, le=200)
    label: str = ""
    parameters: dict[str, Any] = Field(default={}, validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _flat_form(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        given, parameters = {k: v for k, v in value.items() if k in OWN}, {k: v for k, v in value.items() if k not in OWN}
        if info.context == WITHOUT_SOURCES:
            return given | {"parameters": parameters}
        kind = PRUNERS.kind(given.get("method", "progressive"), "pruning.method")
        fields = {f.name: f.default for f in dataclasses.fields(kind)}
        for name in parameters:
            if name not in fields:
                raise one_of("key", f"pruning.{name}", [f"pruning.{known}" for known in (*OWN, *fields)])
        listed = [name for name, part in parameters.items() if isinstance(part, list | tuple)]
        if kind.relation == "targets":
            field, values = kind.levels
            if not listed and field in fields:
                rounds = whole(given.get("rounds", len(values)))
                if rounds is None or rounds < 1:
                    raise InputError(
                        "pruning.rounds", given["rounds"], f"an integer >= 1: so many of the levels of {kind.name}, {field} {values}"
                    )
                parameters[field] = [parameters[field]] if field in parameters else list(values[:rounds])
                listed = [field]
            if len(listed) != 1 or not parameters[listed[0]]:
                raise InputError("pruning", parameters, f"for {kind.name} one parameter as a list, with a value for every level")
            given["rounds"] = len(parameters[listed[0]])
        elif listed:
            raise InputError(f"pruning.{listed[0]}", parameters[listed[0]], f"one value: {kind.name} goes from each level to the next")
        defaults = {name: default for name, default in fields.items() if default is not dataclasses.MISSING}
        return given | {"parameters": defaults | parameters}

    @model_validator(mode="after")
    def _buildable(self, info: ValidationInfo) -> PrunerSpec:
        if info.context != WITHOUT_SOURCES:
            for level in range(1, self.rounds + 1):
                try:
                    PRUNERS.make(self.at(level), "pruning")
                except InputError as error:
                    where = error.field if error.field.startswith("pruning") else f"pruning.{error.field}"
                    raise InputError(where, error.value, error.accepted) from None
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OWN} | self.parameters

    @property
    def title(self) -> str:
        """The pruner's name in tables, which there is the method."""
        return self.label or self.method

    @property
    def chained(self) -> bool:
        """Whether each level comes from the one before, and not from the dense reference."""
        return PRUNERS.kind(self.method).relation == "chain"

    def at(self, level: int) -> dict[str, Any]:
        """The configuration of the pruner that makes `level` >= 1 from its parent."""
        at = {name: part[level - 1] if isinstance(part, list | tuple) else part for name, part in self.parameters.items()}
        return {"name": self.method} | at
