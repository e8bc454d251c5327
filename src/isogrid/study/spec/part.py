"""What the parts of a specification share. Not here: any one part."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from isogrid.core.typed import no_truth

WITHOUT_SOURCES = {"sources": False}
"""The validation context of a specification whose study has been run: files that it names need not be there any more."""


class Part(BaseModel):
    """No unknown keys, no changes, no infinite numbers, no truth values for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        _check_truth(value, cls.model_fields[info.field_name or ""].annotation)
        return value


def _check_truth(value: Any, kind: Any) -> None:
    """Raises where a truth value stands for a number of type `kind`, alone, in a list or in a mapping."""
    for one in _members(kind):
        if one in (int, float):
            no_truth(value)
        elif isinstance(value, list | tuple) and get_origin(one) is tuple:
            for part in value:
                _check_truth(part, get_args(one)[0])
        elif isinstance(value, dict) and get_origin(one) is dict:
            for part in value.values():
                _check_truth(part, get_args(one)[1])


def _members(kind: Any) -> Iterator[Any]:
    """The types that a type is a union of, itself where it is none."""
    if get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _members(part)
    else:
        yield kind
