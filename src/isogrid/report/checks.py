"""What became of every check of the audit, in a reader's words. What belongs here: wording of rows. What does not: judging, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isogrid.report.verdicts import place
from isogrid.report.words import SEVERITIES, joined

STATES = {"found": ("!", "open"), "passed": ("✓", "good"), "not checked": ("–", "none")}
"""State of a check -> (sign, tone of the badge); what was found has those of its severity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One state of one check: on which networks, and what it could not look at."""

    state: str
    sign: str
    tone: str
    where: str
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of the audit, with one line per state and gap."""

    code: str
    title: str
    lines: tuple[Line, ...]


def check_rows(stored: Sequence[Mapping[str, Any]]) -> list[Check]:
    """The rows of `audit_checks` in the summary, by code; equal states of several models and methods share a line."""
    found = []
    for code in sorted({str(row["code"]) for row in stored}):
        rows = [row for row in stored if row["code"] == code]
        kinds = dict.fromkeys((str(row["state"]), str(row.get("gap") or "")) for row in rows)
        lines = [_line(kind, [row for row in rows if (row["state"], row.get("gap") or "") == kind], rows) for kind in kinds]
        order = list(STATES)
        found.append(Check(code=code, title=str(rows[0]["title"]), lines=tuple(sorted(lines, key=lambda line: order.index(line.state)))))
    return found


def _line(kind: tuple[str, str], rows: Sequence[Mapping[str, Any]], of_code: Sequence[Mapping[str, Any]]) -> Line:
    state, gap = kind
    sign, tone = SEVERITIES.get(str(rows[0].get("severity")), STATES[state]) if state == "found" else STATES[state]
    if len(rows) == len(of_code):
        where = "every network"
    else:
        where = "; ".join(f"{place(row)} ({row['networks']} network{'s' if row['networks'] != 1 else ''})" for row in rows)
    return Line(state=state, sign=sign, tone=tone, where=where, gap=gap)


def audit_line(stored: Sequence[Mapping[str, Any]]) -> str:
    """All checks in one sentence, from rows of `audit_checks` or from `Checked` as dictionaries.

    >>> rows = [("IG001", "error", "passed"), ("IG005", "error", "found"), ("IG005", "error", "passed"), ("IG006", "info", "not checked")]
    >>> audit_line([{"code": code, "severity": severity, "state": state} for code, severity, state in rows])
    'found IG005 (error); passed 1 of 3 checks; not checked IG006'
    """
    if not stored:
        return "nothing is known of its checks"
    states: dict[str, set[str]] = {}
    severity = {str(row["code"]): str(row["severity"]) for row in stored}
    for row in stored:
        states.setdefault(str(row["code"]), set()).add(str(row["state"]))
    found = [f"{code} ({severity[code]})" for code, seen in sorted(states.items()) if "found" in seen]
    partly = [code for code, seen in sorted(states.items()) if "found" not in seen and len(seen) > 1]
    never = [code for code, seen in sorted(states.items()) if seen == {"not checked"}]
    passed = sum(seen == {"passed"} for seen in states.values())
    parts = [f"found {joined(found)}" if found else "found nothing", f"passed {passed} of {len(states)} checks"]
    parts += [f"on some networks only {joined(partly)}"] if partly else []
    parts += [f"not checked {joined(never)}"] if never else []
    return "; ".join(parts)


__all__ = ["audit_line", "check_rows"]
