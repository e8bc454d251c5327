"""What a study left in its folder, read back. What belongs here: the stored tables as typed values. What does not: words, drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, read_json
from isogrid.core.typed import typed
from isogrid.study.results import BUDGETED, DISTANCES, SHARED, THEORY, Curve, Group, Summary
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import GIVEN
from isogrid.verdicts.results import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The stored tables of one study folder. `frontier` is empty, `claims` and `gallery` too, where the study left none."""

    folder: Path
    summary: Summary
    claims: tuple[Verdict, ...]
    frontier: pd.DataFrame
    settings: str
    gallery: Mapping[str, Tensor] = field(repr=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.summary.name or self.folder.name

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What the study compares with dense, in the order of its specification; one of which nothing was measured is among them."""
        return tuple(arm for arm in self.summary.arms if not arm.control)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Every measure along the levels of an arm or of the control beside it."""
        return self.summary.curves

    def title(self, arm: Arm) -> str:
        """An arm as a reader knows it: by its model, and by what else tells it from the study's other arms of that model."""
        alike = [other for other in self.arms if other.model == arm.model]
        told = [name for name in ("data", "objective", "penalty", "pruner") if len({getattr(other, name) for other in alike}) > 1]
        return ", ".join([arm.model, *(value for name in told if (value := str(getattr(arm, name))))])

    def given(self, arm: Arm) -> bool:
        """Whether the levels of an arm are files that the user gave, of unknown training."""
        return arm.pruner == GIVEN

    @property
    def samples(self) -> int:
        """Number of test samples, of the model that has most."""
        return max((one.test or 0 for one in self.summary.data), default=0)

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
        order = {one.id: place for place, one in enumerate(self.summary.attacks)}
        curves = [c for c in self.select(arm, group=group) if c.name != THEORY]
        return tuple(sorted(curves, key=lambda c: (not c.is_envelope, c.is_attack, order.get(c.attack, len(order)), c.attack)))

    def control(self, curve: Curve) -> Curve | None:
        """The dense control's curve under the same attacks: of an envelope that the control has not met the shared part."""
        alike = self.one(curve.arm, curve.group, curve.attack, control=True)
        return self.one(curve.arm, curve.group, SHARED, control=True) if alike is None and curve.is_envelope else alike

    def sparsities(self, arm: Arm) -> dict[int, float]:
        """Level -> sparsity of the pruned network (a dense control is drawn at the level whose training it shares)."""
        return {point.level: point.sparsity for curve in self.select(arm) for point in curve.points}

    def counted(self, arm: Arm) -> float:
        """The share of all weights that the sparsity of an arm counts over, the least of its levels; 1 where it is not stored."""
        rows = self.values(arm)
        found = [] if rows.empty else rows.loc[rows["metric"] == "weights_counted", "value"].tolist()
        return min(found, default=1.0)


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
    frontier, settings, gallery = folder / "frontier.parquet", folder / "study.yaml", folder / "gallery.safetensors"
    return Tables(
        folder=folder,
        summary=typed(Summary, _json(path, {}), str(path)),
        claims=typed(tuple[Verdict, ...], _json(folder / "claims.json", []), str(folder / "claims.json")),
        frontier=pd.read_parquet(frontier) if frontier.is_file() else pd.DataFrame(),
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
        gallery=load_tensors(gallery, "gallery") if gallery.is_file() else {},
    )
