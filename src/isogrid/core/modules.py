"""Modules as they are: left unchanged, given their first weights. Not here: anything that knows what a module is for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Every module's mode and the content of every buffer (batch-norm statistics, say) are afterwards what they were before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def initialise_lazy(model: nn.Module, x: Tensor) -> None:
    """Pass two samples of `x` [N, *S] through a model with layers that take their shape from the first sample (nn.LazyLinear and its kind).

    They draw their weights from the global generator. Modes stay.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad():
                model.eval()(x[:2])
        finally:
            for module, training in modes:
                module.training = training
