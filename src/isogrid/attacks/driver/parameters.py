"""An attack's parameters: their defaults, what they accept, and the word by which a name in tables shows a departure from publication.

A parameter is a field `steps: int = whole(100)`; the driver checks every one when an attack is constructed, and a wrong one is one line
with its name, the value that was given and what is accepted. Defaults are the published settings; what we add to an attack is a parameter
with a `word`, off by default, and that word stands in the attack's id wherever it is on: a published name alone means the published attack.
What does not belong here: rules between two parameters (`Attack.agree`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import MISSING, field, fields
from typing import Any, Final

from isogrid.core import numbers as plain
from isogrid.core.errors import InputError, one_of

REQUIRED: Final[Any] = MISSING
"""In the place of a default: the parameter has to be given."""
Check = Callable[[str, Any], Any]
"""From a parameter's name and the value that was given to the value that is kept; raises InputError."""


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
    range_ = f"a finite number {'>' if low_open else '>='} {low:g}"
    range_ += "" if high == math.inf else f" and {'<' if high_open else '<='} {high:g}"
    require(name, value, ok, range_ + _or_none(otherwise))
    return found


def _or_none(otherwise: str) -> str:
    return f", or None for {otherwise}" if otherwise else ""


def whole(default: int | None, least: int = 1, *, otherwise: str = "") -> Any:
    """A parameter that is an integer >= `least`, or None where `otherwise` says what None stands for."""
    return _parameter(default, lambda name, value: require_whole(name, value, least, otherwise=otherwise))


def number(default: float | None, low: float, high: float = math.inf, *, word: str = "", **rest: Any) -> Any:
    """A parameter that is a finite number; see `require_number`."""
    return _parameter(default, lambda name, value: require_number(name, value, low, high, **rest), word)


def choice(default: str, accepted: Collection[str], word: str = "") -> Any:
    """A parameter that is one of the `accepted` words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in accepted:
            raise one_of(name, value, accepted)
        return value

    return _parameter(default, check, word)


def switch(default: bool, word: str = "") -> Any:
    """A parameter that is True or False."""

    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(name, value, "true or false")
        return value

    return _parameter(default, check, word)


def _parameter(default: Any, check: Check, word: str = "") -> Any:
    return field(default=default, metadata={"check": check, "word": word})


def check_parameters(attack: Any) -> None:
    """Raise InputError for the first parameter of `attack` that is not accepted; those that are become Python's own numbers and words."""
    for one in fields(attack):
        if "check" in one.metadata:
            object.__setattr__(attack, one.name, one.metadata["check"](one.name, getattr(attack, one.name)))


def departures(attack: Any) -> list[str]:
    """What sets `attack` apart from its published form: the words of the parameters that have one and are not at their default.

    >>> from isogrid.attacks import APGDT, DDN
    >>> departures(DDN(converge=True, steps=50)), departures(APGDT(eps=0.1, steps=20))
    (['converging'], [])
    """
    return [one.metadata["word"] for one in fields(attack) if one.metadata.get("word") and getattr(attack, one.name) != one.default]
