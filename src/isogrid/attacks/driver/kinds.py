"""The kinds of attacks: with a fixed budget, minimum-norm, either; and composed of others, which answers for its parts.

What belongs here: what every attack of a kind says in the same way. What does not: an algorithm, or the driver (`driver.base`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

from isogrid.attacks.driver.base import Attack, Role
from isogrid.attacks.driver.parameters import number
from isogrid.core.norms import NORMS, Norm

SPENT = 0.4
"""About the share of its full effort that an attack spends, since samples leave as they break or converge: for forecasts only."""
FORWARD = 1 / 3
"""About what a forward pass costs of a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm(Attack):
    """An attack of its own, which works in the norm that it declares as `norm`: an attribute, or a parameter where it has the choice."""

    effort: ClassVar[str | None] = None
    """The parameter that says how long it works, for the audit to double; None where it has none or uses no gradient."""

    @property
    @abstractmethod
    def norm(self) -> str:
        """The name of its norm."""

    @final
    @property
    def threat(self) -> Norm:
        return NORMS[self.norm]

    @property
    def unset(self) -> Mapping[str, Any]:
        """What a parameter that is None stands for, where that is a plain number."""
        return {}

    @final
    def value(self, name: str) -> Any:
        """A parameter, or what its None stands for."""
        given = getattr(self, name)
        return self.unset.get(name) if given is None else given

    @final
    def doubled(self) -> Self | None:
        return None if self.effort is None else replace(self, **{self.effort: 2 * self.value(self.effort)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedBudget(Algorithm):
    """An attack within `eps` >= 0, in the units of x: it looks for any misclassified point of the ball."""

    eps: float = number(0.1, 0)

    @final
    @property
    def budget(self) -> float:
        return self.eps


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumNorm(Algorithm):
    """An attack that looks for the closest misclassified point."""

    @final
    @property
    def budget(self) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EitherKind(Algorithm):
    """An attack that is minimum-norm where `eps` is None, and gives a verdict within `eps` where it is a number."""

    eps: float | None = number(None, 0, otherwise="a minimum-norm attack")

    @final
    @property
    def budget(self) -> float | None:
        return self.eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed(Attack):
    """An attack that is made of others, its `parts` (one or more, of one norm and domain), and says of itself what follows from theirs."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Attack, ...]:
        """The attacks that it is made of."""

    @final
    @property
    def threat(self) -> Norm:
        return self.parts[0].threat

    @final
    @property
    def role(self) -> Role:
        return together(part.role for part in self.parts)

    @final
    @property
    def strength(self) -> Mapping[str, int]:
        return {norm: max(part.strength.get(norm, 0) for part in self.parts) for norm in NORMS}


def together(roles: Iterable[Role]) -> Role:
    """What attacks of these roles say together: nobody can tell whether a gradient-free part of a mixture found what was found.

    >>> together(["weak", "strong"]), together(["strong", "gradient-free"])
    ('strong', 'mixed')
    """
    found = set(roles)
    if found == {"gradient-free"}:
        return "gradient-free"
    return "mixed" if found & {"gradient-free", "mixed"} else "strong" if "strong" in found else "weak"
