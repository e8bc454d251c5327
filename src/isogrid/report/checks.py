"""What became of every check of the audit, in a reader's words. What belongs here: wording of rows. What does not: judging, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isogrid.audit.findings import Checked, PlacedCheck
from isogrid.report.verdicts import place
from isogrid.report.words import SEVERITIES, joined

STATES = {"found": ("!", "open"), "passed": ("✓", "good"), "not checked": ("–", "none")}
"""State of a check -> (sign, tone of the badge); what was found has those of its severity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    """One state of one check: on which networks, and what it could not look at."""

    state: str
    sign: str
    tone: str
    where: str
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One check of the audit, with one line per state and gap."""

    code: str
    title: str
    lines: tuple[StateRow, ...]


def check_rows(stored: Sequence[PlacedCheck]) -> list[CheckRow]:
    """What became of the checks, by code; equal states of several models and methods share a line."""
    found = []
    for code in sorted({one.code for one in stored}):
        of_code = [one for one in stored if one.code == code]
        kinds = dict.fromkeys((one.state, one.gap) for one in of_code)
        lines = [_line([one for one in of_code if (one.state, one.gap) == kind], of_code) for kind in kinds]
        order = list(STATES)
        lines.sort(key=lambda line: order.index(line.state))
        found.append(CheckRow(code=code, title=of_code[0].title, lines=tuple(lines)))
    return found


def _line(alike: Sequence[PlacedCheck], of_code: Sequence[PlacedCheck]) -> StateRow:
    first = alike[0]
    sign, tone = SEVERITIES[first.severity] if first.state == "found" else STATES[first.state]
    where = "every network"
    if len(alike) < len(of_code):
        where = "; ".join(f"{place(one)} ({one.networks} network{'s' if one.networks != 1 else ''})" for one in alike)
    return StateRow(state=first.state, sign=sign, tone=tone, where=where, gap=first.gap)


def audit_line(stored: Sequence[Checked]) -> str:
    """All checks in one sentence.

    >>> rows = [("IG001", "error", "passed"), ("IG005", "error", "found"), ("IG005", "error", "passed"), ("IG006", "info", "not checked")]
    >>> audit_line([Checked(code=code, severity=severity, title="", state=state, gap="") for code, severity, state in rows])
    'found IG005 (error); passed 1 of 3 checks; not checked IG006'
    """
    if not stored:
        return "nothing is known of its checks"
    states: dict[str, set[str]] = {}
    severity = {one.code: one.severity for one in stored}
    for one in stored:
        states.setdefault(one.code, set()).add(one.state)
    found = [f"{code} ({severity[code]})" for code, seen in sorted(states.items()) if "found" in seen]
    partly = [code for code, seen in sorted(states.items()) if "found" not in seen and len(seen) > 1]
    never = [code for code, seen in sorted(states.items()) if seen == {"not checked"}]
    passed = sum(seen == {"passed"} for seen in states.values())
    parts = [f"found {joined(found)}" if found else "found nothing", f"passed {passed} of {len(states)} checks"]
    parts += [f"on some networks only {joined(partly)}"] if partly else []
    parts += [f"not checked {joined(never)}"] if never else []
    return "; ".join(parts)


__all__ = ["audit_line", "check_rows"]
