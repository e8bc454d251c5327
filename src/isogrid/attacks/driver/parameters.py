"""An attack's parameters: the word by which a name in tables shows a departure from publication, beside what every setting has.

Defaults are the published settings; what we add to an attack is a parameter with a `word`, off by default, and that word stands in the
attack's id wherever it is on: a published name alone means the published attack. The driver checks every one when an attack is constructed.
What does not belong here: rules between two parameters (`Attack.agree`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from isogrid.core.parameters import check_parameters, choice, number, require, require_number, require_whole, switch, whole


def departures(attack: Any) -> list[str]:
    """What sets `attack` apart from its published form: the words of the parameters that have one and are not at their default.

    >>> from isogrid.attacks import APGDT, DDN
    >>> departures(DDN(converge=True, steps=50)), departures(APGDT(eps=0.1, steps=20))
    (['converging'], [])
    """
    return [one.metadata["word"] for one in fields(attack) if one.metadata.get("word") and getattr(attack, one.name) != one.default]


__all__ = ["check_parameters", "choice", "departures", "number", "require", "require_number", "require_whole", "switch", "whole"]
