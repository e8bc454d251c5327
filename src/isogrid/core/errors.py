"""The exceptions of isogrid. What belongs here: types that more than one layer raises. What does not: messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsogridError(Exception):
    """Any failure that isogrid explains in one line; the command line prints it and exits with 2."""


class InputError(IsogridError, ValueError):
    """Something that the user gave cannot be used.

    The message is one line that names the field, the value and what is accepted:

    >>> str(InputError("eps", -1, "a number >= 0"))
    'eps: got -1; accepted: a number >= 0'
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        self.field, self.value, self.accepted = field, value, accepted
        shown = value if isinstance(value, str) else repr(value)
        shown = " ".join(str(shown).split())
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(f"{field}: got {shown}; accepted: {' '.join(accepted.split())}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.accepted)


class ModelError(IsogridError):
    """The model does not behave as a classifier: NaN logits, probabilities, wrong shape, an exception in forward."""


def one_of(field: str, value: str, names: Iterable[str]) -> InputError:
    """The error for an unknown name, with the nearest accepted one.

    >>> str(one_of("attack", "fgsm", ["fgs", "pgd"]))
    'attack: got fgsm; accepted: fgs, pgd (did you mean fgs?)'
    """
    accepted = sorted(names)
    near = difflib.get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return InputError(field, value, ", ".join(accepted) + hint)
