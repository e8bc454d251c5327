"""Numbers as people hand them over: Python's, numpy's, tensors of one element. What does not belong here: which ones a field accepts."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np
from torch import Tensor

from isogrid.core.errors import InputError


def real(value: object) -> float | None:
    """Any real number as a float; None for text, truth values, complex numbers, and whatever else is none.

    A number of 32 bits becomes the shortest decimal that it stands for: np.float32(0.1) is 0.1 and not 0.10000000149.

    >>> import numpy as np, torch
    >>> real(3), real(np.float32(0.1)), real(torch.tensor(0.5)), real("3"), real(True)
    (3.0, 0.1, 0.5, None, None)
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        return None
    try:
        return float(plain)
    except OverflowError:
        return math.inf if plain == abs(plain) else -math.inf


def whole(value: object) -> int | None:
    """Any integer as an int, a whole float (1e2) among them; None for truth values, and whatever else is none.

    >>> import numpy as np
    >>> whole(np.int64(5)), whole(1e2), whole(0.5), whole(True)
    (5, 100, None, None)
    """
    plain = _plain(value)
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    try:
        return None if isinstance(plain, bool) else operator.index(plain)
    except TypeError:
        return None


SLACK = 1e-6
"""The share of a box's larger end by which a value may lie outside: 8 units in the last place of float32."""


def beside(low: float, high: float, box: tuple[float, float]) -> bool:
    """Whether values from `low` to `high` leave the box by more than rounding, which is SLACK of its larger end."""
    slack = SLACK * max(map(abs, box))
    return low < box[0] - slack or high > box[1] + slack


def limits(value: Any, field: str = "box") -> tuple[float, float]:
    """(low, high) of a box of inputs, from any two finite real numbers with low < high; raises InputError that names `field`."""
    try:
        low, high = (real(end) for end in value)
    except (TypeError, ValueError):
        low = high = None
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(field, value, "two finite numbers (low, high) with low < high, the same for every value of a sample")
    return low, high


def sizes(shape: Any, field: str = "shape") -> tuple[int, ...]:
    """The sides of one sample as a tuple of integers >= 1; raises InputError that names `field`."""
    try:
        sides = [whole(side) for side in shape]
    except TypeError:
        sides = []
    if not sides or not all(side is not None and side >= 1 for side in sides):
        raise InputError(field, shape, "the sides of one sample, as (1, 28, 28)")
    return tuple(side for side in sides if side is not None)


def _plain(value: Any) -> Any:
    """A tensor or an array of one element as Python's own number; anything else as it is."""
    if not (isinstance(value, Tensor) or hasattr(value, "__array__")):
        return value
    if getattr(value, "shape", None) != () or (isinstance(value, Tensor) and value.is_meta):
        return None
    found = value.item()
    narrow = _NARROW.get(str(value.dtype).removeprefix("torch."))
    return float(str(narrow(found))) if narrow is not None else found


_NARROW = {"float32": np.float32, "float16": np.float16}
