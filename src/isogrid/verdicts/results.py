"""What verdicts leave for a reader, in numbers and codes: a claim's verdict, a network's recommendation. They are written to claims.json
and summary.json and read back through these types (`core.typed`).

What belongs here: the types. What does not: judging, sentences (`verdicts.wording` has those of claims.json, `report` all others).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from isogrid.core.typed import Number
from isogrid.metrics.statistics import Estimate
from isogrid.verdicts.arm import Arm

CONFIDENCE = 0.9
"""Of the two-sided intervals beside the verdicts: both ends are one-sided 95 % limits, so a verdict and its interval agree."""
End = Literal["attacked", "certified"]
"""The two ends of a bracket: an attack's distance is never below the true one, a certificate's never above."""
Said = Literal["supported", "contradicted", "undecided", "no control", "not applicable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfArm:
    """Whose result it is, in the columns of tables (`Arm.columns`)."""

    data: str = ""
    model: str = ""
    objective: str = ""
    penalty: str = ""
    method: str = ""

    @property
    def arm(self) -> Arm:
        """The same as one value."""
        return Arm(data=self.data, model=self.model, objective=self.objective, penalty=self.penalty, pruner=self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a number is a number of. `measure`: its id in tables, "accuracy" for the clean one, which has no attack. `attack`: as a reader
    knows it. `unit`: of effects on it: relative ones of distances, absolute ones of accuracies."""

    measure: str = ""
    attack: str = ""
    norm: str = ""
    domain: str = ""
    eps: float | None = None
    unit: Literal["absolute", "relative"] = "absolute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Quantity):
    """A change of a quantity, in its unit, with its interval (`CONFIDENCE`, two-sided); `seeds`: 1 where it is over samples only."""

    effect: Number
    low: Number
    high: Number
    seeds: int = 0

    @classmethod
    def of(cls, quantity: Quantity, estimate: Estimate, **rest: Any) -> Self:
        """The estimated change of a quantity; `rest`: the fields that a kind of change adds."""
        low, high = estimate.interval(CONFIDENCE)
        values: dict[str, Any] = asdict(quantity) | {"effect": estimate.value, "low": low, "high": high, "seeds": estimate.seeds}
        return cls(**values, **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Change):
    """One measure's share in a claim.

    `role`: verdicts rest on the primary ones. `speaks`: by itself, before any correction. `p`, `p_against`: None with one seed.
    `levels`: those compared; `at`: what the effect is the effect of: all of them, the mean up to the peaks that the seeds were given
    (`to_peak`), or the one level that is hardest to establish. `against`: the control's rounds that the comparison rests on, or the peak's
    levels. `straight_effect`: where the control is interpolated in straight lines. `net_effect`: beyond the control's own change.
    `se`, `df`: standard error, Satterthwaite's degrees of freedom (a description). `n`: samples. `failed`: attacks that failed. `apart`:
    the seed whose effect lies apart from the others', if one does.
    """

    role: Literal["primary", "secondary"] = "primary"
    speaks: str = "open"
    p: float | None = None
    p_against: float | None = None
    straight_effect: float | None = None
    net_effect: float | None = None
    se: Number = float("nan")
    df: Number = float("nan")
    levels: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    to_peak: bool = False
    against: tuple[int, ...] = ()
    n: int = 0
    failed: int = 0
    apart: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalised:
    """What a level of claim 4 is: a dense network's penalty ("": none), and the share of its activations that are zero at the layer that
    feeds the last one, on the test samples, mean over seeds."""

    penalty: str = ""
    zeros: Number = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(OfArm):
    """The verdict on one claim, at one `end` of the brackets. `effect`, `interval`: of the share `effect_of`, the hardest to establish.

    `p`, `p_holm`: for; `p_against`, `p_against_holm`; None where nothing was judged. `statement`, `control`, `reason`: in words, for
    readers of claims.json. `penalised`: what the levels are, where they are no levels of pruning (claim 4).
    """

    claim: int
    end: End = "attacked"
    verdict: Said
    statement: str = ""
    parts: tuple[Share, ...] = ()
    effect: float | None = None
    interval: tuple[float | None, float | None] | None = None
    effect_of: str | None = None
    confidence: float = 0.9
    p: float | None = None
    p_holm: float | None = None
    p_against: float | None = None
    p_against_holm: float | None = None
    levels: tuple[int, ...] = ()
    penalised: Mapping[int, Penalised] = field(default_factory=dict)
    control: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best(Change):
    """The most robust level in one norm: `value`, its mean; the gain over dense (`effect`), estimated at the level that other seeds and
    samples choose; `decided`: it is not chance. `equal_levels`: those around it that are as good within the tolerance."""

    level: int
    value: Number = float("nan")
    decided: bool = False
    equal_levels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compromise:
    """The sparsest level among the best over all norms that keeps its accuracy; `why` it is dense: no sparse level is shown to keep its
    accuracy, or every one that does loses more than the tolerance in some norm."""

    level: int
    gains: tuple[Change, ...] = ()
    decided: bool = False
    why: Literal["", "accuracy lost", "robustness lost"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Highest:
    """The highest sparsity shown to be not worse than dense, in `over`; 0 where there is none, `decided` where that is shown too: `worse`
    is then the first level that is. `stopped_at`: the first level that is not shown to be as good."""

    level: int = 0
    decided: bool = False
    stopped_at: int | None = None
    worse: int | None = None
    over: tuple[Quantity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragile:
    """The first level worse than dense minus tolerance, None where no level is shown to be: by which `losses`, or because it has
    `collapsed`; `again`: a sparser level that lies above the edge in one of them."""

    level: int | None = None
    losses: tuple[Change, ...] = ()
    collapsed: bool = False
    again: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    """A norm that cannot be compared with dense: `why` its dense reference is no evidence ("hardly ever right", "void", ...)."""

    of: Quantity
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corner(Change):
    """The cell of the highest mean (`value`) in a grid of penalties and levels of pruning. Its gain over the dense network without a
    penalty (`effect`) is estimated at the cell that other seeds and samples choose; `decided`: it is not chance."""

    penalty: str
    level: int
    value: Number = float("nan")
    decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """The penalty of the highest mean at one level of pruning, "" for none. `gain`: over no penalty at that level, estimated at the penalty
    that other seeds and samples choose; `decided`: it is not chance, all levels of the ridge counted."""

    level: int
    penalty: str
    gain: Change | None = None
    decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A relative change of a geometric mean over samples, 0.1 for a tenth more, with its interval (`CONFIDENCE`, two-sided)."""

    effect: Number
    low: Number
    high: Number

    @property
    def moved(self) -> Literal["rose", "fell", "open"]:
        """Whether the interval lies on one side of no change."""
        return "rose" if self.low > 0 else "fell" if self.high < 0 else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism(OfArm):
    """Why a level is as robust as it is, against the dense reference, on the samples that both classify correctly.

    distance = margin / slope * rest, so the three changes multiply to that of the distance: `margin` of g_y - g_k to the class k whose
    linearised boundary is closest, `slope` = ||grad (g_y - g_k)||_q there, `rest` is what curvature (and the box) makes of their quotient.
    `quotient`: of margin / slope. `local`: of the bound on every such slope in a ball around the sample. `distance`, `rest`: None where no
    minimum-norm attack ran.
    """

    norm: str
    domain: str = ""
    level: int
    sparsity: float
    margin: Ratio
    slope: Ratio
    quotient: Ratio
    local: Ratio | None = None
    distance: Ratio | None = None
    rest: Ratio | None = None
    n: int = 0
    seeds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation(OfArm):
    """Which level to take, and from which on to be careful. `sparsity`: of every level. `reference`: whether dense is evidence at all.

    `seeds`: trainings that it rests on; with one, it holds for that one network (or those given files).
    """

    seeds: int = 0
    confidence: float = 0.9
    reference: bool = True
    sparsity: Mapping[int, float] = field(default_factory=dict)
    most_robust: tuple[Best, ...] = ()
    compromise: Compromise | None = None
    highest_sparsity: Highest | None = None
    first_fragile: Fragile | None = None
    mute: tuple[Mute, ...] = ()
