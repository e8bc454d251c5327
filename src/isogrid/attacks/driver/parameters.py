"""Verifying an attack's parameters when it is constructed: one line with the name, the value that was given and what is accepted."""

from __future__ import annotations

import math

from isogrid.core.errors import InputError


def require(name: str, value: object, ok: bool, accepted: str) -> None:
    """Verify a parameter when an attack is constructed: raise InputError unless `ok`."""
    if isinstance(value, bool) or not ok:
        raise InputError(name, value, accepted)


def require_whole(name: str, value: object, least: int = 1, *, otherwise: str = "") -> None:
    """Raise InputError unless `value` is an integer >= `least`, or None where `otherwise` says what None stands for."""
    ok = (value is None and bool(otherwise)) or (isinstance(value, int) and value >= least)
    require(name, value, ok, f"an integer >= {least}" + (f", or None for {otherwise}" if otherwise else ""))


def require_number(name: str, value: object, low: float, high: float = math.inf, *, low_open: bool = False, high_open: bool = True) -> None:
    """Raise InputError unless `value` is a finite number from `low` to `high`, the ends as the flags say."""
    number = isinstance(value, int | float) and math.isfinite(value)
    ok = number and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)  # type: ignore[operator]
    lower = f"{'>' if low_open else '>='} {low:g}"
    require(name, value, ok, f"a finite number {lower}" + ("" if high == math.inf else f" and {'<' if high_open else '<='} {high:g}"))
