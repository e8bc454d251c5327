"""Attacks: one file each, all under the final driver of `attacks.driver.base`; `ATTACKS` is the registry, one row an attack.

`COMPOSED` holds those that are made of something given (a function, other attacks) and so stand for no attack by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from isogrid.attacks.apgd import APGDCE, APGDDLR, APGDT
from isogrid.attacks.autoattack import AutoAttack, Ensemble
from isogrid.attacks.callable import Wrapped
from isogrid.attacks.carlini_wagner import CarliniWagner
from isogrid.attacks.ddn import DDN
from isogrid.attacks.deepfool import DeepFool, SuperDeepFool
from isogrid.attacks.driver.base import Attack, AttackOutcome, Domain, Problem
from isogrid.attacks.fab import FAB
from isogrid.attacks.fgs import FGS, RFGS
from isogrid.attacks.fmn import FMN
from isogrid.attacks.hopskipjump import HopSkipJump
from isogrid.attacks.minimise import Minimise, minimise
from isogrid.attacks.noise import Noise
from isogrid.attacks.pgd import PGD
from isogrid.attacks.square import Square
from isogrid.attacks.transfer import Transfer, transfer_matrix
from isogrid.core.errors import InputError, one_of

ATTACKS: dict[str, type[Attack]] = {
    cls.name: cls
    for cls in (
        FGS,
        RFGS,
        PGD,
        APGDCE,
        APGDDLR,
        APGDT,
        Square,
        AutoAttack,
        DeepFool,
        SuperDeepFool,
        CarliniWagner,
        DDN,
        FMN,
        FAB,
        HopSkipJump,
        Noise,
    )
}
COMPOSED: dict[str, type[Attack]] = {cls.name: cls for cls in (Wrapped, Ensemble, Minimise)}


def make(config: Mapping[str, Any]) -> Attack:
    """An attack from its name and parameters; raises InputError for an unknown name or parameter, with the nearest accepted one.

    >>> make({"name": "fgs", "eps": 0.1})
    FGS(domain='box', eps=0.1, backward='exact')
    """
    if not isinstance(config, Mapping):
        raise InputError("attack", config, "a name and parameters, as {'name': 'fgs', 'eps': 0.1}")
    values = {str(key): _parts(value) for key, value in config.items()}
    name = values.pop("name", None)
    known = ATTACKS | COMPOSED
    if name not in known:
        raise one_of("attack", str(name), known)
    cls = known[name]
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
    return {"name": attack.name} | {f.name: _plain(getattr(attack, f.name)) for f in dataclasses.fields(attack)}


def _parts(value: Any) -> Any:
    """Configurations inside a configuration, made into attacks."""
    if isinstance(value, Mapping):
        return make(value)
    return tuple(_parts(part) for part in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Attack):
        return config_of(value)
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


__all__ = [
    "APGDCE",
    "APGDDLR",
    "APGDT",
    "ATTACKS",
    "COMPOSED",
    "DDN",
    "FAB",
    "FGS",
    "FMN",
    "PGD",
    "RFGS",
    "Attack",
    "AttackOutcome",
    "AutoAttack",
    "CarliniWagner",
    "DeepFool",
    "Domain",
    "Ensemble",
    "HopSkipJump",
    "Minimise",
    "Noise",
    "Problem",
    "Square",
    "SuperDeepFool",
    "Transfer",
    "Wrapped",
    "config_of",
    "make",
    "minimise",
    "transfer_matrix",
]
