"""Why a level is more or less robust, in words: which of margin and slope moved. Not here: the split itself."""

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
    """Which of margin and slope moved, and which by more, as far as either is told from chance.

    The slope is the gradient's dual norm at the sample, what a local Lipschitz constant comes to as the ball shrinks. Where their quotient
    has one direction and the distance another, curvature did the rest.

    >>> up, down = Ratio(effect=0.2, low=0.1, high=0.3), Ratio(effect=-0.4, low=-0.5, high=-0.3)
    >>> less, still = Ratio(effect=-0.2, low=-0.3, high=-0.1), Ratio(effect=0.0, low=-0.1, high=0.1)
    >>> told = {"norm": "l2", "level": 1, "sparsity": 0.5}
    >>> why(Mechanism(**told, margin=less, slope=down, quotient=up, distance=up, rest=still))
    'more robust: the slope fell by more than the margin'
    >>> why(Mechanism(**told, margin=down, slope=still, quotient=down, distance=down, rest=still))
    'less robust: the margin fell, the slope is not shown to move'
    >>> why(Mechanism(**told, margin=down, slope=down, quotient=still))
    'margin and slope fell, which by more is undecided'
    """
    margin, slope, quotient = one.margin.moved, one.slope.moved, one.quotient.moved
    if margin != slope or margin == "open":
        parts = (("the margin", margin), ("the slope", slope))
        told = ", ".join(f"{name} {'is not shown to move' if moved == 'open' else moved}" for name, moved in parts)
    elif quotient == "open":
        told = f"margin and slope {margin}, which by more is undecided"
    else:
        first, other = ("margin", "slope") if quotient == margin else ("slope", "margin")
        told = f"the {first} {margin} by more than the {other}"
    if one.distance is None:
        return told
    verdict = {"rose": "more robust", "fell": "less robust", "open": "more or less robust is undecided"}[one.distance.moved]
    against = "open" not in (one.distance.moved, quotient) and one.distance.moved != quotient
    return f"{verdict}: {told}" + ("; curvature decided" if against else "")


def summary(study: Tables, arm: Arm) -> str:
    """One sentence for the page: at the sparsest level of each norm that is there."""
    found = {one.norm: one for one in study.summary.mechanism if one.arm == arm}
    if not found:
        return ""
    said = [f"{norm_label(norm)}, {percent(one.sparsity)} sparse: {why(one)}" for norm, one in found.items()]
    return f"{basis(study, arm)} {'; '.join(said)}."


def basis(study: Tables, arm: Arm) -> str:
    """What the changes are over, and what their intervals are of."""
    rows = [one for one in study.summary.mechanism if one.arm == arm]
    alone = " over samples alone: one seed, so they hold for these networks" if max(one.seeds for one in rows) == 1 else ""
    return (
        f"Against the dense network, on the samples that both classify correctly (at least {min(one.n for one in rows)}): "
        f"distance = margin / slope × rest, geometric means with 90 % intervals{alone}."
    )


def _change(ratio: Ratio | None) -> str:
    if ratio is None:
        return MISSING
    return f"{signed(100 * ratio.effect, 0)} % {interval(100 * ratio.low, 100 * ratio.high, 0)}"
