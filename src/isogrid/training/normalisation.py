"""Batch-norm statistics of the network that a training ends with. Not here: what normalises, or the passes themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BATCHES = 32
"""Over how many batches, at most, statistics are averaged."""


def recalibrate(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Replace the running mean and variance of every batch-norm layer in train mode by their plain average over `passes` of the model.

    Running averages follow the weights with a delay: a network that is pruned and trained for a few steps, or for none, would be judged
    with the statistics of the one before. Layers without running statistics, and those that the model keeps in eval mode, stay as they
    are. Source: torch.optim.swa_utils.update_bn does the same for averaged weights.
    """
    layers = list(_tracking(model))
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: a cumulative average
    try:
        for one in passes:
            one()
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _tracking(model: nn.Module) -> Iterator[_BatchNorm]:
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.training:
            yield module
