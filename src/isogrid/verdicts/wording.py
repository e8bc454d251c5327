"""The sentences of claims.json: statement, control and reason of a verdict, and how a figure is said in one. Everything else that verdicts
have to say is numbers and codes, which `report` puts into words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Literal

from isogrid.verdicts.contrasts import Contrast, Obstacle, Part
from isogrid.verdicts.evidence import Evidence
from isogrid.verdicts.results import CONFIDENCE, Change, Quantity, Said

STATEMENTS = {
    1: "linear classifiers: sparsity raises r_inf, while r_2 stays level or falls",
    2: "nonlinear networks: sparsity raises robustness in both norms, up to a threshold",
    3: "nonlinear networks: beyond a threshold of sparsity robustness falls",
    4: "activation sparsity, brought about by a penalty, raises robustness in both norms, up to a threshold",
    5: "deeper networks on CIFAR-10 show the same effect",
}
OBSTACLES: Mapping[Obstacle, str] = {
    "linear only": "the claim is about linear models",
    "nonlinear only": "the claim is about nonlinear networks",
    "judged as claim 5": "judged as claim 5",
    "weights only": "judged once per network and objective, where the same training without a penalty and with some on activations stand "
    "side by side (--penalties)",
    "deep only": "the claim is about VGG-like networks and ResNet-32 on CIFAR-10",
    "no control": "no dense control of equal training was attacked",
    "no attack": "nothing was attacked",
    "not alike": "not attacked on sparse levels and dense control alike",
    "too few": "no seed, or fewer than eight samples, measured on both",
    "control no evidence": "every attacked round of the control is saturated, void or missing",
    "no level": "no attacked level >= 1 that keeps its accuracy is evidence (the rest is collapsed, saturated, void, less accurate, or "
    "without a control)",
    "control all zero": "the control's distances are all zero",
    "one level": "fewer than two attacked levels are evidence (the rest is collapsed, saturated, void or without a control)",
    "peak all zero": "the distances at the peak are all zero",
    "one seed": "one seed: the variance between seeds cannot be estimated",
    "one network": "one network per level: the variance between trainings cannot be estimated",
}
PENALISED_OBSTACLES: Mapping[Obstacle, str] = {
    "no control": "the network without a penalty was not attacked",
    "not alike": "not attacked with and without a penalty alike",
    "control no evidence": "the network without a penalty is saturated, void or missing",
    "no level": "no attacked network with a penalty that keeps its accuracy is evidence (the rest is collapsed, saturated, void or less "
    "accurate)",
    "control all zero": "the distances of the network without a penalty are all zero",
}
"""The same where levels are penalties and not rounds of pruning."""
Why = Literal["", "one half", "against alone", "open", "halves alone"]
"""Why a verdict is what it is, where nothing stood in its way."""


def title(quantity: Quantity) -> str:
    """As a sentence names it: "r_inf (pgd, eps 0.1, box)"."""
    if not quantity.attack:
        return quantity.measure
    names = {("absolute", "linf"): "r_inf", ("relative", "l2"): "r_2", ("relative", "linf"): "mean linf distance"}
    figure = names.get((quantity.unit, quantity.norm), f"accuracy under {quantity.norm} attack")
    return f"{figure} ({quantity.attack}{'' if quantity.eps is None else f', eps {quantity.eps:g}'}, {quantity.domain})"


def effect(change: Change) -> str:
    """One effect in words, "r_inf (pgd, eps 0.1, box) +0.120 [90 % interval +0.050, +0.190]", relative ones in per cent."""
    return f"{title(change)} {size(change)}"


def size(change: Change) -> str:
    """The figures of `effect` alone."""
    value, low, high = (signed(number, change) for number in (change.effect, change.low, change.high))
    over = ", over samples only" if change.seeds == 1 else ""
    return f"{value} [{100 * CONFIDENCE:.0f} % interval {low}, {high}{over}]"


def signed(number: float, of: Quantity) -> str:
    """An effect on a quantity, in its unit."""
    if not math.isfinite(number):
        return "open"
    return f"{100 * number:+.1f} %" if of.unit == "relative" else f"{number:+.3f}"


def reason(contrast: Contrast, why: Why, alpha: float) -> str:
    """What stood in the way, or why the verdict is no other."""
    if contrast.obstacles:
        words = {**OBSTACLES, **PENALISED_OBSTACLES} if contrast.evidence.penalties else OBSTACLES
        return "; ".join(f"{norm}: {words[one]}" if norm else words[one] for norm, one in contrast.obstacles)
    if why == "open":
        unclear = [part for part in contrast.parts if part.speaks(alpha) == "open"]
        meanwhile = " or from what training did between rounds of the control" if any(part.straight is not None for part in unclear) else ""
        return f"not told from chance{meanwhile}: {' and '.join(title(part.measure.quantity) for part in unclear)}"
    return {
        "": "",
        "one half": "it needs both halves, and one speaks against it",
        "against alone": "the half against it is significant alone, but not once all claims of this study are counted",
        "halves alone": "each half is significant alone, but not both once all claims of this study are counted",
    }[why]


def statement(contrast: Contrast, verdict: Said, reason: str, alpha: float) -> str:
    """The verdict, what speaks for it, what against it, what is open, and why."""
    where = f"{contrast.evidence.arm.model} on {contrast.evidence.arm.data}"
    head = f"Claim {contrast.claim} ({STATEMENTS[contrast.claim]}) is {verdict} for {where}"
    if verdict == "no control":
        head = f"Claim {contrast.claim} ({STATEMENTS[contrast.claim]}): no control for {where}"
    said = {"for": "For it", "against": "Against it", "open": "Open"}
    told = []
    for side, words in said.items():
        effects = [_part(part, contrast.evidence) for part in contrast.parts if part.speaks(alpha) == side]
        told += [f"{words}: {'; '.join(effects)}."] if effects else []
    told += [f"Seed {seed} lies apart from the others in {title(part.measure.quantity)}." for part in contrast.parts for seed in part.apart]
    return " ".join([head + (f" ({reason})." if reason else "."), *told])


def _part(part: Part, evidence: Evidence) -> str:
    text = effect(part.change)
    if part.to_peak:
        text += f" in the mean up to its peak at {_places(evidence, part.at)}"
    elif part.at != part.levels:
        text += (
            f" at {_places(evidence, part.at)}, the hardest to establish of the {'networks' if evidence.penalties else 'levels'} compared"
        )
    if part.side == "not above":
        most = f"{100 * part.bound:g} %" if part.measure.ratio else f"{part.bound:g}"
        text += f", where level or falling means at most +{most}"
    if part.straight is not None:
        text += f" ({signed(part.straight.value, part.change)} where the control is interpolated in straight lines)"
    if part.net is not None:
        text += f", beyond the dense control's own change {size(Change.of(part.measure.quantity, part.net))}"
    return text


def control(contrast: Contrast) -> str:
    """What the effects are differences to."""
    if not contrast.parts:
        return ""
    if contrast.evidence.penalties:
        return f"the network without a penalty, of the same seed and training ({_zeros(contrast.evidence, 0)})"
    if contrast.claim != 3:
        return _rounds({(level, part.against) for part in contrast.parts for level in part.levels})
    peaks = sorted({level for part in contrast.parts for level in part.against})
    text = f"most robust level before it, chosen on the other seeds and samples: {_listed(peaks)}"
    compared = {(level, part.rounds) for part in contrast.parts for level in (*part.levels, *part.against) if part.rounds}
    return f"{text}; and beyond the change meanwhile of the {_rounds(compared)}" if compared else text


def _rounds(compared: Set[tuple[int, tuple[int, ...]]]) -> str:
    """The control's rounds, from pairs (level, rounds that its measure's comparison rests on)."""
    rounds = sorted({one for _, rounds in compared for one in rounds})
    text = f"dense control of equal training, round k against level k: attacked at rounds {_listed([one for one in rounds if one])}"
    between = sorted({one for level, rounds in compared if level not in rounds and level < rounds[-1] for one in rounds})
    if between:
        text += f"; interpolated between rounds {_listed(between)} (in log(1 + k); verdicts must hold for straight lines too)"
    return text


def _places(evidence: Evidence, levels: Sequence[int]) -> str:
    """Levels, or what stands for them."""
    if not evidence.penalties:
        return f"level {_listed(levels)}"
    return " or ".join(f"{evidence.penalties[level]} ({_zeros(evidence, level)})" for level in levels)


def _zeros(evidence: Evidence, level: int) -> str:
    return f"{100 * evidence.sparsity[level]:.1f} % of activations zero"


def _listed(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))
