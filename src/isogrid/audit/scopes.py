"""What each check had to judge, and why not where there was nothing: a rule that did not fire has passed only where it looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from isogrid.audit import checks
from isogrid.audit.masking import Case, cases
from isogrid.audit.records import LevelInputs


class Scope(NamedTuple):
    """Whether there was something to judge, and what was left out, for which reason ("" for nothing)."""

    judged: bool
    gap: str = ""


def everywhere(_inputs: LevelInputs) -> Scope:
    """For rules that look at the clean samples, which every level has."""
    return Scope(True)


def where(judged: Callable[[LevelInputs], object], gap: str) -> Callable[[LevelInputs], Scope]:
    """The scope of a rule that has something to judge, or misses what `gap` says."""

    def scope(inputs: LevelInputs) -> Scope:
        return Scope(True) if judged(inputs) else Scope(False, gap)

    return scope


gradients = where(lambda inputs: checks.white(inputs) or inputs.clean.reach is not None, "no gradient was asked for")
repeated = where(lambda inputs: inputs.clean.repeat_difference is not None, "the logits were not evaluated twice, or are not finite")
distances = where(checks.minimum_norm, "no minimum-norm attack")
budgets = where(checks.fixed, "no white-box attack with a budget")
several = where(lambda inputs: len(inputs.clean.prediction) > 1, "one sample only")
handed_over = where(lambda inputs: inputs.clean.training is not None, "a study puts its networks in eval mode itself")
doubled = where(
    lambda inputs: inputs.doubled, "no attack was repeated with twice its steps (a study's `audit:` does that where attacks have steps)"
)
grown = where(
    lambda inputs: inputs.growth,
    "no attack of several steps was run at growing budgets (a study's `audit:` does that, and so does a grid of eps)",
)


def masking(inputs: LevelInputs) -> Scope:
    """IG005 compares threat model by threat model, and lacks now the one side, now the other."""
    found = list(cases(inputs))
    if not found:
        return Scope(False, "no white-box attack")
    gaps: dict[str, list[str]] = {}
    for case in found:
        if why := _lacks(case):
            gaps.setdefault(why, []).append(case.name)
    judged = any(not _lacks(case) for case in found)
    return Scope(judged, "; ".join(f"{why} ({' | '.join(names)})" for why, names in gaps.items()))


def _lacks(case: Case) -> str:
    if not case.free:
        return "no gradient-free attack"
    return "" if case.proof else f"only {', '.join(case.users)}, which proves nothing where it fails: add pgd, apgd-t, ddn or fmn"


__all__ = ["Scope"]
