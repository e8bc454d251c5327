"""What a study left in its folder, read back. What belongs here: the stored tables as typed values. What does not: words, drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from isogrid.audit.findings import PlacedCheck, PlacedFinding
from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, read_json
from isogrid.core.typed import typed
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import GIVEN
from isogrid.verdicts.results import Recommendation, Verdict

ENVELOPE, SHARED, THEORY = "envelope", "shared-envelope", "theory"
"""The minimum over all attacks of a threat, and over those alone that every level and the dense control met: what claims compare."""
BUDGETED = ("r_inf", "robust_accuracy")
"""Accuracy left under a budget: r_inf in l_inf, robust_accuracy in other norms."""
DISTANCES = ("r_2", "mean_distance")
"""Mean size of the smallest perturbation: r_2 in l2, mean_distance in other norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One level of one curve: mean and sd over seeds, the 95 % crossed interval [low, high], and what the level is worth as evidence.

    Of distances also the median over the attacked samples (inf: more than half of the attacks failed), `failed` of `attacked`.
    """

    level: int
    sparsity: float
    mean: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    n: int = 0
    saturated: bool = False
    collapsed: bool = False
    void: bool = False
    median: float = math.nan
    failed: int = 0
    attacked: int = 0

    @property
    def left(self) -> float:
        """Share of weights left, 1 - sparsity."""
        return 1.0 - self.sparsity

    @property
    def state(self) -> str:
        """`sound`, or why the level is no evidence: `collapsed`, `void` or `saturated` (the gravest one that holds)."""
        for name in ("collapsed", "void", "saturated"):
            if getattr(self, name):
                return name
        return "sound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What may be compared in one figure: one metric under one threat model (norm, domain, eps)."""

    metric: str
    norm: str
    domain: str
    eps: float | None

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
    attack: str
    group: Group
    points: tuple[Point, ...]
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
    def is_attack(self) -> bool:
        """Whether this is a single attack and no envelope."""
        return self.name not in (ENVELOPE, SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The stored tables of one study folder. `frontier` is empty, `claims` and `gallery` too, where the study left none.

    `arms`: what the study compares with dense, in the order of its specification; one of which nothing was measured is among them.
    """

    folder: Path
    summary: Mapping[str, Any]
    arms: tuple[Arm, ...]
    curves: tuple[Curve, ...]
    claims: tuple[Verdict, ...]
    recommendations: tuple[Recommendation, ...]
    findings: tuple[PlacedFinding, ...]
    checks: tuple[PlacedCheck, ...]
    frontier: pd.DataFrame
    settings: str
    gallery: Mapping[str, Tensor] = field(repr=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.summary.get("name") or self.folder.name)

    def title(self, arm: Arm) -> str:
        """An arm as a reader knows it: by its model, and by what else tells it from the study's other arms of that model."""
        alike = [other for other in self.arms if other.model == arm.model]
        told = [name for name in ("data", "objective", "penalty", "pruner") if len({getattr(other, name) for other in alike}) > 1]
        return ", ".join([arm.model, *(value for name in told if (value := str(getattr(arm, name))))])

    def given(self, arm: Arm) -> bool:
        """Whether the levels of an arm are files that the user gave, of unknown training."""
        return arm.pruner == GIVEN

    @property
    def seeds(self) -> int:
        """Number of seeds asked for."""
        return int(self.summary.get("seeds") or 0)

    @property
    def samples(self) -> int:
        """Number of test samples."""
        return int((self.summary.get("data") or {}).get("test") or 0)

    @property
    def tolerance(self) -> Mapping[str, float]:
        """The tolerances of the study: r_inf and accuracy in points, distance relative."""
        return dict(self.summary.get("tolerance") or {})

    def rows(self, key: str, arm: Arm | None = None) -> tuple[Mapping[str, Any], ...]:
        """The list `key` of summary.json (attacks, failures, transfer), of one arm if given."""
        rows = [row for row in self.summary.get(key) or () if isinstance(row, Mapping)]
        return tuple(row for row in rows if arm is None or (row.get("model") == arm.model and row.get("method") in (None, arm.pruner)))

    def values(self, arm: Arm) -> pd.DataFrame:
        """The rows of the frontier that are an arm's."""
        table = self.frontier
        if table.empty or "metric" not in table:
            return pd.DataFrame()
        columns = {name: value for name, value in arm.columns().items() if name != "control"}
        return table[(table[list(columns)] == pd.Series(columns)).all(axis=1)]

    def select(
        self, arm: Arm, *, control: bool = False, metric: str | None = None, group: Group | None = None, attack: str | None = None
    ) -> tuple[Curve, ...]:
        """The curves of an arm or of the control beside it, narrowed by whatever is given."""
        return tuple(
            curve
            for curve in self.curves
            if curve.arm == arm
            and curve.control == control
            and (metric is None or curve.group.metric == metric)
            and (group is None or curve.group == group)
            and (attack is None or curve.attack == attack)
        )

    def one(self, arm: Arm, group: Group, attack: str, *, control: bool = False) -> Curve | None:
        """The one curve of an attack in a group, None where the study has none."""
        return next(iter(self.select(arm, control=control, group=group, attack=attack)), None)

    def groups(self, arm: Arm) -> tuple[Group, ...]:
        """The threat models under which the pruned levels of an arm have r_inf or r_2, in reading order."""
        found = {c.group for c in self.select(arm) if c.group.metric in (*BUDGETED, *DISTANCES) and c.name != THEORY}
        return tuple(sorted(found, key=lambda group: group.order))

    def attacks(self, arm: Arm, group: Group) -> tuple[Curve, ...]:
        """The curves of one group: the envelope first, then the attacks in the order of the specification."""
        order = {str(row.get("id")): place for place, row in enumerate(self.rows("attacks"))}
        curves = [c for c in self.select(arm, group=group) if c.name != THEORY]
        return tuple(sorted(curves, key=lambda c: (not c.is_envelope, c.is_attack, order.get(c.attack, len(order)), c.attack)))

    def control(self, curve: Curve) -> Curve | None:
        """The dense control's curve under the same attacks: of an envelope that the control has not met the shared part."""
        alike = self.one(curve.arm, curve.group, curve.attack, control=True)
        return self.one(curve.arm, curve.group, SHARED, control=True) if alike is None and curve.is_envelope else alike

    def sparsities(self, arm: Arm) -> dict[int, float]:
        """Level -> sparsity of the pruned network (a dense control is drawn at the level whose training it shares)."""
        return {point.level: point.sparsity for curve in self.select(arm) for point in curve.points}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _point(row: Mapping[str, Any]) -> Point:
    return Point(
        level=int(row["level"]),
        sparsity=min(max(_number(row.get("sparsity")), 0.0), 1.0),
        mean=_number(row.get("mean")),
        sd=_number(row.get("sd")),
        low=_number(row.get("low")),
        high=_number(row.get("high")),
        seeds=int(row.get("seeds") or 0),
        n=int(row.get("n") or 0),
        saturated=bool(row.get("saturated")),
        collapsed=bool(row.get("collapsed")),
        void=bool(row.get("void")),
        median=_median(row),
        failed=int(row.get("failed") or 0),
        attacked=int(row.get("attacked") or 0),
    )


def _median(row: Mapping[str, Any]) -> float:
    """JSON has no inf: a median that is not there although attacks were run is one that most of them failed to reach."""
    failed, attacked = (int(row.get(name) or 0) for name in ("failed", "attacked"))
    return math.inf if row.get("median") is None and 2 * failed > attacked > 0 else _number(row.get("median"))


def _curves(rows: Iterable[Mapping[str, Any]]) -> tuple[Curve, ...]:
    curves = []
    for row in rows:
        eps = _number(row.get("eps"))
        group = Group(
            metric=str(row.get("metric") or ""),
            norm=str(row.get("norm") or ""),
            domain=str(row.get("domain") or ""),
            eps=None if math.isnan(eps) else eps,
        )
        points = tuple(sorted((_point(point) for point in row.get("points") or ()), key=lambda point: point.level))
        curves.append(
            Curve(
                arm=_arm(row, str(row.get("beside") or row.get("method") or "")),
                control=bool(row.get("control")),
                attack=str(row.get("attack") or ""),
                group=group,
                points=points,
                over=tuple(str(attack) for attack in row.get("over") or ()),
            )
        )
    return tuple(curves)


def _arm(row: Mapping[str, Any], pruner: str) -> Arm:
    data, objective, penalty = (str(row.get(name) or "") for name in ("data", "objective", "penalty"))
    return Arm(data=data, model=str(row["model"]), objective=objective, penalty=penalty, pruner=pruner)


def _arms(summary: Mapping[str, Any], curves: Sequence[Curve], where: str) -> tuple[Arm, ...]:
    """In the order of the specification; where the summary does not list them, by the models' names and what curves there are."""
    listed = [arm for arm in typed(tuple[Arm, ...], summary.get("arms") or (), where) if not arm.control]
    met = [*listed, *(curve.arm for curve in curves)]
    bare = [Arm(data="", model=str(model), pruner="") for model in summary.get("models") or () if model not in {arm.model for arm in met}]
    return tuple(dict.fromkeys([*met, *bare]))


def _json(path: Path, otherwise: Any) -> Any:
    """The JSON value at `path`, `otherwise` where there is no file; a broken file is the user's to know about."""
    if not path.is_file():
        return otherwise
    try:
        return read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"not JSON ({error})", "the file as the study wrote it; run the study again to rebuild it") from None


def read_tables(folder: Path) -> Tables:
    """Read the tables of a finished or partly failed study.

    Raises InputError where `folder` holds no summary.json; every other table is optional and read as empty where it is missing.
    """
    folder = Path(folder)
    path = folder / "summary.json"
    if not path.is_file():
        raise InputError("folder", str(folder), "a study folder with a summary.json, as `isogrid run --out DIR` leaves it")
    summary = _json(path, {})
    if not isinstance(summary, Mapping):
        raise InputError(str(path), type(summary).__name__, "a JSON object, as the study wrote it")
    frontier, settings, gallery = folder / "frontier.parquet", folder / "study.yaml", folder / "gallery.safetensors"
    try:
        curves = _curves(summary.get("curves") or ())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"curves ({error})", "curves as the study wrote them") from None
    return Tables(
        folder=folder,
        summary=summary,
        arms=_arms(summary, curves, f"{path}: arms"),
        curves=curves,
        claims=typed(tuple[Verdict, ...], _json(folder / "claims.json", []), str(folder / "claims.json")),
        recommendations=typed(tuple[Recommendation, ...], summary.get("recommendation") or (), f"{path}: recommendation"),
        findings=typed(tuple[PlacedFinding, ...], summary.get("audit") or (), f"{path}: audit"),
        checks=typed(tuple[PlacedCheck, ...], summary.get("audit_checks") or (), f"{path}: audit_checks"),
        frontier=pd.read_parquet(frontier) if frontier.is_file() else pd.DataFrame(),
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
        gallery=load_tensors(gallery, "gallery") if gallery.is_file() else {},
    )
