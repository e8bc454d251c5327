"""Modules as they are: left unchanged, given their first weights, refused without. Not here: anything that knows what one is for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isogrid.core.errors import InputError, ModelError


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


def check_module(model: object) -> None:
    """Raise InputError unless `model` is a module, and ModelError where a tensor of it has no values or can take no part in a gradient."""
    if not isinstance(model, nn.Module):
        raise InputError("model", f"a {type(model).__name__}", "a torch.nn.Module (a function goes into the forward of one)")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(f"model: {name} has no values; accepted: a model whose lazy layers have seen one batch")
        if tensor.is_inference():
            raise ModelError(
                f"model: {name} was made in torch.inference_mode, without which nothing can be differentiated; accepted: a copy"
            )


def check_input(x: object) -> None:
    """Raise InputError unless `x` is a tensor of one sample or more [N, *S]: what a model is shown where no classes are needed."""
    if not isinstance(x, Tensor) or x.dim() < 1 or not x.numel():
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else "None" if x is None else f"a {type(x).__name__}"
        raise InputError("x", got, "a tensor of at least one sample, shape [N, ...] (torch.as_tensor makes one of an array)")


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
