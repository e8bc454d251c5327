"""Attacks: one file each, all under the final driver of `attacks.base`; `ATTACKS` is the registry, one row an attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from isogrid.attacks.base import Attack, AttackOutcome, Domain, Problem
from isogrid.attacks.fgs import FGS, RFGS
from isogrid.attacks.pgd import PGD
from isogrid.core.errors import InputError, one_of

ATTACKS: dict[str, type[Attack]] = {cls.name: cls for cls in (FGS, RFGS, PGD)}


def make(config: Mapping[str, Any]) -> Attack:
    """An attack from its name and parameters; raises InputError for an unknown name or parameter, with the nearest accepted one.

    >>> make({"name": "fgs", "eps": 0.1})
    FGS(domain='box', eps=0.1)
    """
    values = dict(config)
    name = values.pop("name", None)
    if name not in ATTACKS:
        raise one_of("attack", str(name), ATTACKS)
    cls = ATTACKS[name]
    accepted = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in accepted:
            raise one_of(f"attack {name}", key, accepted)
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"attack {name}", values, f"values of the right type ({error})") from None


def config_of(attack: Attack) -> dict[str, Any]:
    """The name and every parameter, defaults included: what a task's key is made of; `make` turns it back."""
    return {"name": attack.name} | {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}


__all__ = ["ATTACKS", "FGS", "PGD", "RFGS", "Attack", "AttackOutcome", "Domain", "Problem", "config_of", "make"]
