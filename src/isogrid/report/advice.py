"""The recommendation at a glance: a headline per arm, the boxes below it, marks beside levels. Not here: its sentences, judging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isogrid.report.recommendation import dense_because
from isogrid.report.tables import Tables
from isogrid.report.words import joined, norm_label, percent, signed
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import Best, Change, Compromise, Fragile, Highest, Recommendation
from isogrid.verdicts.wording import title

UNDECIDED, NONE = "undecided", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One question a user has, answered or `undecided`; `seeds`: how many trainings the answer rests on (0: somebody else's)."""

    key: str
    title: str
    value: str
    detail: str
    decided: bool
    level: int | None
    sparsity: float | None
    seeds: int


def advice(study: Tables, arm: Arm) -> list[Advice]:
    """The recommendation for an arm: most robust level per norm, compromise, sparsest level not worse than dense, first fragile one."""
    return [
        one for found in study.summary.recommendation if found.arm == arm for one in _answers(found, 0 if study.given(arm) else found.seeds)
    ]


def _answers(found: Recommendation, seeds: int) -> Iterator[Advice]:
    for best in found.most_robust:
        norm = norm_label(best.norm)
        yield _choice(found, best, f"most robust {norm}", f"Most robust under {norm}", _gain(found, best), "highest mean", seeds)
    if (both := found.compromise) is not None:
        yield _choice(found, both, "compromise", "Best compromise over norms, accuracy kept", dense_because(both), "best score", seeds)
    if found.highest_sparsity is not None:
        yield _highest(found, found.highest_sparsity, seeds)
    if found.first_fragile is not None:
        yield _fragile(found, found.first_fragile, seeds)


def _at(found: Recommendation, level: int | None) -> str:
    return "dense" if level == 0 else percent(_sparsity(found, level))


def _sparsity(found: Recommendation, level: int | None) -> float | None:
    return None if level is None else found.sparsity.get(level)


def _gain(found: Recommendation, gain: Change) -> str:
    """`+0.15 over dense (90 % interval 0.11 to 0.19)`; relative for distances, absolute for accuracies under a budget."""
    scale, unit, digits = (100, " %", 1) if gain.unit == "relative" else (1, "", 3)
    value, low, high = (signed(scale * number, digits) for number in (gain.effect, gain.low, gain.high))
    return f"{value}{unit} over dense ({100 * found.confidence:.0f} % interval {low} to {high})"


def _choice(found: Recommendation, best: Best | Compromise, key: str, title: str, told: str, praise: str, seeds: int) -> Advice:
    at, detail = _at(found, best.level), told
    if best.level == 0:  # dense has no gain over itself
        detail = told if isinstance(best, Compromise) else "dense has the highest mean; no sparse level is shown to be better"
    elif not best.decided:
        detail = f"{praise}: {at}; {told}" if told else f"{praise}: {at}, not shown to beat dense"
    return Advice(
        key=key,
        title=title,
        value=at if best.decided else UNDECIDED,
        detail=detail,
        decided=best.decided,
        level=best.level,
        sparsity=_sparsity(found, best.level),
        seeds=seeds,
    )


def _highest(found: Recommendation, highest: Highest, seeds: int) -> Advice:
    level: int | None = highest.level
    at = _at(found, highest.stopped_at) if highest.stopped_at is not None else ""
    detail = f"{at} is not shown to be as good" if at else "the last level measured" if level else ""
    none = not level and highest.decided
    if none:
        level, detail = None, f"{at} is already worse" if at else ""
    return Advice(
        key="not worse",
        title="Highest sparsity not worse than dense",
        value=_at(found, level) if level else NONE if none else UNDECIDED,
        detail=detail,
        decided=highest.decided,
        level=level,
        sparsity=_sparsity(found, level),
        seeds=seeds,
    )


def _fragile(found: Recommendation, fragile: Fragile, seeds: int) -> Advice:
    blame = ", ".join(title(loss) for loss in fragile.losses)
    detail = "the network has collapsed" if fragile.collapsed else f"below dense in {blame}" if blame else ""
    none = fragile.level is None
    return Advice(
        key="fragile",
        title="First fragile level",
        value="none found" if none else _at(found, fragile.level),
        detail="no level is shown to be worse than dense minus tolerance" if none else detail,
        decided=True,
        level=fragile.level,
        sparsity=_sparsity(found, fragile.level),
        seeds=seeds,
    )


def headline(found: list[Advice]) -> str:
    """The recommendation in a sentence or two; what is undecided is said to be."""
    if not found:
        return "No recommendation: this study has too few levels or samples to compare with dense."
    robust = [one for one in found if one.key.startswith("most robust")]
    parts = []
    decided = [one for one in robust if one.decided]
    if decided:
        places = dict.fromkeys(one.value for one in decided)
        told = [f"{at} under {joined([o.key.removeprefix('most robust ') for o in decided if o.value == at])}" for at in places]
        parts.append(f"Most robust at {joined([_sparse(text) for text in told])}.")
    beaten = [one.key.removeprefix("most robust ") for one in robust if not one.decided and one.level == 0]
    if beaten:
        parts.append(f"No sparse level has a higher mean than dense under {joined(beaten, 'or')}.")
    unclear = [one.key.removeprefix("most robust ") for one in robust if not one.decided and one.level != 0]
    if unclear:
        parts.append(f"Whether any level beats dense under {joined(unclear, 'or')} is undecided.")
    highest = next((one for one in found if one.key == "not worse"), None)
    if highest is not None and highest.value == NONE:
        parts.append("No sparse level is as good as dense within the tolerances.")
    elif highest is not None:
        parts.append(
            f"Not worse than dense up to {_sparse(highest.value)}."
            if highest.decided
            else "Up to which sparsity it is not worse than dense is undecided."
        )
    fragile = next((one for one in found if one.key == "fragile"), None)
    if fragile is not None:
        parts.append(f"First fragile at {_sparse(fragile.value)}." if fragile.level is not None else "No fragile level was found.")
    if found[0].seeds == 1:
        parts.append("This holds for the one network that was trained (one seed); another training run may differ.")
    return " ".join(parts)


def _sparse(text: str) -> str:
    """`94.1 % under ...` with the word sparsity after the figure; dense stays dense."""
    head, mark, tail = text.partition(" %")
    return f"{head}{mark} sparsity{tail}" if mark else text


def marks(found: list[Advice]) -> dict[int, list[str]]:
    """Level -> what the recommendation says of it, for tables and figures; undecided answers mark nothing."""
    words = {"compromise": "best compromise", "not worse": "highest not worse than dense", "fragile": "first fragile"}
    result: dict[int, list[str]] = {}
    for one in found:
        if one.decided and one.level is not None:
            result.setdefault(one.level, []).append(words.get(one.key, one.key))
    return result
