"""What a law is, and how laws are run. The laws themselves: attack_laws.py, pruner_laws.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from isogrid.core.errors import one_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Law(Generic[T]):
    """A named property: `check(subject)` raises AssertionError, saying what was seen, where the subject breaks it."""

    name: str
    statement: str
    check: Callable[[T], None]


def laws(*table: tuple[str, str, Callable[[T], None]]) -> dict[str, Law[T]]:
    """The laws of rows (name, statement, check), by name."""
    return {name: Law(name=name, statement=statement, check=check) for name, statement, check in table}


def demand(condition: bool, text: str) -> None:
    """Raise AssertionError(text) unless `condition`; unlike `assert`, it also holds under `python -O`."""
    if not condition:
        raise AssertionError(text)


def check(subject: T, known: Mapping[str, Law[T]], names: Iterable[str] | None) -> None:
    """Run the named laws (None: all) and raise one AssertionError that lists every broken one; InputError for an unknown name."""
    broken = []
    for name in known if names is None else names:
        if name not in known:
            raise one_of("law", name, known)
        try:
            with torch.random.fork_rng(devices=[]):  # building layers draws from the global state: the caller's stays
                known[name].check(subject)
        except AssertionError as error:
            broken.append(f"{name} ({known[name].statement}): {error}")
    if broken:
        raise AssertionError(f"{subject!r} breaks {len(broken)} law(s):\n" + "\n".join(broken))
