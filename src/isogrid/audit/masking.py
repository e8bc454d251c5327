"""IG005, masked gradients: what gradient-free attacks find that strong white-box attacks of the same threat model do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from isogrid.audit.check import Check, Occurrence, Occurrences, Scope, many, of, share
from isogrid.audit.records import AttackRecord, Bools, Floats, LevelInputs
from isogrid.metrics.robustness import median_distance

SHORTER: Final = 0.95
"""A median distance counts as beaten below this share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One threat model, at one budget or (eps None) by minimum-norm attacks.

    free: the gradient-free attacks on it. white: every attack whose successes are gradients' work, in this domain or in one inside it.
    proof: those of them whose failure counts. users: the ids of the attacks that make this threat model one of the level's.
    """

    norm: str
    domain: str
    eps: float | None
    free: tuple[AttackRecord, ...]
    white: tuple[AttackRecord, ...]
    proof: tuple[AttackRecord, ...]
    users: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a sentence names it: "linf, box, eps 0.1"."""
        return f"{self.norm}, {self.domain}" + ("" if self.eps is None else f", eps {self.eps:g}")

    @property
    def lacks(self) -> str:
        """What is missing to compare; "" for nothing."""
        if not self.free:
            return "no gradient-free attack"
        return "" if self.proof else f"only {', '.join(self.users)}, which proves nothing where it fails: add pgd, apgd-t, ddn or fmn"

    @property
    def tried(self) -> Bools:
        """bool [N]: samples on which an attack of `proof` was run."""
        tried: Bools = np.any([record.ran for record in self.proof], axis=0)
        return tried

    @property
    def best(self) -> Floats:
        """[N]: the shortest distance that gradients found; inf where they found nothing."""
        best: Floats = np.min([np.where(r.success, r.distance, np.inf) for r in self.white], axis=0)
        return best


def cases(inputs: LevelInputs) -> Iterator[Case]:
    """Every threat model and budget that an attack with gradients was run in.

    A success in the box is one in the free domain too; a failure is not, so what proves masking must have been free to leave the box.
    """
    for norm, domain in sorted({(record.norm, record.domain) for record in inputs.attacks}):
        inside = [r for r in inputs.attacks if r.norm == norm and domain in (r.domain, "free")]
        free = [r for r in inside if r.gradient_free]
        white = tuple(r for r in inside if r.role in ("weak", "strong"))
        users = [r for r in inside if r.domain == domain and not r.gradient_free]
        strong = [r for r in users if r.role == "strong"]
        fixed = {r.eps for r in users if r.eps is not None}
        if any(r.eps is None for r in strong):  # a minimum-norm attack answers for every budget
            fixed |= {r.eps for r in free if r.eps is not None}
        for eps in [*sorted(fixed), *([None] if any(r.eps is None for r in users) else [])]:
            yield Case(
                norm=norm,
                domain=domain,
                eps=eps,
                free=tuple(r for r in free if r.eps is None or (eps is not None and r.eps <= eps)),
                white=white,
                proof=tuple(r for r in strong if r.eps in (None, eps)),
                users=tuple(r.attack for r in users if r.eps in (None, eps)),
            )


class Masking(Check):
    """Gradient-free attacks (transfer included) that find what no white-box attack of the same threat model found."""

    code = "IG005"
    title = "a gradient-free attack beats the white-box ones"
    severity = "error"
    remedy = (
        "The gradients mislead, or the white-box attacks are too weak: add apgd-t or autoattack and restarts; if it stays, "
        "gradients are masked and only the envelope with the gradient-free attack may be reported."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        """It compares threat model by threat model, and lacks now the one side, now the other."""
        found = list(cases(inputs))
        if not found:
            return Scope(False, "no white-box attack")
        gaps: dict[str, list[str]] = {}
        for case in found:
            if case.lacks:
                gaps.setdefault(case.lacks, []).append(case.name)
        judged = any(not case.lacks for case in found)
        return Scope(judged, "; ".join(f"{why} ({' | '.join(names)})" for why, names in gaps.items()))

    def look(self, inputs: LevelInputs) -> Occurrences:
        for case in cases(inputs):
            yield from occurrences(case)


def occurrences(case: Case) -> Occurrences:
    """Those in one threat model; none where no white-box failure proves anything."""
    if case.proof:
        yield from _more_broken(case, case.eps) if case.eps is not None else _shorter(case)


def _more_broken(case: Case, eps: float) -> Occurrences:
    """What no white-box attack broke within the budget and a gradient-free one did."""
    broken = np.any([record.broken_at(eps) for record in case.white], axis=0)
    for record in case.free:
        among = (case.tried | broken) & record.ran
        extra, total = int((record.broken_at(eps) & ~broken & among).sum()), int(among.sum())
        if many(extra, total, least=2):
            text = f"{case.name}: {record.attack} breaks {of(extra, total)} correct samples that no white-box attack broke"
            yield share(extra, total, _about(case, record), text)


def _shorter(case: Case) -> Occurrences:
    """Minimum-norm against minimum-norm: samples that only the gradient-free attack breaks, or a median distance clearly below.

    The median and not single samples: any attack lies far above the optimum on some samples of any network.
    """
    best = case.best
    for record in case.free:
        among = case.tried & record.ran
        if not among.any():
            continue
        lost, total = int((np.isinf(best) & np.isfinite(record.distance) & among).sum()), int(among.sum())
        if many(lost, total, least=2):
            text = f"{case.name}: {record.attack} breaks {of(lost, total)} correct samples on which every white-box attack failed"
            yield share(lost, total, _about(case, record), text)
        ours, theirs = (median_distance(distance[among], np.ones(total, bool)) for distance in (best, record.distance))
        if theirs < SHORTER * ours:
            text = f"{case.name}: median distance {theirs:.4g} of {record.attack}, {ours:.4g} of the white-box attacks, {total} samples"
            yield Occurrence(about=_about(case, record), share=1 - theirs / ours, text=text)


def _about(case: Case, record: AttackRecord) -> str:
    return f"{record.attack}, {case.norm}, {case.domain}"


__all__ = ["Case", "Masking", "cases", "occurrences"]
