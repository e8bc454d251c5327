"""Names and numbers as a reader sees them. What belongs here: formatting and fixed wording. What does not: HTML, drawing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from isogrid.study.results import Group

NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁"}
DOMAINS = {"box": "inputs stay in their box", "free": "inputs unrestricted"}
ATTACKS = {
    "": "no attack",
    "envelope": "Envelope",
    "shared-envelope": "Shared envelope",
    "exact": "Truth",
    "fgs": "FGS",
    "rfgs": "rFGS",
    "pgd": "PGD",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "square": "Square",
    "autoattack": "AutoAttack",
    "deepfool": "DeepFool",
    "superdeepfool": "SuperDeepFool",
    "cw": "C&W",
    "ddn": "DDN",
    "fmn": "FMN",
    "fab": "FAB-T",
    "hopskipjump": "HopSkipJump",
    "noise": "Random noise",
    "minimise": "Minimise",
    "ensemble": "Ensemble",
}
CLAIMS = {
    1: "Linear: sparsity raises r∞ but not r₂",
    2: "Nonlinear: sparsity raises r∞ and r₂, up to a threshold",
    3: "Beyond the threshold, robustness falls",
    4: "Activation sparsity raises robustness too",
    5: "Deeper networks and transfer attacks show it too",
}
# verdict -> (sign, tone of the badge, whether the evidence speaks at all)
VERDICTS = {
    "supported": ("✓", "good"),
    "contradicted": ("✕", "bad"),
    "undecided": ("?", "open"),
    "no control": ("⊘", "none"),
    "not applicable": ("–", "none"),
}
SEVERITIES = {"error": ("✕", "bad"), "warning": ("!", "open"), "info": ("i", "none")}
STATES = {
    "saturated": "at the floor or the ceiling of this budget: no evidence",
    "collapsed": "predictions are constant or a class has no live path",
    "undecided": "complete search left samples open within its limit: the truth lies between the two figures",
    "void": "more than 1 % of the attacks failed: the mean is biased and no claim uses it",
}
MISSING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A value with a true minus sign, a dash where there is none.

    >>> number(-0.0123), number(None), number(float("inf"))
    ('−0.012', '–', '∞')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """An effect: as `number`, with a plus sign where it is positive.

    >>> signed(0.08), signed(-0.08), signed(0.0)
    ('+0.080', '−0.080', '0.000')
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text[0].isdigit() and float(text) > 0 else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """A confidence interval; a missing end is open, and both missing give an empty text.

    >>> interval(0.1, 0.2), interval(None, 0.2), interval(None, None)
    ('[0.100, 0.200]', '(−∞, 0.200]', '')
    """
    no_low, no_high = (end is None or not math.isfinite(end) for end in (low, high))
    if no_low and no_high:
        return ""
    return f"{'(−∞' if no_low else '[' + number(low, digits)}, {'∞)' if no_high else number(high, digits) + ']'}"


def percent(share: float | None) -> str:
    """A share in per cent, with a second decimal where sparsities lie close together.

    >>> percent(0.9412), percent(0.99772), percent(0.0), percent(1.0)
    ('94.1 %', '99.77 %', '0 %', '100 %')
    """
    if share is None or math.isnan(share):
        return MISSING
    value = 100 * share
    digits = 0 if value in (0.0, 100.0) else 2 if value >= 99.5 else 1
    return f"{value:.{digits}f} %"


def p_value(value: float | None) -> str:
    """A p value, never rounded down to 0.

    >>> p_value(0.0000004), p_value(0.034)
    ('< 0.001', '0.034')
    """
    return MISSING if value is None or math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def eps_text(eps: float | None) -> str:
    """`ε = 0.1`, empty for a minimum-norm attack."""
    return "" if eps is None else f"ε = {eps:g}"


def attack_label(attack: str) -> str:
    """An attack's name as the field writes it, and what sets it apart from its published form; its budget is left to the group's title.

    >>> attack_label("rfgs@0.1"), attack_label("apgd-t-thrifty@0.1"), attack_label("ddn-converging"), attack_label("mine@0.1")
    ('rFGS', 'APGD-T, thrifty', 'DDN, converging', 'mine')
    """
    name = attack.split("@", 1)[0].replace(" ", "-")
    known = max((one for one in ATTACKS if one and (name == one or name.startswith(f"{one}-"))), key=len, default="")
    return ", ".join([ATTACKS[known], *re.split(r"-(?=\D)", name[len(known) :])[1:]]) if known else name


def samples_note(samples: tuple[int, int], whole: int) -> str:
    """On how many samples a figure rests, where that is not the study's number of test samples.

    >>> samples_note((200, 200), 1000), samples_note((150, 200), 1000), samples_note((1000, 1000), 1000)
    ('n = 200', 'n = 150–200', '')
    """
    least, most = samples
    return "" if most == 0 or least == most == whole else f"n = {most}" if least == most else f"n = {least}–{most}"


def norm_label(norm: str) -> str:
    """ℓ∞ for linf, ℓ₂ for l2."""
    return NORMS.get(norm, norm)


def metric_symbol(group: Group) -> str:
    """The metric's symbol: r∞ and r₂ where metric and norm are the paper's, else words."""
    names = {"r_inf": "r∞", "r_2": "r₂", "robust_accuracy": f"accuracy under {norm_label(group.norm)}"}
    return names.get(group.metric) or (f"mean {norm_label(group.norm)} distance" if group.metric == "mean_distance" else group.metric)


def group_title(group: Group) -> str:
    """What a figure of this group shows, in a title's length."""
    where = f", domain {group.domain}" if group.domain else ""
    if group.budgeted:
        return f"Accuracy left under {norm_label(group.norm)} attack, {eps_text(group.eps)}{where}"
    return f"Mean {norm_label(group.norm)} size of the smallest perturbation found{where}"


def axis_title(group: Group) -> str:
    """The quantity on the vertical axis."""
    return f"{metric_symbol(group)} (share of all samples)" if group.budgeted else f"{metric_symbol(group)} (units of the input)"


def joined(items: Sequence[str], last: str = "and") -> str:
    """An enumeration in words.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def level_list(levels: Sequence[object]) -> str:
    """Levels with runs drawn together.

    >>> level_list([1, 2, 3, 6, 8, 9])
    '1–3, 6, 8–9'
    """
    plain = sorted({int(level) for level in levels if isinstance(level, int | float) and not math.isnan(level)})
    runs: list[list[int]] = []
    for level in plain:
        if runs and level == runs[-1][-1] + 1:
            runs[-1].append(level)
        else:
            runs.append([level])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs) or MISSING
