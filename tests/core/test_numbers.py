"""Numbers of every kind that people hand over become Python's; nothing else passes for one."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from isogrid.core.errors import InputError
from isogrid.core.numbers import limits, real, whole

NO_NUMBERS = [
    None, "1", b"1", True, np.True_, torch.tensor(True), 1j, np.complex64(1), torch.tensor(1j), [1], (1,), {}, np.zeros(1), np.zeros(2),
    torch.zeros(1), torch.zeros(2, 2), torch.zeros((), device="meta"), np.array("1"), np.datetime64("2024"), object(), int, Decimal("1"),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number(value):
    assert real(value) is None
    assert whole(value) is None


@given(st.floats(width=32), st.integers(-(2**31), 2**31 - 1))
def test_every_kind_of_number_is_read(number, integer):
    for same in (number, np.float64(number), np.array(number), torch.tensor(number, dtype=torch.float64)):
        assert real(same) == number or math.isnan(number)
        assert whole(same) == (int(number) if number.is_integer() else None)
    for same in (np.float32(number), torch.tensor(number), np.array(number, dtype=np.float32)):
        found = real(same)
        assert np.float32(found) == np.float32(number) or math.isnan(number)
        assert isinstance(found, float)
    for same in (integer, np.int64(integer), np.int32(integer), torch.tensor(integer), np.array(integer)):
        assert whole(same) == integer == real(same)
        assert type(whole(same)) is int


def test_narrow_numbers_are_the_decimals_that_they_stand_for():
    assert [real(kind(0.1)) for kind in (np.float32, np.float16, torch.tensor)] == [0.1, 0.1, 0.1]
    assert real(Fraction(1, 4)) == 0.25
    assert real(10**400) == math.inf
    assert real(-(10**400)) == -math.inf
    assert real(torch.tensor(0.5, dtype=torch.bfloat16)) == 0.5
    assert real(torch.nn.Parameter(torch.tensor(0.5))) == 0.5


@pytest.mark.parametrize(
    "value", [(0, 1), [0, 1], np.array([0.0, 1.0]), torch.tensor([0, 1]), (np.float32(0), torch.tensor(1.0)), iter((0, 1))]
)
def test_limits_of_every_kind(value):
    assert limits(value) == (0.0, 1.0)


@pytest.mark.parametrize(
    "value", [None, 1, "01", (0,), (0, 1, 2), (1, 0), (0, 0), (0, math.inf), (math.nan, 1), (True, 2), np.zeros((2, 2)), {}]
)
def test_limits_that_are_none(value):
    with pytest.raises(InputError, match=r"^edges: got .*low < high"):
        limits(value, "edges")
