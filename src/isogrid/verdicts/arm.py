"""`Arm`: what a network is, by the names that tables show. Levels, tables, claims, audit and report address networks by it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Arm:
    """One line of networks: the same data, model, objective and penalty, sparser from level to level by one pruner.

    The names are those of the tables, "" where there is none. `control`: it is the dense control, trained for as many rounds as the
    pruned network with nothing removed, which every pruner of the same data, model, objective and penalty is compared with.

    >>> arm = Arm(data="mnist-5k", model="linear", objective="natural", pruner="progressive")
    >>> arm.dense_control.pruner, arm.dense_control.control
    ('dense', True)
    """

    data: str
    model: str
    objective: str = ""
    penalty: str = ""
    pruner: str
    control: bool = False

    @property
    def dense_control(self) -> Arm:
        """The control that this arm is compared with."""
        return replace(self, pruner="dense", control=True)

    def columns(self) -> dict[str, Any]:
        """As the columns of tables, where the pruner is the `method`."""
        names = asdict(self)
        return {"data": names["data"], "model": names["model"], "objective": names["objective"], "penalty": names["penalty"]} | {
            "method": names["pruner"],
            "control": names["control"],
        }
