"""The verdict rule: which of the paper's five claims hold for one network and one data set, by contrasts fixed beforehand.

Three rules keep a verdict from being chance. (a) Whatever is chosen by looking at data, for a seed, is chosen on the OTHER seeds:
which levels keep their accuracy, which level is the peak (there also on samples that are not judged). (b) p-values are those of
crossed seeds and samples, conservative by construction for few seeds (`metrics.statistics`). (c) A claim that needs two things takes the
larger p-value of the two (intersection-union test, Berger 1982), a contradiction that one of two things brings about takes twice the
smaller one (Bonferroni), and Holm's method covers all claims of the study, supports and contradictions each at level ALPHA.

With one seed nothing is said beyond "undecided": the variance between seeds cannot be estimated. See docs/claims.md.
What belongs here: verdicts. What does not: their words (`verdicts.wording`), reading the store, drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isogrid.metrics.statistics import holm
from isogrid.verdicts.contrasts import Contrast, Part, contrasts_of
from isogrid.verdicts.evidence import ALPHA, Evidence
from isogrid.verdicts.results import CONFIDENCE, Penalised, Said, Share, Verdict
from isogrid.verdicts.wording import Why, control, reason, statement


def judge(evidence: Sequence[Evidence], tolerance: Mapping[str, float], alpha: float = ALPHA) -> list[Verdict]:
    """The verdicts on claims 1 to 5 for each network of a study (claims.json).

    `tolerance`: "r_inf" and "accuracy" (absolute), "distance" (relative). The parts of a verdict are the primary measures first, then
    secondary effects, which no verdict rests on.
    """
    contrasts = [contrast for one in evidence for contrast in contrasts_of(one, tolerance)]
    family = [index for index, contrast in enumerate(contrasts) if contrast.applies and contrast.controlled]
    for_, against = (holm([getattr(contrasts[i], name) for i in family]) for name in ("p_for", "p_against"))
    adjusted = {index: (for_[k], against[k]) for k, index in enumerate(family)}
    return [_written(contrast, adjusted.get(index), alpha) for index, contrast in enumerate(contrasts)]


def _written(contrast: Contrast, adjusted: tuple[float, float] | None, alpha: float) -> Verdict:
    """The contrast with its verdict."""
    verdict, why = _verdict(contrast, adjusted, alpha)
    parts, evidence, arm = contrast.parts, contrast.evidence, contrast.evidence.arm
    hardest = max(parts, key=lambda part: part.p_for, default=None)
    said = reason(contrast, why, alpha)
    return Verdict(
        data=arm.data,
        model=arm.model,
        objective=arm.objective,
        penalty=arm.penalty,
        method=arm.pruner,
        claim=contrast.claim,
        end=contrast.evidence.end,
        verdict=verdict,
        statement=statement(contrast, verdict, said, alpha),
        parts=(*(_share(part, "primary", alpha) for part in parts), *(_share(part, "secondary", alpha) for part in contrast.secondary)),
        effect=None if hardest is None else hardest.estimate.value,
        interval=None if hardest is None else hardest.estimate.interval(CONFIDENCE),
        effect_of=None if hardest is None else hardest.measure.name,
        confidence=CONFIDENCE,
        p=contrast.p_for if adjusted else None,
        p_holm=adjusted[0] if adjusted else None,
        p_against=contrast.p_against if adjusted else None,
        p_against_holm=adjusted[1] if adjusted else None,
        levels=tuple(sorted({level for part in parts for level in part.levels})),
        penalised={level: Penalised(penalty=penalty, zeros=evidence.sparsity[level]) for level, penalty in evidence.penalties.items()},
        control=control(contrast),
        reason=said,
    )


def _verdict(contrast: Contrast, adjusted: tuple[float, float] | None, alpha: float) -> tuple[Said, Why]:
    if not contrast.applies:
        return "not applicable", ""
    if adjusted is None:
        return "no control", ""
    if adjusted[0] <= alpha:
        return "supported", ""
    sides = [part.speaks(alpha) for part in contrast.parts]
    if adjusted[1] <= alpha:
        return "contradicted", "one half" if "for" in sides else ""
    return "undecided", "against alone" if "against" in sides else "open" if "open" in sides else "halves alone"


def _share(part: Part, role: str, alpha: float) -> Share:
    estimate = part.estimate
    known = not estimate.over_samples_only
    return Share.of(
        part.measure.quantity,
        estimate,
        role=role,
        speaks=part.speaks(alpha),
        p=part.p_for if known else None,
        p_against=part.p_against if known else None,
        straight_effect=None if part.straight is None else part.straight.value,
        net_effect=None if part.net is None else part.net.value,
        se=estimate.se,
        df=estimate.df,
        levels=part.levels,
        at=part.at,
        to_peak=part.to_peak,
        against=part.against,
        n=estimate.samples,
        failed=part.failed,
        apart=part.apart,
    )
