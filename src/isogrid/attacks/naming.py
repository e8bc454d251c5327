"""The names of attacks in tables, ids of records. Not here: labels that a user gives."""

from __future__ import annotations

from isogrid import attacks
from isogrid.attacks.driver.base import Attack
from isogrid.attacks.driver.parameters import departures


def attack_id(attack: Attack) -> str:
    """The short name of an attack in tables: its name, norm where it has a choice, domain where not its default, what departs from the
    published attack (`departures`), eps where it has one.

    A `minimise` is called after what it minimises.

    >>> attack_id(attacks.make({"name": "fgs", "eps": 0.1})), attack_id(attacks.make({"name": "ddn", "converge": True}))
    ('fgs@0.1', 'ddn-converging')
    >>> attack_id(attacks.make({"name": "autoattack", "norm": "l2", "eps": 0.5, "thrifty": True}))
    'autoattack-l2-thrifty@0.5'
    """
    if isinstance(attack, attacks.Minimise):
        # its own budget is none, and its inner one only where the search begins
        return "-".join([f"minimise-{_threat_id(attack.attack)}", *departures(attack)])
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
    return "-".join([identity, *departures(attack)])
