"""Arms side by side: the penalties of one network and training, in their order, and the families of levels that they make.

Not here: what is judged along them (`verdicts`), the levels of a single arm (`levels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isogrid.study.plan import Plan
from isogrid.study.spec import TrainingSpec
from isogrid.training import PENALTIES
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.records import Family, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalised:
    """An arm whose training differs from another's by its penalty alone; `kind`: the penalty's name."""

    arm: Arm
    kind: str
    weight: float

    @property
    def on_activations(self) -> bool:
        """Whether the penalty makes activations sparse, as far as is known: one of the user's own may not be there any more."""
        return self.kind in PENALTIES and PENALTIES[self.kind].on_activations


def penalised_arms(study: Plan, arm: Arm) -> list[Penalised]:
    """The arms beside one without a penalty that have one and are trained and pruned alike in everything else, by kind (in the order of the
    specification) and rising weight. None beside an arm that has a penalty, or whose dense network was given.
    """
    spec = study.spec
    plain = next((one for one in spec.trainings if (one.title, one.regularised) == (arm.objective, "")), None)
    network = study.network(arm).spec
    if plain is None or arm.penalty or arm.control or network.weights is not None or network.checkpoints:
        return []
    found = [
        Penalised(arm=replace(arm, objective=one.title, penalty=one.regularised), kind=kind, weight=weight)
        for one in spec.trainings
        if one.penalty is not None and _without_penalty(one) == _without_penalty(plain)
        for kind, weight in [_kind(one.penalty)]
    ]
    kinds = list(dict.fromkeys(one.kind for one in found))
    return sorted(found, key=lambda one: (kinds.index(one.kind), one.weight))


def penalised_family(study: Plan, arm: Arm, levels: Sequence[Level], seeds: tuple[int, ...]) -> Family | None:
    """The dense networks beside one without a penalty, by the rising weight of their penalty on activations.

    All of one kind: that of the first in the specification. None where there are none, or where the one without was not trained.
    """
    arms = [one for one in penalised_arms(study, arm) if one.on_activations]
    arms = [one for one in arms if one.kind == arms[0].kind]
    order = [arm, *(one.arm for one in arms)]
    dense = {(one.seed, order.index(one.arm)): one for one in levels if one.level == 0 and one.arm in order}
    if {number for _, number in dense} <= {0} or not any(number == 0 for _, number in dense):
        return None
    beside = {(seed, number): dense[seed, 0] for seed in seeds for number in range(1, len(order)) if (seed, 0) in dense}
    return Family(
        arm=arm,
        linear=False,
        seeds=seeds,
        pruned=dense,
        control=beside,
        zeros="activations",
        penalties={number: one.penalty for number, one in enumerate(order)},
    )


def _without_penalty(training: TrainingSpec) -> TrainingSpec:
    return replace(training, penalty=None, label="")


def _kind(penalty: Any) -> tuple[str, float]:
    """A penalty's name and weight."""
    return (penalty, 0.0) if isinstance(penalty, str) else (penalty["name"], float(penalty.get("weight", 0.0)))
