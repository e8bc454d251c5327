"""What was measured on every level, as arrays: the attacks on it, the levels of an arm with its dense control, the threats that they met.

What belongs here: per-sample records and the envelopes over them. What does not: where they were stored, which of them are evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from isogrid.core.norms import allowed
from isogrid.metrics.robustness import Distances, Envelope, envelope
from isogrid.verdicts.arm import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What tables need to know of an attack when its code may be gone: its id, its threat model, what its success and failure say.

    `role`: what its success and failure say about masked gradients (see `audit`). `gradients`: about how many it costs per
    sample. `strength`: its rank, larger is stronger. `leaky`: dead units let its gradients through.
    `partial`: it sees only the survivors of the attacks before it, and speaks through the envelope alone.
    """

    id: str
    name: str
    norm: str
    domain: str
    eps: float | None
    role: Literal["gradient-free", "mixed", "weak", "strong"]
    gradients: float
    strength: int = 0
    leaky: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """One finished attack on one level: what it was, and its records, one row per sample."""

    about: About
    records: pd.DataFrame

    def distances(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[count] in the order of the test samples; NaN where it was not run. What the driver accepted as within eps is not beyond it."""
        values = np.full(count, np.nan)
        values[self.records["sample"].to_numpy()] = self.records["distance"].to_numpy()
        return values if self.about.eps is None else np.where(np.isinf(values), values, np.minimum(values, self.about.eps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracketed:
    """Certified radii of one level in one norm and domain, beside what attacks reached: per sample `lower` and `upper` [N].

    `budgets`: at which certified accuracy is told.
    """

    norm: str
    domain: str
    budgets: tuple[float, ...]
    lower: np.ndarray[Any, np.dtype[np.float64]]
    upper: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def radius(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The lower ends, 0 for misclassified samples."""
        return np.where(self.upper > 0, self.lower, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One finished level of an arm: the metrics and per-sample predictions of its network, the attacks that it is to have, and those that
    have finished. `round`: how many rounds of training the network has had after the dense reference. `brackets`: by norm and domain.
    `exact`: what complete search found, by norm, domain and budget (None: the distances).
    `near`: margins, slopes and Lipschitz constants near samples, a row each, with the norm at the end of every column's name.
    """

    arm: Arm
    seed: int
    level: int
    round: int
    metrics: Mapping[str, Any]
    clean: pd.DataFrame
    planned: tuple[About, ...]
    attacks: dict[str, Attacked]
    brackets: Mapping[tuple[str, str], Bracketed] = field(default_factory=dict)
    exact: Mapping[tuple[str, str, float | None], Bracketed] = field(default_factory=dict)
    near: pd.DataFrame | None = None

    @property
    def correct(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """bool [N]: the clean prediction is right."""
        return (self.clean["label"] == self.clean["prediction"]).to_numpy()

    @property
    def activations(self) -> float:
        """The share of zeros, on the test samples, of the ReLU that feeds the last layer; NaN where there is none."""
        return float(self.metrics.get("activations", {}).get("activation_sparsity_last", np.nan))

    def envelope(self, ids: Sequence[str]) -> Envelope:
        """The per-sample minimum over the named attacks, each counting where it was run."""
        count, chosen = len(self.clean), [self.attacks[identity] for identity in ids]
        return envelope(
            [Distances(attack=one.about.id, norm=one.about.norm, domain=one.about.domain, distance=one.distances(count)) for one in chosen]
        )

    def of(self, ids: Collection[str]) -> list[str]:
        """Those of the named attacks that this level is to have."""
        return [one.id for one in self.planned if one.id in ids]

    def judged(self, ids: Collection[str], eps: float | None) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """[N] of the envelope over those of `ids` that this level is to have: 1.0 where nothing broke the sample within eps, else 0.0;
        without eps the smallest distance. None where one of them has not finished, or where none decides this.

        What decides: a minimum-norm attack, or one of that very budget. NaN on the samples that no such attack saw: that nothing
        looked for a smaller perturbation is neither a broken sample nor a large distance.
        """
        planned = self.of(ids)
        if not all(identity in self.attacks for identity in planned):
            return None
        deciding = [self.attacks[identity] for identity in planned if self.attacks[identity].about.eps in (None, eps)]
        if not deciding:
            return None
        distance = self.envelope(planned).distance
        unseen = np.all([np.isnan(attack.distances(len(distance))) for attack in deciding], axis=0)
        return np.where(unseen, np.nan, distance if eps is None else distance > allowed(eps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The levels of one arm and those of its dense control, by (seed, level).

    `zeros`: of what sparsity is the share. `penalised`: the arm's dense networks along an axis of their own, the penalty on activations:
    level k is the k-th penalised network by rising weight, level 0 and the control at every k the one without a penalty, of the same seed
    and training. `penalties`: the penalty of every level of such an axis.
    """

    arm: Arm
    linear: bool
    seeds: tuple[int, ...]
    pruned: dict[tuple[int, int], Level]
    control: dict[tuple[int, int], Level]
    zeros: Literal["weights", "activations"] = "weights"
    penalties: Mapping[int, str] = field(default_factory=dict)
    penalised: Family | None = None

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the pruned chain that are there for any seed."""
        return tuple(sorted({level for _, level in self.pruned}))

    @property
    def control_levels(self) -> tuple[int, ...]:
        """The attacked rounds of the control."""
        return tuple(sorted({level for (_, level), found in self.control.items() if found.attacks}))

    def sparsity(self, level: int) -> float:
        """Share of weights removed at a level (the same for every seed up to ties); of activations the mean share of zeros."""
        shares = [
            found.metrics["sparsity"] if self.zeros == "weights" else found.activations
            for (_, k), found in self.pruned.items()
            if k == level
        ]
        return float(np.mean(shares))

    def searched(self, level: int, place: tuple[str, str, float | None]) -> list[Bracketed]:
        """What complete search found on a level at a norm, domain and budget, a seed each."""
        return [found.exact[place] for (_, k), found in sorted(self.pruned.items()) if k == level and place in found.exact]

    def attack_ids(self) -> tuple[str, ...]:
        """Every attack that finished on some pruned level, in the order of the specification."""
        return tuple(dict.fromkeys(identity for found in self.pruned.values() for identity in found.attacks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """The attacks of one norm and one domain on one model, which may share an envelope."""

    norm: str
    domain: str
    attacks: tuple[About, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The attacks' ids, in the order of the specification."""
        return tuple(one.id for one in self.attacks)

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """The budgets, rising; None, last, where there is a minimum-norm attack."""
        found = {one.eps for one in self.attacks}
        return (*sorted(eps for eps in found if eps is not None), *((None,) if None in found else ()))

    def narrowed(self, levels: Iterable[Level]) -> Threat:
        """Those of the attacks that every one of the levels is to have."""
        common = set(self.ids).intersection(*(level.of(self.ids) for level in levels))
        return replace(self, attacks=tuple(one for one in self.attacks if one.id in common))


def threats(levels: Iterable[Level]) -> list[Threat]:
    """Every norm and domain in which two attacks or more are planned anywhere on the levels of one model."""
    grouped: dict[tuple[str, str], dict[str, About]] = {}
    for level in levels:
        for one in level.planned:
            grouped.setdefault((one.norm, one.domain), {})[one.id] = one
    return [Threat(norm=norm, domain=domain, attacks=tuple(found.values())) for (norm, domain), found in grouped.items() if len(found) > 1]
