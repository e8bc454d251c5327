"""What is written through a type comes back as it, whatever is in it; what is no such thing is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, strategies as st

from isogrid.core.errors import InputError
from isogrid.core.typed import Number, plain, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    at: tuple[int, ...] = ()
    low: Number = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Inner):
    name: str
    inner: Inner | None = None
    parts: tuple[Inner, ...] = ()
    by_level: dict[int, float] = field(default_factory=dict)
    p: float | None = None


finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, at=st.lists(st.integers(-5, 5), max_size=3).map(tuple), low=finite)
outers = st.builds(
    Outer,
    name=st.text(max_size=5),
    inner=st.none() | inners,
    parts=st.lists(inners, max_size=3).map(tuple),
    by_level=st.dictionaries(st.integers(0, 9), finite, max_size=3),
    p=st.none() | finite,
)


@given(outers)
def test_what_is_written_comes_back(one):
    assert typed(Outer, json.loads(json.dumps(plain(one), allow_nan=False)), "file") == one


@pytest.mark.parametrize("low", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_are_null_and_come_back_as_none_at_all(low):
    stored = plain(Inner(low=low))
    assert stored["low"] is None
    assert math.isnan(typed(Inner, stored, "file").low)
    assert plain(typed(Inner, stored, "file")) == stored


def test_studies_of_other_versions_are_read():
    assert typed(Outer, {"name": "a", "new": 1}, "file") == Outer(name="a")


@pytest.mark.parametrize(("value", "said"), [({}, "name"), ({"name": "a", "parts": [{"low": "x"}]}, r"parts\.0\.low"), (3, "file")])
def test_what_is_no_such_thing_is_refused_by_name(value, said):
    with pytest.raises(InputError, match=said) as caught:
        typed(Outer, value, "file")
    assert "\n" not in str(caught.value)
