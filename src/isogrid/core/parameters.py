"""Settings as fields of a frozen dataclass: a default, what is accepted, and one line for whatever is not.

A setting is a field `steps: int = whole(100)`; `check_parameters` verifies all of them when an instance is constructed, and turns numbers
of numpy and torch into Python's own. Not here: rules between two settings, which are the class's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import MISSING, field, fields
from typing import Any, Final

from isogrid.core import numbers as plain
from isogrid.core.errors import InputError, one_of

REQUIRED: Final[Any] = MISSING
"""In the place of a default: the setting has to be given."""
Check = Callable[[str, Any], Any]
"""From a setting's name and the value that was given to the value that is kept; raises InputError."""


def require(name: str, value: object, ok: bool, accepted: str) -> None:
    """Raise InputError unless `ok`; a bool is no number."""
    if isinstance(value, bool) or not ok:
        raise InputError(name, value, accepted)


def require_whole(name: str, value: object, least: int = 1, *, otherwise: str = "") -> int | None:
    """`value` as Python's integer; raises InputError unless it is one >= `least`, or None where `otherwise` says what None stands for."""
    found = plain.whole(value)
    ok = value is None if found is None else found >= least
    require(name, value, ok and (found is not None or bool(otherwise)), f"an integer >= {least}" + _or_none(otherwise))
    return found


def require_number(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = True,
    otherwise: str = "",
) -> float | None:
    """`value` as Python's number; raises InputError unless it is finite and from `low` to `high`, the ends as the flags say.

    None is accepted where `otherwise` says what it stands for.
    """
    found = plain.real(value)
    if found is None:
        ok = value is None and bool(otherwise)
    else:
        ok = math.isfinite(found) and (low < found if low_open else low <= found) and (found < high if high_open else found <= high)
    ends = [f"{'>' if low_open else '>='} {low:g}"] if low > -math.inf else []
    ends += [f"{'<' if high_open else '<='} {high:g}"] if high < math.inf else []
    require(name, value, ok, f"a finite number {' and '.join(ends)}".rstrip() + _or_none(otherwise))
    return found


def _or_none(otherwise: str) -> str:
    return f", or None for {otherwise}" if otherwise else ""


def whole(default: int | None, least: int = 1, *, otherwise: str = "") -> Any:
    """A parameter that is an integer >= `least`, or None where `otherwise` says what None stands for."""
    return checked(default, lambda name, value: require_whole(name, value, least, otherwise=otherwise))


def number(default: float | None, low: float, high: float = math.inf, *, word: str = "", **rest: Any) -> Any:
    """A parameter that is a finite number; see `require_number`."""
    return checked(default, lambda name, value: require_number(name, value, low, high, **rest), word)


def choice(default: str, accepted: Collection[str], word: str = "") -> Any:
    """A parameter that is one of the `accepted` words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in accepted:
            raise one_of(name, value, accepted)
        return value

    return checked(default, check, word)


def switch(default: bool, word: str = "") -> Any:
    """A parameter that is True or False."""

    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(name, value, "true or false")
        return value

    return checked(default, check, word)


def checked(default: Any, check: Check, word: str = "") -> Any:
    """A setting that `check` accepts; `word`: see `isogrid.attacks.driver.parameters`."""
    return field(default=default, metadata={"check": check, "word": word})


def check_parameters(instance: Any) -> None:
    """Raise InputError for the first setting of `instance` that is not accepted; those that are become Python's own numbers and words."""
    for one in fields(instance):
        if "check" in one.metadata:
            object.__setattr__(instance, one.name, one.metadata["check"](one.name, getattr(instance, one.name)))
