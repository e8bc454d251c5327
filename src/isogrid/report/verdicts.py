"""Claims, findings of the audit and attacks in a reader's words. What belongs here: wording of rows. What does not: judging, HTML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from isogrid.audit.findings import PlacedCheck, PlacedFinding
from isogrid.report.style import slugify
from isogrid.report.tables import Tables
from isogrid.report.words import (
    CLAIMS,
    MISSING,
    SEVERITIES,
    VERDICTS,
    attack_label,
    eps_text,
    interval,
    level_list,
    norm_label,
    p_value,
    percent,
    signed,
)
from isogrid.study.results import Used
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import Share, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRow:
    """One measure's share in a claim."""

    measure: str
    effect: str
    interval: str
    p: str
    primary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """One row of the claims table."""

    id: str
    arm: Arm
    model: str
    number: int
    end: str
    title: str
    verdict: str
    sign: str
    tone: str
    effect: str
    interval: str
    measure: str
    parts: tuple[ShareRow, ...]
    others: tuple[ShareRow, ...]
    control: str
    levels: str
    reason: str
    apart: str
    plain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """One finding of the audit."""

    code: str
    severity: str
    sign: str
    tone: str
    title: str
    where: str
    detail: str
    worst: str
    remedy: str


def _effect(value: float | None, relative: bool) -> str:
    if value is None or math.isnan(value):
        return MISSING
    return signed(100 * value, 1) + " %" if relative else signed(value)


def _interval(low: float | None, high: float | None, relative: bool, confidence: float) -> str:
    if relative:
        low, high = (None if end is None else 100 * end for end in (low, high))
    text = interval(low, high, 1 if relative else 3)
    return f"{confidence:.0%} {text}{' %' if relative else ''}".replace("%", " %", 1) if text else ""


def _measure(part: Share, of: Verdict) -> str:
    if not part.attack:
        return part.measure
    detail = [eps_text(part.eps), part.domain]
    return " ".join([norm_label(part.norm), attack_label(part.attack), *(d for d in detail if d)]).strip() + _place(part, of)


def _place(part: Share, of: Verdict) -> str:
    """Of which levels the effect is, where it is not that of all that were compared."""
    at = _levels(of, part.at) if of.penalised else f"level {level_list(part.at)}"
    if part.to_peak:
        return f", mean up to the peak at {at}"
    return f", at {at}" if part.at and part.at != part.levels else ""


def _levels(of: Verdict, levels: Sequence[int]) -> str:
    """Levels of pruning by their numbers; of penalties what they are."""
    if not of.penalised:
        return level_list(levels)
    named = [(of.penalised[level].penalty, of.penalised[level].zeros) for level in levels if level in of.penalised]
    return "; ".join(f"{penalty}, {percent(zeros)} zero" for penalty, zeros in named) or MISSING


def _share(part: Share, of: Verdict) -> ShareRow:
    relative = part.unit == "relative"
    return ShareRow(
        measure=_measure(part, of),
        effect=_effect(part.effect, relative),
        interval=_interval(part.low, part.high, relative, of.confidence),
        p="" if part.p is None else p_value(part.p),
        primary=part.role == "primary",
    )


def claim_row(one: Verdict, model: str = "") -> ClaimRow:
    """A verdict in words; `model`: its arm as a reader knows it."""
    sign, tone = VERDICTS[one.verdict]
    hardest = next((part for part in one.parts if part.measure == one.effect_of), None)
    relative = hardest is not None and hardest.unit == "relative"
    low, high = one.interval or (None, None)
    parts = [_share(part, one) for part in one.parts]
    return ClaimRow(
        id=slugify("claim", one.data, one.model, one.objective, one.penalty, one.method, one.claim, one.end.replace("attacked", "")),
        arm=one.arm,
        model=model or one.model,
        number=one.claim,
        end=one.end,
        title=CLAIMS[one.claim] + ("" if one.end == "attacked" else ", as far as is certified"),
        verdict=one.verdict,
        sign=sign,
        tone=tone,
        effect=_effect(one.effect, relative),
        interval=_interval(low, high, relative, one.confidence),
        measure="" if hardest is None else _measure(hardest, one),
        parts=tuple(part for part in parts if part.primary),
        others=tuple(part for part in parts if not part.primary),
        control=one.control or MISSING,
        levels=_levels(one, one.levels),
        reason=one.reason,
        apart="; ".join(
            f"seed {seed} lies apart in {_measure(part, one)}" for part in one.parts if part.role == "primary" for seed in part.apart
        ),
        plain=one.statement or one.reason or "the effect points the other way.",
    )


def claim_rows(study: Tables, arm: Arm | None = None) -> list[ClaimRow]:
    """The claims of a study (of one arm), in the order of arms and claims."""
    order = {name: place for place, name in enumerate(study.arms)}
    rows = [claim_row(one, study.title(one.arm)) for one in study.claims if arm is None or one.arm == arm]
    return sorted(rows, key=lambda one: (order.get(one.arm, len(order)), one.arm, one.number, one.end))


def finding_rows(study: Tables) -> list[FindingRow]:
    """The audit, the gravest first."""
    order = list(SEVERITIES)
    found = []
    for one in sorted(study.summary.audit, key=lambda one: (order.index(one.severity), one.code)):
        sign, tone = SEVERITIES[one.severity]
        found.append(
            FindingRow(
                code=one.code,
                severity=one.severity,
                sign=sign,
                tone=tone,
                title=one.title,
                where=place(one),
                detail=one.detail,
                worst=_worst(study, one),
                remedy=one.remedy,
            )
        )
    return found


def attack_name(one: Used) -> str:
    """The attack's name and departures, without the norm and domain that stand beside; or its label, or what a `minimise` minimises."""
    own = one.name != "minimise" and one.id.startswith(one.name)
    return attack_label(re.sub(r"-(l2|linf|box|free)\b", "", one.id) if own else one.id)


def place(one: PlacedFinding | PlacedCheck) -> str:
    """Where a row of the audit holds: model, method, levels and seeds.

    >>> place(PlacedFinding(code="IG002", severity="info", title="", detail="", remedy="", model="linear", method="dense", control=True,
    ...                     levels=(1, 2, 3), seeds=(0, 2)))
    'linear, dense control, levels 1–3, seeds 0, 2'
    """
    objective = "" if one.objective in ("natural", "unknown") else one.objective
    found = [one.model, "dense control" if one.control else one.method, objective, one.penalty]
    for name, numbers in (("level", one.levels), ("seed", one.seeds)):
        found.append(f"{name}{'s' if len(numbers) > 1 else ''} {level_list(numbers)}" if numbers else "")
    return ", ".join(part for part in found if part)


def _worst(study: Tables, one: PlacedFinding) -> str:
    """Whose figures a finding of several levels or seeds tells."""
    if one.level is None or len(one.levels) * len(one.seeds) < 2:
        return ""
    sparsities = [study.sparsities(arm) for arm in study.arms if arm.model == one.model and arm.pruner == one.method and not one.control]
    sparsity = next((found[one.level] for found in sparsities if one.level in found), None)
    return f"level {one.level}{'' if sparsity is None else f' ({percent(sparsity)} sparse)'}, seed {one.seed}"


def attack_rows(study: Tables) -> list[dict[str, str]]:
    """The attacks of the study with their configuration."""
    return [
        {
            "label": attack_name(one),
            "norm": norm_label(one.norm),
            "domain": one.domain,
            "eps": MISSING if one.eps is None else f"{one.eps:g}",
            "samples": str(one.samples or MISSING),
            "config": ", ".join(f"{key}: {json.dumps(value)}" for key, value in sorted(one.config.items())),
        }
        for one in study.summary.attacks
    ]
