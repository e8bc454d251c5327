"""Dataclasses as JSON and back, through one type: what is written is read by the type that it was written by.

What belongs here: the two directions. What does not: files (`core.files`), the types themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from isogrid.core.errors import InputError

T = TypeVar("T")


def no_truth(value: Any) -> Any:
    """`value`, unless it is a truth value, which pydantic takes for 0 or 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "Input should be a number, not a truth value")
    return value


Whole = Annotated[int, BeforeValidator(no_truth)]
Real = Annotated[float, BeforeValidator(no_truth)]
"""The types of numbers in a specification."""
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""The type of a number that may not be finite: JSON has no infinity and no NaN, so it is written as null and comes back as NaN."""


def plain(value: Any) -> Any:
    """`value` as JSON knows it: dataclasses as mappings, numpy's scalars unpacked, numbers that are not finite as None.

    >>> plain({"levels": (0, np.int64(3)), "low": -math.inf})
    {'levels': [0, 3], 'low': None}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def typed(kind: type[T], value: Any, where: str) -> T:
    """What `plain` made of a `kind`, as one again: `typed(kind, plain(x), where) == x`, but for numbers that are not finite.

    Fields that are not there take their defaults, names that the type does not know are passed over, so that studies of other versions
    stay readable.
    Raises InputError, naming `where`, for what is no `kind`.
    """
    try:
        made: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type]
        return made
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(where, f"{place}: {first['msg']}".removeprefix(": "), "what the study wrote; run it again to rebuild it") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
