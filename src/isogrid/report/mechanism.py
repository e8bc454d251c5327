"""Why a level is more or less robust, in words: which of margin and Lipschitz constant moved. Not here: the split itself."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.report.tables import Tables
from isogrid.report.words import MISSING, interval, norm_label, percent, signed
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import Mechanism, Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismRow:
    """One level in one norm: the changes against dense, and what they come to."""

    norm: str
    level: int
    sparsity: str
    distance: str
    margin: str
    slope: str
    rest: str
    local: str
    why: str


def mechanism_rows(study: Tables, arm: Arm) -> tuple[MechanismRow, ...]:
    """The levels of an arm, norm by norm; empty where nothing was measured."""
    return tuple(
        MechanismRow(
            norm=norm_label(one.norm),
            level=one.level,
            sparsity=percent(one.sparsity),
            distance=_change(one.distance),
            margin=_change(one.margin),
            slope=_change(one.slope),
            rest=_change(one.rest),
            local=_change(one.local),
            why=why(one),
        )
        for one in study.summary.mechanism
        if one.arm == arm
    )


def why(one: Mechanism) -> str:
    """Which of margin and slope moved, and which of them decides.

    The slope is the gradient's dual norm at the sample, what a local Lipschitz constant comes to as the ball shrinks. Where their quotient
    has one direction and the distance another, curvature did the rest.

    >>> up, down = Ratio(effect=0.2, low=0.1, high=0.3), Ratio(effect=-0.4, low=-0.5, high=-0.3)
    >>> less, still = Ratio(effect=-0.2, low=-0.3, high=-0.1), Ratio(effect=0.0, low=-0.1, high=0.1)
    >>> why(Mechanism(norm="l2", level=1, sparsity=0.5, margin=less, slope=down, distance=up, rest=still))
    'more robust: the Lipschitz constant fell by more than the margin'
    >>> why(Mechanism(norm="l2", level=1, sparsity=0.5, margin=down, slope=still, distance=down, rest=still))
    'less robust: the margin fell, the Lipschitz constant did not move'
    >>> why(Mechanism(norm="linf", level=1, sparsity=0.5, margin=still, slope=down))
    'the margin did not move, the Lipschitz constant fell'
    """
    margin, slope = one.margin.moved, one.slope.moved
    if margin == slope != "open":
        larger = (1 + one.slope.effect) / (1 + one.margin.effect)
        first = "the Lipschitz constant" if (larger < 1) == (margin == "fell") else "the margin"
        other = "the margin" if first != "the margin" else "the Lipschitz constant"
        told = f"{first} {margin} by more than {other}"
    else:
        parts = (("the margin", margin), ("the Lipschitz constant", slope))
        told = ", ".join(f"{name} {'did not move' if moved == 'open' else moved}" for name, moved in parts)
    if one.distance is None:
        return told
    verdict = {"rose": "more robust", "fell": "less robust", "open": "as robust"}[one.distance.moved]
    quotient = (1 + one.margin.effect) / (1 + one.slope.effect) - 1
    against = one.distance.moved != "open" and (quotient > 0) != (one.distance.effect > 0)
    return f"{verdict}: {told}" + ("; curvature decided" if against else "")


def summary(study: Tables, arm: Arm) -> str:
    """One sentence for the page: at the sparsest level of each norm that is there."""
    found = {one.norm: one for one in study.summary.mechanism if one.arm == arm}
    if not found:
        return ""
    said = [f"{norm_label(norm)}, {percent(one.sparsity)} sparse: {why(one)}" for norm, one in found.items()]
    n = min(one.n for one in study.summary.mechanism if one.arm == arm)
    return (
        "Against the dense network, on the samples that both classify correctly "
        f"(at least {n}): distance = margin / slope × rest, geometric means with 90 % intervals. " + "; ".join(said) + "."
    )


def _change(ratio: Ratio | None) -> str:
    if ratio is None:
        return MISSING
    return f"{signed(100 * ratio.effect, 0)} % {interval(100 * ratio.low, 100 * ratio.high, 0)}"
