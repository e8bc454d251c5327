"""What a study says of itself, in numbers: summary.json is written and read by these types. Words are the report's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isogrid.audit.findings import PlacedCheck, PlacedFinding
from isogrid.core.typed import Number
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import Corner, Mechanism, Recommendation, Ridge

ENVELOPE, SHARED, THEORY, EXACT = "envelope", "shared-envelope", "theory", "exact"
"""The minimum over all attacks of a threat, and over those alone that every level and the dense control met: what claims compare; the exact
distances of affine models; what complete search found."""
BUDGETED = ("r_inf", "robust_accuracy")
"""Accuracy left under a budget: r_inf in l_inf, robust_accuracy in other norms."""
DISTANCES = ("r_2", "mean_distance")
"""Mean size of the smallest perturbation: r_2 in l2, mean_distance in other norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One level of one curve: mean and sd over seeds, the 95 % crossed interval [low, high], and what the level is worth as evidence.

    Of distances also the median over the attacked samples (inf: more than half of the attacks failed), `failed` of `attacked`.
    `by_seed`: the mean of every seed, on its own; NaN where it was not measured. `undecided`: samples that complete search left open within
    its limit; then the truth is known to lie in [low, high] alone, and there is no mean.
    """

    level: int
    sparsity: float
    mean: Number
    sd: Number = math.nan
    low: Number = math.nan
    high: Number = math.nan
    seeds: int = 0
    n: int = 0
    saturated: bool = False
    collapsed: bool = False
    void: bool = False
    median: Number = math.nan
    failed: int = 0
    attacked: int = 0
    by_seed: tuple[Number, ...] = ()
    undecided: int = 0

    def __post_init__(self) -> None:
        if math.isnan(self.median) and 2 * self.failed > self.attacked > 0:  # JSON has no inf: it was written as null
            object.__setattr__(self, "median", math.inf)

    @property
    def left(self) -> float:
        """Share of weights left, 1 - sparsity."""
        return 1.0 - self.sparsity

    @property
    def state(self) -> str:
        """`sound`, or why the level is no evidence: `collapsed`, `undecided`, `void` or `saturated` (the gravest one that holds)."""
        for name in ("collapsed", "undecided", "void", "saturated"):
            if getattr(self, name):
                return name
        return "sound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What may be compared in one figure: one metric under one threat model (norm, domain, eps)."""

    metric: str
    norm: str = ""
    domain: str = ""
    eps: float | None = None

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts accuracies under a budget before distances, l_inf before l2, small budgets before large ones."""
        return (not self.budgeted, self.norm != "linf", self.domain, self.eps if self.eps is not None else -1.0)

    @property
    def budgeted(self) -> bool:
        """Whether the metric is an accuracy under a budget, in [0, 1] (else a distance)."""
        return self.metric in BUDGETED


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one attack along the levels of one arm, or (`control`) of the dense control beside it; points in the order of their
    levels. `over`: the attacks that an envelope is the minimum over.
    """

    arm: Arm
    control: bool = False
    attack: str = ""
    group: Group
    points: tuple[Point, ...] = ()
    over: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[int, int]:
        """The least and the most samples that a level was judged on."""
        counts = [point.n for point in self.points] or [0]
        return min(counts), max(counts)

    def at(self, level: int) -> Point | None:
        """The point of that level, None where it was not measured."""
        return next((point for point in self.points if point.level == level), None)

    @property
    def name(self) -> str:
        """The attack's name without its budget: fgs of fgs@0.1."""
        return self.attack.split("@", 1)[0]

    @property
    def is_envelope(self) -> bool:
        """Whether this is the per-sample minimum over the attacks of its group."""
        return self.name == ENVELOPE

    @property
    def is_truth(self) -> bool:
        """Whether this is what complete search found."""
        return self.name == EXACT

    @property
    def is_attack(self) -> bool:
        """Whether this is a single attack and no envelope."""
        return self.name not in (ENVELOPE, SHARED, EXACT)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One penalty ("": none) along the levels of pruning: a point per level, and beside it the share of activations that are zero at the
    layer that feeds the last one, mean over seeds, on the test samples."""

    penalty: str
    points: tuple[Point, ...]
    activations: tuple[Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Weight x activation sparsity of one network in one measure: rows by rising weight of the penalty, none first.

    `arm`: the one without a penalty. `mute`: why nothing can be compared with its dense network ("": something can). Accuracy has neither
    ridge nor corner.
    """

    arm: Arm
    group: Group
    attack: str = ""
    rows: tuple[GridRow, ...] = ()
    ridge: tuple[Ridge, ...] = ()
    corner: Corner | None = None
    mute: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The mean of one end of the brackets of a level, with its 95 % crossed interval; NaN where more than 1 % of the ends are infinite."""

    mean: Number
    low: Number = math.nan
    high: Number = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Accuracy at a budget, between what is certified and what no attack broke."""

    eps: float
    certified: Ends
    attacked: Ends


@dataclass(frozen=True, slots=True, kw_only=True)
class BracketPoint:
    """One level: the true mean distance lies between `lower` and `upper` (misclassified samples count as 0), on the same n samples.

    `tightness`: the median of lower / upper over samples that an attack broke; `exact`: the share whose ends agree. `curve`: (eps,
    certified, unbroken) shares of all samples. Attacks of one budget say nothing below it: their curve is flat there.
    """

    level: int
    sparsity: float
    n: int
    seeds: int
    collapsed: bool = False
    lower: Ends
    upper: Ends
    tightness: Number = math.nan
    exact: float = 0.0
    at: tuple[At, ...] = ()
    curve: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Certified and attacked ends along the levels of one arm, or (`control`) of its dense control, in one norm and domain."""

    arm: Arm
    control: bool = False
    norm: str
    domain: str
    points: tuple[BracketPoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """An attack that finished on some pruned level: on how many samples, with which parameters."""

    id: str
    name: str
    norm: str = ""
    domain: str = ""
    eps: float | None = None
    samples: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Accuracy of every level (columns) of an arm on what `attack` made on every level (rows)."""

    arm: Arm
    attack: str
    levels: tuple[int, ...]
    sparsity: tuple[float, ...]
    matrix: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The samples of one model: how many, of how many classes, and where they came from, in words.

    `unproved`: why nothing can be certified of the model; empty where that can be, or is not asked for.
    """

    model: str = ""
    name: str = "unknown"
    train: int | None = None
    test: int | None = None
    classes: int | None = None
    source: str = ""
    unproved: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A task that failed, or could not be run because another did."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """summary.json. `data`: the samples of every model; `linear`: the models that are affine maps."""

    isogrid: str = ""
    name: str = ""
    data: tuple[Source, ...] = ()
    seeds: int = 0
    arms: tuple[Arm, ...] = ()
    linear: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    attacks: tuple[Used, ...] = ()
    curves: tuple[Curve, ...] = ()
    transfer: tuple[Matrix, ...] = ()
    grids: tuple[Grid, ...] = ()
    brackets: tuple[Bracket, ...] = ()
    mechanism: tuple[Mechanism, ...] = ()
    audit: tuple[PlacedFinding, ...] = ()
    audit_checks: tuple[PlacedCheck, ...] = ()
    recommendation: tuple[Recommendation, ...] = ()
    failures: tuple[Failure, ...] = ()
