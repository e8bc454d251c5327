"""The stored claims, audit findings and attacks in a reader's words. What belongs here: wording of rows. What does not: judging, HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isogrid.report.style import slugify
from isogrid.report.tables import TWIN, Study
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measure's share in a claim."""

    measure: str
    effect: str
    interval: str
    p: str
    primary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One row of the claims table."""

    id: str
    model: str
    number: int
    title: str
    verdict: str
    sign: str
    tone: str
    effect: str
    interval: str
    measure: str
    parts: tuple[Part, ...]
    others: tuple[Part, ...]
    control: str
    levels: str
    reason: str
    plain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
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


def _effect(value: object, relative: bool) -> str:
    if not isinstance(value, int | float) or math.isnan(value):
        return MISSING
    return signed(100 * value, 1) + " %" if relative else signed(float(value))


def _interval(low: Any, high: Any, relative: bool, confidence: float) -> str:
    if relative:
        low, high = (None if end is None else 100 * end for end in (low, high))
    text = interval(low, high, 1 if relative else 3)
    return f"{confidence:.0%} {text}{' %' if relative else ''}".replace("%", " %", 1) if text else ""


def _measure(part: Mapping[str, Any]) -> str:
    if not part.get("attack"):
        return str(part.get("measure") or "")
    detail = [eps_text(part.get("eps")), str(part.get("domain") or "")]
    text = " ".join([norm_label(str(part.get("norm") or "")), attack_label(str(part["attack"])), *(d for d in detail if d)]).strip()
    return text + _place(part)


def _place(part: Mapping[str, Any]) -> str:
    """Of which levels the effect is, where it is not that of all that were compared."""
    at = part.get("at") or ()
    if part.get("to_peak"):
        return f", mean up to the peak at level {level_list(at)}"
    return f", at level {level_list(at)}" if at and list(at) != list(part.get("levels") or ()) else ""


def _part(part: Mapping[str, Any], confidence: float) -> Part:
    relative = part.get("unit") == "relative"
    p = part.get("p")
    return Part(
        measure=_measure(part),
        effect=_effect(part.get("effect"), relative),
        interval=_interval(part.get("low"), part.get("high"), relative, confidence),
        p="" if p is None else p_value(float(p)),
        primary=part.get("role", "primary") == "primary",
    )


def claim(row: Mapping[str, Any]) -> Claim:
    """A row of claims.json in words; an unknown verdict is shown as it stands, in neutral colours."""
    verdict = str(row.get("verdict") or "undecided")
    sign, tone = VERDICTS.get(verdict, ("·", "none"))
    number = int(row.get("claim") or 0)
    confidence = float(row.get("confidence") or 0.95)
    stored = [part for part in row.get("parts") or () if isinstance(part, Mapping)]
    hardest = next((part for part in stored if part.get("measure") == row.get("effect_of")), {})
    relative = hardest.get("unit") == "relative"
    low, high = (row.get("interval") or [None, None])[:2]
    parts = [_part(part, confidence) for part in stored]
    statement = str(row.get("statement") or "")
    model = str(row.get("model") or "")
    return Claim(
        id=slugify("claim", row.get("data"), model, row.get("method"), number),
        model=model,
        number=number,
        title=CLAIMS.get(number, statement),
        verdict=verdict,
        sign=sign,
        tone=tone,
        effect=_effect(row.get("effect"), relative),
        interval=_interval(low, high, relative, confidence),
        measure=_measure(hardest) if hardest else "",
        parts=tuple(part for part in parts if part.primary),
        others=tuple(part for part in parts if not part.primary),
        control=str(row.get("control") or "") or MISSING,
        levels=level_list(row.get("levels") or ()),
        reason=str(row.get("reason") or ""),
        plain=statement or str(row.get("reason") or "") or "the effect points the other way.",
    )


def claims(study: Study, model: str | None = None) -> list[Claim]:
    """The claims of a study (of one model), in the order of models and claims."""
    order = {name: place for place, name in enumerate(study.models)}
    rows = [claim(row) for row in study.claims if model is None or row.get("model") == model]
    return sorted(rows, key=lambda one: (order.get(one.model, len(order)), one.model, one.number))


def findings(study: Study) -> list[Finding]:
    """The audit, the gravest first."""
    order = list(SEVERITIES)
    found = []
    for row in study.rows("audit"):
        severity = str(row.get("severity") or "info")
        sign, tone = SEVERITIES.get(severity, ("·", "none"))
        texts = {name: str(row.get(name) or "") for name in ("code", "title", "detail", "remedy")}
        found.append(Finding(severity=severity, sign=sign, tone=tone, where=place(row), worst=_worst(study, row), **texts))
    return sorted(found, key=lambda one: (order.index(one.severity) if one.severity in order else len(order), one.code, one.where))


def attack_name(row: Mapping[str, Any]) -> str:
    """The attack's name where its id is made from it, else the id: a label, or what a `minimise` minimises."""
    name, identity = str(row.get("name") or ""), str(row.get("id") or "")
    return attack_label(name if name and name != "minimise" and identity.startswith(name) else identity or name)


def place(row: Mapping[str, Any]) -> str:
    """Where a row of the audit holds: model, method, levels and seeds.

    >>> place({"model": "linear", "method": "dense", "levels": [1, 2, 3], "seeds": [0, 2]})
    'linear, dense twin, levels 1–3, seeds 0, 2'
    """
    found = [str(row.get("model") or ""), "dense twin" if row.get("method") == TWIN else str(row.get("method") or "")]
    for name in ("level", "seed"):
        numbers = row.get(f"{name}s") or ([] if row.get(name) is None else [row[name]])
        found.append(f"{name}{'s' if len(numbers) > 1 else ''} {level_list(numbers)}" if numbers else "")
    return ", ".join(part for part in found if part)


def _worst(study: Study, row: Mapping[str, Any]) -> str:
    """Whose figures a finding of several levels or seeds tells."""
    level = row.get("level")
    if not isinstance(level, int) or len(row.get("levels") or ()) * len(row.get("seeds") or ()) < 2:
        return ""
    sparsity = None if row.get("method") == TWIN else study.sparsities(str(row.get("model"))).get(level)
    return f"level {level}{'' if sparsity is None else f' ({percent(sparsity)} sparse)'}, seed {row.get('seed')}"


def attack_rows(study: Study) -> list[dict[str, str]]:
    """The attacks of the study with their configuration."""
    return [
        {
            "label": attack_name(row),
            "norm": norm_label(str(row.get("norm") or "")),
            "domain": str(row.get("domain") or ""),
            "eps": MISSING if row.get("eps") is None else f"{row['eps']:g}" if isinstance(row["eps"], int | float) else str(row["eps"]),
            "samples": str(row.get("samples") or MISSING),
            "config": ", ".join(f"{key}: {json.dumps(value)}" for key, value in sorted(dict(row.get("config") or {}).items())),
        }
        for row in study.rows("attacks")
    ]
