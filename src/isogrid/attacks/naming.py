"""The names of attacks in tables, ids of records. Not here: labels that a user gives."""

from __future__ import annotations

from isogrid import attacks
from isogrid.attacks.driver.base import Attack


def attack_id(attack: Attack) -> str:
    """The short name of an attack in tables: its name, norm where it has a choice, eps where it has one, domain where not its default.

    A `minimise` is called after what it minimises.

    >>> attack_id(attacks.make({"name": "fgs", "eps": 0.1}))
    'fgs@0.1'
    """
    if isinstance(attack, attacks.Minimise):
        return f"minimise-{_threat_id(attack.attack)}"  # its own budget is none, and its inner one only where the search begins
    return with_eps(_threat_id(attack), attack.budget)


def with_eps(identity: str, eps: float | None) -> str:
    """A name in tables with its budget, which stands after the last `@`."""
    return identity if eps is None else f"{identity}@{eps:g}"


def _threat_id(attack: Attack) -> str:
    fields = type(attack).__dataclass_fields__
    identity = getattr(attack, "label", "") or attack.name  # attacks that wrap something may carry a name of their own
    if "norm" in fields and attack.threat.name != fields["norm"].default:
        identity += f"-{attack.threat.name}"
    if attack.domain != fields["domain"].default:
        identity += f"-{attack.domain}"
    return identity
