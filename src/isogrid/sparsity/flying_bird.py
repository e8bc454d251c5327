"""Flying Bird: a sparse network whose connections move during adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from isogrid.core.parameters import choice, number
from isogrid.sparsity import settings
from isogrid.sparsity.evolutionary import AtRandom
from isogrid.sparsity.pruner import Dynamics, Training
from isogrid.sparsity.regrowth import Regrowth
from isogrid.sparsity.rigl import ByGradient

GROWTH = {"random": AtRandom, "gradient": ByGradient}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FlyingBird(Regrowth):
    """Flying Bird (Chen et al. 2022): drop half of each layer's weights by magnitude, grow as many, to the end of the training.

    The share exchanged is 0.5 (1 + cos(pi t)) / 2; `growth`: at random, as the authors' scripts run it, or by the gradient. Meant for an
    adversarial objective, where a sparse network overfits its attack less. Published from scratch (`start: scratch`, as many
    `retrain_epochs` as `epochs`), a revision every 900 steps. Source: the paper (Sparsity Winning Twice), and
    github.com/VITA-Group/Sparsity-Win-Robust-Generalization. Differences: ERK instead of IGQ for the layers' shares; Flying Bird+, which
    lets the sparsity follow the gap between training and validation, is left out: a pruner sees no validation samples.
    Pitfall: half of the weights at the first revisions is much for a network that is trained already; lower `drop` there.
    """

    name: ClassVar[str] = "flying-bird"

    drop: float = number(0.5, 0, 1, high_open=False)
    until: float = settings.until(1.0)
    growth: str = choice("random", GROWTH)

    def begin(self, training: Training) -> Dynamics:
        return GROWTH[self.growth](training, self)
