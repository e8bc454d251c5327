"""What an audit looks at, as plain arrays [N], one entry per test sample. What does not belong here: judging it (`audit`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from isogrid.attacks.driver.base import Attack, Role, margin
from isogrid.core.norms import allowed

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

COLUMNS = ("label", "clean", "adversarial", "success", "distance", "margin", "zero_gradient", "broken_gradient", "backwards")
PROBABILITY_SLACK = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRecord:
    """One level on its clean samples.

    label, prediction [N]: classes. margin [N]: z_y - max other. rounding: the unit in the last place of the largest logit that a margin
    is a difference of, over all samples. probabilities: the outputs are a softmax's or sigmoids'.
    dead_outputs: class outputs without a live path. repeat_difference: the largest |z - z'| of two evaluations over the spread of z
    (None: not evaluated twice). reach [N]: margin / ||grad margin||_2 over the diagonal of the box, inf where the gradient is 0 (None:
    not measured). training: names of the modules that were in train mode though they behave differently there (None: not seen).
    """

    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    margin: Floats
    rounding: float
    probabilities: bool = False
    dead_outputs: int = 0
    repeat_difference: float | None = None
    reach: Floats | None = None
    training: tuple[str, ...] | None = None

    @property
    def correct(self) -> Bools:
        """bool [N]: the clean prediction is right."""
        return np.equal(self.label, self.prediction)

    @classmethod
    def of_logits(cls, z: Tensor, y: Tensor, again: Tensor | None = None, *, sigmoids: bool = False, **rest: Any) -> CleanRecord:
        """From logits [N, C], classes [N] and, to see randomness, the logits of a second evaluation of the same samples.

        `sigmoids`: the model was seen to end in a sigmoid or softmax. Values alone show a softmax only: logits, too, may lie in [0, 1].

        >>> import torch
        >>> z, y = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
        >>> record = CleanRecord.of_logits(z, y, z)
        >>> record.probabilities, record.repeat_difference, record.margin.round(3).tolist()
        (True, 0.0, [0.8, 0.6])
        """
        z64 = z.detach().double().cpu()
        spread = float((z64 - z64.mean()).abs().max())
        constant = int((z64 == z64[:1]).all(0).sum()) if len(z64) > 1 else 0
        classes = z64.shape[1]
        gap = margin(z64, y.cpu())
        own = z64.gather(1, y.cpu()[:, None]).squeeze(1)
        # a logit that no margin looks at, as that of a class masked with -1e9, says nothing of how well the others are rounded
        largest = torch.maximum(own.abs(), (own - gap).abs()).nan_to_num(0.0, posinf=0.0)
        return cls(
            label=y.cpu().numpy(),
            prediction=z64.argmax(1).numpy(),
            margin=gap.numpy(),
            rounding=float(largest.max()) * torch.finfo(z.dtype).eps,
            probabilities=sigmoids or _sum_to_one(z64),
            repeat_difference=None if again is None else float((again.detach().double().cpu() - z64).abs().max()) / max(spread, 1e-300),
            # of two classes one live output is enough, as in `live_outputs`: a single logit z stands for (0, z)
            **({"dead_outputs": constant if classes > 2 or constant == classes else 0} | rest),
        )


def _sum_to_one(z: Tensor) -> bool:
    """Whether outputs [N, C] are a softmax's."""
    return bool((z >= 0).all()) and bool(((z.sum(1) - 1).abs() < PROBABILITY_SLACK).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRecord:
    """One attack on one level: arrays [N] over the SAME samples as the level's CleanRecord.

    attack: its id in the study. eps: its budget, None for minimum-norm. role: what it says about masked gradients. reported: it has figures
    of its own; it has none where it saw only other attacks' survivors, or was run by the audit itself. correct, success, robust [N] bool:
    right before, turned, right after. distance [N]: 0 misclassified to begin with, inf failed, NaN not attacked.
    margin [N]: at x_adv. zero_gradient [N] bool: the first loss gradient was exactly zero. broken_gradient [N] bool: a gradient was not
    finite.
    """

    attack: str
    norm: str
    domain: str
    eps: float | None
    role: Role
    correct: Bools
    success: Bools
    robust: Bools
    distance: Floats
    margin: Floats
    zero_gradient: Bools
    broken_gradient: Bools
    reported: bool = True
    leaky: bool = False

    @property
    def gradient_free(self) -> bool:
        """It uses no gradient of this model."""
        return self.role == "gradient-free"

    @property
    def ran(self) -> Bools:
        """bool [N]: correct samples that it was run on."""
        return self.correct & ~np.isnan(self.distance)

    def broken_at(self, eps: float) -> Bools:
        """bool [N]: turned by a perturbation of size eps or smaller; what the driver accepted within a budget is within it."""
        return self.success & ((self.distance <= allowed(eps)) | (self.eps is not None and self.eps <= eps))

    @classmethod
    def of_columns(
        cls, attack: Attack, identity: str, columns: Mapping[str, ArrayLike], n: int, eps: float | None = None, *, reported: bool = True
    ) -> AttackRecord:
        """From the columns of an attack cell's records (or of `outcome_frame`), which hold the first rows of `n` samples.

        `eps` replaces the attack's budget where it was overridden.
        """
        values = {name: np.asarray(columns[name]) for name in COLUMNS}
        count = len(values["label"])

        def padded(array: NDArray[Any], missing: Any) -> NDArray[Any]:
            return np.concatenate([array, np.full(n - count, missing, dtype=array.dtype)])

        return cls(
            attack=identity,
            norm=attack.threat.name,
            domain=attack.domain,
            eps=attack.budget if eps is None else eps,
            role=observed(attack.role, values["backwards"]),
            correct=padded(values["label"] == values["clean"], False),
            success=padded(values["success"].astype(bool), False),
            robust=padded(values["label"] == values["adversarial"], False),
            distance=padded(values["distance"].astype(np.float64), np.nan),
            margin=padded(values["margin"].astype(np.float64), np.nan),
            zero_gradient=padded(values["zero_gradient"].astype(bool), False),
            broken_gradient=padded(values["broken_gradient"].astype(bool), False),
            reported=reported,
            leaky=getattr(attack, "backward", "exact") == "leaky",
        )


def observed(role: Role, backwards: ArrayLike) -> Role:
    """The role, corrected by the gradients that were counted: somebody's function that asked for none is gradient-free."""
    return "gradient-free" if role == "weak" and np.size(backwards) and not np.any(backwards) else role


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One attack at growing eps; `spans`: the last one lets any sample become any other."""

    records: tuple[AttackRecord, ...]
    spans: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRecord:
    """What complete search says of a threat model at a budget, or (eps None) of the smallest distances; over the same samples.

    broken [N] bool: there is a perturbation within eps (without one: the distance is known). distance [N]: of the closest counterexample.
    """

    norm: str
    domain: str
    eps: float | None
    broken: Bools
    distance: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelInputs:
    """All that is known of one level. doubled: (record, the same attack with twice the steps). growth: attacks at growing budgets.
    truths: what complete search found."""

    model: str = ""
    method: str = ""
    level: int | None = None
    clean: CleanRecord
    attacks: tuple[AttackRecord, ...] = ()
    doubled: tuple[tuple[AttackRecord, AttackRecord], ...] = ()
    growth: tuple[Growth, ...] = ()
    truths: tuple[TruthRecord, ...] = ()

    @property
    def white(self) -> tuple[AttackRecord, ...]:
        """The records of attacks that have figures of their own and use gradients."""
        return tuple(record for record in self.attacks if record.reported and not record.gradient_free)


__all__ = ["AttackRecord", "CleanRecord", "Growth", "LevelInputs", "TruthRecord", "observed"]
