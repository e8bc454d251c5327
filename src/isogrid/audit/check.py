"""`Check`: one thing that a reviewer would hold against the figures of a level. Not here: the checks, one file per family of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from isogrid.audit.findings import Severity
from isogrid.audit.records import LevelInputs

MANY: Final = 0.01
"""A share of samples above which a finding counts, and at least two samples where one could be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What a check saw: on which attack or threat model (`about`; "" where it is the level itself), how much of it (`share`, 0 to 1; of two
    occurrences of one check about the same, the larger one is worse), and both in words."""

    about: str
    share: float
    text: str


Occurrences = Iterator[Occurrence]


class Scope(NamedTuple):
    """Whether a check had something to judge, and what it left out, for which reason ("" for nothing)."""

    judged: bool
    gap: str = ""


CLEAN: Final = Scope(True)
"""Of a check that looks at the clean samples, which every level has."""


class Check(ABC):
    """A finding in waiting. A new one is a class in the file of its family and a row in `audit.CHECKS`.

    code: IG001 ..., never used again for something else. severity: "error" (the figures cannot be used), "warning" (may mislead), "info".
    remedy: what to do about it. All three are the same wherever it is found; what differs is told by its occurrences.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    remedy: ClassVar[str]

    @abstractmethod
    def applies(self, inputs: LevelInputs) -> Scope:
        """What there is to judge: a check that did not fire has passed only where it looked."""

    @abstractmethod
    def look(self, inputs: LevelInputs) -> Occurrences:
        """What it finds in a level's records: a pure function of them."""


def many(count: int, total: int, least: int = 1) -> bool:
    """Whether so many of `total` samples are more than chance."""
    return count >= least and count > MANY * total


def of(count: int, total: int) -> str:
    """Both in words."""
    return f"{count} of {total} ({count / max(total, 1):.1%})"


def share(count: int, total: int, about: str, text: str) -> Occurrence:
    """What was seen on `count` of `total` samples."""
    return Occurrence(about=about, share=count / max(total, 1), text=text)


def whole(text: str) -> Occurrence:
    """What is so or not, in no degree, and of the level itself."""
    return Occurrence(about="", share=1.0, text=text)


def where(judged: object, gap: str) -> Scope:
    """The scope of a check that has something to judge, or misses what `gap` says."""
    return Scope(True) if judged else Scope(False, gap)


__all__ = ["CLEAN", "Check", "Occurrence", "Occurrences", "Scope", "many", "of", "share", "where", "whole"]
