"""What an audit says, as plain values: findings, and what became of every check. Not here: how they come about (`audit.check`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]
State = Literal["found", "passed", "not checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a reviewer would hold against the figures of a level, and what to do about it.

    code: IG001 ... ; severity: "error" (the figures cannot be used), "warning" (they may mislead), "info". about: the attack or threat
    model ("" for the level itself); share: how much of it, 0 to 1. model, method, level: where.
    """

    code: str
    severity: Severity
    title: str
    detail: str
    remedy: str
    about: str = ""
    share: float = 0.0
    model: str = ""
    method: str = ""
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became of one check. gap: what it could not look at and why; one that could look at nothing is "not checked"."""

    code: str
    severity: Severity
    title: str
    state: State
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFinding(Finding):
    """A finding on several levels and seeds of one arm, told once: `detail`, `share`, `level` and `seed` are those of the worst."""

    data: str = ""
    objective: str = ""
    penalty: str = ""
    control: bool = False
    seed: int | None = None
    levels: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCheck(Checked):
    """What became of one check on so many networks of one arm: on which levels, in which seeds."""

    data: str = ""
    model: str
    objective: str = ""
    penalty: str = ""
    method: str
    control: bool = False
    networks: int
    levels: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found, and what became of every check, both in the order of the codes."""

    findings: list[Finding]
    checks: list[Checked]


__all__ = ["Audit", "Checked", "Finding", "PlacedCheck", "PlacedFinding", "Severity", "State"]
