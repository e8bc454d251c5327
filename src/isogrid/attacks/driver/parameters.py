"""An attack's parameters: their defaults, what they accept, and the word by which a name in tables shows one that was changed.

A parameter is a field `steps: int = whole(100)`; the driver checks every one when an attack is constructed, and a wrong one is one line
with its name, the value that was given and what is accepted. Defaults are the published settings (or, where nobody published any, ours):
`departures` says which ones an attack departs from. What does not belong here: rules between two parameters (`Attack.agree`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import Field, field, fields
from typing import Any

from isogrid.core.errors import InputError, one_of

Check = Callable[[str, Any], None]
THREAT = ("eps", "norm", "domain")
"""Parameters that say what is attacked and not how; names in tables show them in ways of their own."""


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


def number(default: float | None, low: float, high: float = math.inf, **rest: Any) -> Any:
    """A parameter that is a finite number; see `require_number`."""
    return _parameter(default, lambda name, value: require_number(name, value, low, high, **rest))


def choice(default: str, accepted: Collection[str]) -> Any:
    """A parameter that is one of the `accepted` words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in accepted:
            raise one_of(name, value, accepted)

    return _parameter(default, check)


def switch(default: bool, word: str = "") -> Any:
    """A parameter that is True or False; `word` says in tables that it is not at its default (none: `name=value`)."""

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
    """What sets `attack` apart from its published form, one word for each parameter that is not at its default.

    >>> from isogrid.attacks import APGDT
    >>> departures(APGDT(eps=0.1, steps=20, prospect=0.8))
    ['steps=20', 'prospect=0.8']
    """
    changed = [one for one in fields(attack) if "check" in one.metadata and one.name not in THREAT]
    return [_word(one, getattr(attack, one.name)) for one in changed if getattr(attack, one.name) != one.default]


def _word(parameter: Field[Any], value: Any) -> str:
    if isinstance(value, str):
        return value
    shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
    return str(parameter.metadata["word"]) or f"{parameter.name}={shown}"
