"""An attack's parameters: their defaults, what they accept, and the word by which a name in tables shows a departure from publication.

A parameter is a field `steps: int = whole(100)`; the driver checks every one when an attack is constructed, and a wrong one is one line
with its name, the value that was given and what is accepted. Defaults are the published settings; what we add to an attack is a parameter
with a `word`, off by default, and that word stands in the attack's id wherever it is on: a published name alone means the published attack.
What does not belong here: rules between two parameters (`Attack.agree`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import field, fields
from typing import Any

from isogrid.core.errors import InputError, one_of

Check = Callable[[str, Any], None]


def require(name: str, value: object, ok: bool, accepted: str) -> None:
    """Raise InputError unless `ok`; a bool is no number."""
    if isinstance(value, bool) or not ok:
        raise InputError(name, value, accepted)


def require_whole(name: str, value: object, least: int = 1, *, otherwise: str = "") -> None:
    """Raise InputError unless `value` is an integer >= `least`, or None where `otherwise` says what None stands for."""
    ok = (value is None and bool(otherwise)) or (isinstance(value, int) and value >= least)
    require(name, value, ok, f"an integer >= {least}" + (f", or None for {otherwise}" if otherwise else ""))


def require_number(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = True,
    otherwise: str = "",
) -> None:
    """Raise InputError unless `value` is a finite number from `low` to `high`, the ends as the flags say, or None as `otherwise` says."""
    number = isinstance(value, int | float) and math.isfinite(value)
    ok = number and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)  # type: ignore[operator]
    range_ = f"a finite number {'>' if low_open else '>='} {low:g}"
    range_ += "" if high == math.inf else f" and {'<' if high_open else '<='} {high:g}"
    require(name, value, ok or (value is None and bool(otherwise)), range_ + (f", or None for {otherwise}" if otherwise else ""))


def whole(default: int | None, least: int = 1, *, otherwise: str = "") -> Any:
    """A parameter that is an integer >= `least`, or None where `otherwise` says what None stands for."""
    return _parameter(default, lambda name, value: require_whole(name, value, least, otherwise=otherwise))


def number(default: float | None, low: float, high: float = math.inf, *, word: str = "", **rest: Any) -> Any:
    """A parameter that is a finite number; see `require_number`."""
    return _parameter(default, lambda name, value: require_number(name, value, low, high, **rest), word)


def choice(default: str, accepted: Collection[str], word: str = "") -> Any:
    """A parameter that is one of the `accepted` words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in accepted:
            raise one_of(name, value, accepted)

    return _parameter(default, check, word)


def switch(default: bool, word: str = "") -> Any:
    """A parameter that is True or False."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise InputError(name, value, "true or false")

    return _parameter(default, check, word)


def _parameter(default: Any, check: Check, word: str = "") -> Any:
    return field(default=default, metadata={"check": check, "word": word})


def check_parameters(attack: Any) -> None:
    """Raise InputError for the first parameter of `attack` that is not accepted."""
    for one in fields(attack):
        if "check" in one.metadata:
            one.metadata["check"](one.name, getattr(attack, one.name))


def departures(attack: Any) -> list[str]:
    """What sets `attack` apart from its published form: the words of the parameters that have one and are not at their default.

    >>> from isogrid.attacks import APGDT, DDN
    >>> departures(DDN(converge=True, steps=50)), departures(APGDT(eps=0.1, steps=20))
    (['converging'], [])
    """
    return [one.metadata["word"] for one in fields(attack) if one.metadata.get("word") and getattr(attack, one.name) != one.default]
