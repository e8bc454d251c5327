"""Parameters that no fixed-budget attack can use are refused when it is constructed, in one line with the value that was given."""

from __future__ import annotations

import dataclasses
import math

import pytest

from isogrid.attacks import APGDCE, APGDDLR, APGDT, FGS, PGD, RFGS, Attack, AutoAttack, HopSkipJump, Minimise, Noise, Square, Wrapped
from isogrid.core.errors import InputError

KINDS = (PGD, APGDCE, APGDDLR, APGDT, Square, Noise, HopSkipJump, FGS, RFGS, Minimise, AutoAttack)
WHOLE = ("steps", "restarts", "queries", "draws", "targets", "searches", "probes", "trials")
REAL = ("eps", "rel_step", "share", "tolerance", "prospect")


def cases():
    for cls in KINDS:
        names = {f.name for f in dataclasses.fields(cls)}
        for name in sorted(names.intersection(WHOLE)):
            yield from ((cls, name, value) for value in (0, -1, 2.5, 2.0, math.inf, math.nan, True, "3"))
        for name in sorted(names.intersection(REAL)):
            yield from ((cls, name, value) for value in (-1.0, math.inf, math.nan, True, "wide"))


@pytest.mark.parametrize(("cls", "name", "value"), list(cases()))
def test_refused_in_one_line_that_shows_the_value(cls: type[Attack], name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        cls(**{name: value})
    assert str(caught.value).startswith(f"{name}: got {value}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "wide"])
def test_a_callables_budget_is_checked_too(value: object) -> None:
    with pytest.raises(InputError, match="eps: got"):
        Wrapped(target="math:hypot", eps=value)
