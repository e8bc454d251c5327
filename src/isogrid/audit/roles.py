"""What an attack's success and failure say about masked gradients. What does not belong here: comparing them (`audit.masking`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from isogrid.attacks import ATTACKS, AutoAttack, config_of, make
from isogrid.attacks.driver.base import Attack

Role = Literal["gradient-free", "mixed", "weak", "strong"]
"""gradient-free: it uses no gradient of this model. weak, strong: its successes are gradients' work; that it failed says little where it is
weak, and that gradients lead nowhere where it is strong. mixed: nobody can tell which of its parts succeeded."""
WEAK: Final = ("fgs", "rfgs", "deepfool", "superdeepfool", "callable")
"""Single steps, linearisations that stop at the first boundary they meet, and what nobody knows."""


def role_of(attack: Attack) -> Role:
    """The role of an attack, from its parts where it has some.

    >>> from isogrid.attacks import FGS, PGD, AutoAttack, Ensemble, Square, minimise
    >>> [role_of(a) for a in (FGS(eps=0.1), PGD(eps=0.1), minimise(Square(eps=0.1)), AutoAttack(eps=0.1))]
    ['weak', 'strong', 'gradient-free', 'mixed']
    """
    return "gradient-free" if attack.gradient_free else role_of_config(config_of(attack))


def role_of_config(config: Mapping[str, Any]) -> Role:
    """The same from a stored configuration, whose attack need not be there any more."""
    name = str(config["name"])
    parts = _parts(config)
    if parts:
        roles = {role_of_config(part) for part in parts}
        if roles == {"gradient-free"}:
            return "gradient-free"
        return "mixed" if roles & {"gradient-free", "mixed"} else "strong" if "strong" in roles else "weak"
    if name in ATTACKS and ATTACKS[name].gradient_free is True:
        return "gradient-free"
    return "weak" if name in WEAK else "strong"


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if config["name"] == AutoAttack.name:
        made = make(config)
        return [config_of(part) for part in made.parts] if isinstance(made, AutoAttack) else []
    inner = config.get("attacks") or [config.get("attack")]
    return [part for part in inner if isinstance(part, Mapping)]


__all__ = ["Role", "role_of", "role_of_config"]
