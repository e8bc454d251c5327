"""HYDRA: which weights stay is learned, under the loss that the training minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.core.parameters import number
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, survivors
from isogrid.sparsity.layers import layer_weights, named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Pruner, Record, Static, Training


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hydra(Pruner):
    r"""HYDRA (Sehwag et al. 2020): a score s per weight is trained while the weights w stand still, then w with the masks that came out.

    Forward: w o m(s), m = 1 for the highest |s| of each layer (`allocation`), so many that the sparsity is `sparsity`. Backward, straight
    through m: dL/ds = w o dL/d(w o m). s starts at sqrt(6 / fan_in) w / max|w| of its layer. The scores learn with the training's own
    optimizer and loss for the share `learn` of its steps; biases of pruned layers stand still with the weights, batch-norm trains on. Then
    the masks are fixed, the optimizer starts afresh for what was frozen, and the weights are fine-tuned. Under an adversarial objective
    (`pgd-at`, `trades`) these are the paper's robust scores; under the natural one, learned scores. The state's `revisions` says how many
    weights died and came back, and when. Source: the paper, and github.com/inspire-group/hydra (`--scaled-score-init`, |s|).
    Differences: the last weight of a layer or of an output class stays; one schedule of the learning rate runs through both parts.
    Pitfalls: the gradient of a score is w times that of a weight, so scores of small weights hardly move and a low learning rate leaves
    magnitude pruning; and the reference has to be trained under the robust loss, for no mask makes a natural network robust.
    """

    name: ClassVar[str] = "hydra"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"

    sparsity: float = settings.sparsity(0.9)
    learn: float = number(0.5, 0, 1)
    allocation: Config = settings.allocation()

    def begin(self, training: Training) -> Dynamics:
        return _Scores(training, self)


class _Scores(Static):
    def __init__(self, training: Training, pruner: Hydra) -> None:
        training.masks.apply(training.model)
        weights = named_weights(training.model)
        self._training, self._axes = training, training.axes()
        self._allocation, self._left = ALLOCATIONS.make(pruner.allocation), settings.left(training.masks, pruner.sparsity)
        self._learned = [weights[name] for name in training.masks]
        self._frozen = {name: weights[name].detach().clone() for name in training.masks}
        self._scores = {name: first_score(weight) for name, weight in self._frozen.items()}
        self._still = _biases(training, self._learned)
        self._last, self._record = round(pruner.learn * training.steps), Record()
        self.busy = self._last > 0
        super().__init__(training.model, self._chosen())

    def _chosen(self) -> Masks:
        sizes = {name: score.abs() for name, score in self._scores.items()}
        first = self._training.masks
        return self._allocation.keep(sizes, first, survivors(sizes, first, self._axes), self._left)

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        if step >= self._last:
            return
        for weight, frozen, score in zip(self._learned, self._frozen.values(), self._scores.values(), strict=True):
            if weight.grad is not None:
                weight.grad.mul_(frozen)
            weight.copy_(score)  # for the optimizer's step the parameter is its score
        for bias in self._still:
            bias.grad = None

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if step >= self._last:
            super().after_step(step)
            return
        torch._foreach_copy_(list(self._scores.values()), list[Tensor](self._learned))
        masks = self._chosen()
        self._record.note(step, self.masks, masks)
        torch._foreach_copy_(list[Tensor](self._learned), list(self._frozen.values()))
        self.revise(masks)
        if step == self._last - 1:
            self.busy = False
            for parameter in (*self._learned, *self._still):
                self._training.optimizer.state.pop(parameter, None)  # what it remembers is of scores

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()


def first_score(weight: Tensor) -> Tensor:
    """sqrt(6 / fan_in) w / max|w|, fan_in the number of weights of one output; zeros for weights that are all zero.

    >>> first_score(torch.tensor([[3.0, -1.5, 0.0, 0.0, 0.0, 0.0]])).tolist()
    [[1.0, -0.5, 0.0, 0.0, 0.0, 0.0]]
    """
    fan_in = weight[0].numel() if weight.dim() > 1 else weight.numel()
    return weight * (math.sqrt(6 / fan_in) / weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny))


def _biases(training: Training, weights: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """What else the layers of the pruned weights have: it is not trained while the scores are."""
    pruned = {id(weight) for weight in weights}
    layers = {id(found.module): found.module for found in layer_weights(training.model).values() if id(found.parameter) in pruned}
    return [p for layer in layers.values() for p in layer.parameters() if id(p) not in pruned]
