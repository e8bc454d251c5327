"""The recommendation in a reader's words: a headline per model, the boxes below it, marks beside levels. What does not: judging, HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isogrid.report.tables import BUDGETED, DISTANCES, Study
from isogrid.report.words import joined, norm_label, percent, signed

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


def _at(level: int | None, sparsity: float | None) -> str:
    return "dense" if level == 0 else percent(sparsity)


def _level(part: Mapping[str, Any]) -> tuple[int | None, float | None]:
    level, sparsity = part.get("level"), part.get("sparsity")
    return (int(level) if level is not None else None), (float(sparsity) if sparsity is not None else None)


def _gain(study: Study, row: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """`+0.15 over dense (90 % [0.11, 0.19])`; relative for distances, absolute for accuracies under a budget."""
    gain, low, high = part.get("gain"), part.get("low"), part.get("high")
    if not isinstance(gain, int | float):
        return ""
    relative = _is_distance(study, str(part.get("measure") or ""), str(part.get("norm") or ""))
    scale, unit, digits = (100, " %", 1) if relative else (1, "", 3)
    ends = [signed(scale * end, digits) if isinstance(end, int | float) else "open" for end in (low, high)]
    confidence = f"{100 * float(row.get('confidence') or 0.9):.0f} %"
    return f"{signed(scale * gain, digits)}{unit} over dense ({confidence} interval {ends[0]} to {ends[1]})"


def _is_distance(study: Study, measure: str, norm: str) -> bool:
    """Whether a measure is a distance: the attack it names has no budget."""
    if "envelope" in measure:
        return "@" not in measure
    budgets = {str(row.get("id")): row.get("eps") for row in study.rows("attacks")}
    if measure in budgets:
        return budgets[measure] is None
    kinds = {c.group.eps is None for c in study.curves if c.group.norm == norm and c.group.metric in (*BUDGETED, *DISTANCES)}
    return "@" not in measure and kinds == {True}


def advice(study: Study, model: str) -> list[Advice]:
    """The recommendation for a model: most robust level per norm, compromise, sparsest level not worse than dense, first fragile one."""
    found = []
    for row in study.rows("recommendation", model):
        for part in row.get("most_robust") or ():
            norm = norm_label(str(part.get("norm") or ""))
            found.append(_choice(study, row, part, "most robust", f"Most robust under {norm}", norm))
        if row.get("compromise"):
            found.append(_choice(study, row, row["compromise"], "compromise", "Best compromise over norms, accuracy kept", ""))
        if row.get("highest_sparsity"):
            found.append(_highest(row["highest_sparsity"], study, model, _seeds(study, row)))
        if row.get("first_fragile"):
            found.append(_fragile(row["first_fragile"], _seeds(study, row)))
    return found


def sentences(study: Study, model: str) -> list[str]:
    """The recommendation in the study's own sentences, each with its effect and interval, and what qualifies them all."""
    return [str(sentence) for row in study.rows("recommendation", model) for sentence in row.get("sentences") or ()]


def _seeds(study: Study, row: Mapping[str, Any]) -> int:
    return 0 if study.given(str(row.get("model"))) else int(row.get("seeds") or 0)


def _choice(study: Study, row: Mapping[str, Any], part: Mapping[str, Any], key: str, title: str, norm: str) -> Advice:
    level, sparsity = _level(part)
    decided = bool(part.get("decided"))
    at = _at(level, sparsity)
    seeds = _seeds(study, row)
    detail = _gain(study, row, part)
    if level == 0:  # dense has no gain over itself
        detail = str(part.get("reason") or "dense has the highest mean; no sparse level is shown to be better")
    elif not decided:
        best = "highest mean" if norm else "best score"
        detail = f"{best}: {at}; {detail}" if detail else f"{best}: {at}, not shown to beat dense"
    return Advice(
        key=f"{key} {norm}".strip(),
        title=title,
        value=at if decided else UNDECIDED,
        detail=detail,
        decided=decided,
        level=level,
        sparsity=sparsity,
        seeds=seeds,
    )


def _highest(part: Mapping[str, Any], study: Study, model: str, seeds: int) -> Advice:
    level, sparsity = _level(part)
    stopped = part.get("stopped_at")
    at = percent(study.sparsities(model).get(int(stopped))) if stopped is not None else ""
    detail = f"{at} is not shown to be as good" if at else "the last level measured" if level else ""
    none = not level and bool(part.get("decided"))
    if none:
        level, sparsity, detail = None, None, f"{at} is already worse" if at else ""
    return Advice(
        key="not worse",
        title="Highest sparsity not worse than dense",
        value=_at(level, sparsity) if level else NONE if none else UNDECIDED,
        detail=detail,
        decided=bool(level) or none,
        level=level,
        sparsity=sparsity,
        seeds=seeds,
    )


def _fragile(part: Mapping[str, Any], seeds: int) -> Advice:
    level, sparsity = _level(part)
    blame = ", ".join(str(name) for name in part.get("in") or ())
    return Advice(
        key="fragile",
        title="First fragile level",
        value=_at(level, sparsity) if level is not None else "none found",
        detail=("the network has collapsed" if blame == "collapsed" else f"below dense in {blame}" if blame else "")
        if level is not None
        else "no level is shown to be worse than dense minus tolerance",
        decided=True,
        level=level,
        sparsity=sparsity,
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
