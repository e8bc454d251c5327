"""What `fit` sees to before its first step: usable samples, layers with weights, logits for every class. Not here: the steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from numbers import Integral

import torch
from torch import Tensor, nn

from isogrid.attacks.driver import classifier
from isogrid.attacks.driver.base import check_samples
from isogrid.core.errors import InputError, IsogridError, ModelError
from isogrid.core.modules import unchanged
from isogrid.core.random import isolated
from isogrid.sparsity import Masks, Pruner
from isogrid.training.config import FitConfig
from isogrid.training.objectives import OBJECTIVES

PROBES = 8


def check_arguments(
    model: object, x: object, y: object, config: object, seed: object, pruner: object, masks: object, box: tuple[float, float]
) -> None:
    """Raise InputError for what is of the wrong kind, and unless x [N, *S] and y [N] are samples and classes on the model's device, in the
    box where the objective moves samples within it."""
    for field, value, kind, accepted in (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("x", x, Tensor, "a torch.Tensor"),
        ("y", y, Tensor, "a torch.Tensor"),
        ("config", config, FitConfig, "an isogrid.FitConfig"),
        ("seed", seed, Integral, "an integer"),
        ("pruner", pruner, Pruner | None, "an isogrid.sparsity.Pruner (PRUNERS.make makes one of its name)"),
        ("masks", masks, Masks | None, "isogrid.Masks"),
    ):
        if not isinstance(value, kind):
            raise InputError(field, value if isinstance(value, str) else type(value).__name__, accepted)
    assert isinstance(model, nn.Module)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    assert isinstance(config, FitConfig)
    limit = torch.finfo(x.dtype).max / 4 if x.is_floating_point() else 1.0
    check_samples(x, y, box if OBJECTIVES.make(config.objective).perturbs else (-limit, limit))  # elsewhere training has no box
    device = next((p.device for p in model.parameters()), x.device)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.device != device:
            raise InputError(name, f"a tensor on {tensor.device}", f"one on {device}, where the model is")


def as_logits(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """The model itself where it gives logits [B, C >= 2] of the type of x; else a module that makes them of what it gives: z as (0, z).

    Raises ModelError where a pass on a few samples raises in train or eval mode or gives no logits, InputError where a label has none.
    """
    few, labels = (x[:PROBES], y) if len(x) > 1 else (x, y)
    given: nn.Module = model
    with unchanged(model), isolated(0, "probe"):
        for mode in ("eval", "train"):
            model.train(mode == "train")
            try:
                with torch.no_grad(), layer_named(model, f"a pass in {mode} mode"):
                    model(few)
                given = classifier.as_logits(model, few, labels)
            except ModelError as error:
                raise ModelError(f"{error} (in {mode} mode)") from None
    return given


@contextlib.contextmanager
def layer_named(model: nn.Module, what: str) -> Iterator[None]:
    """Whatever a pass through `model` raises becomes a ModelError of one line that names the innermost layer at work."""
    try:
        yield
    except IsogridError:
        raise
    except Exception as error:  # a user's forward may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"model: {what} failed{_place(error, model)}: {said}") from error


def _place(error: Exception, model: nn.Module) -> str:
    names = {id(module): name for name, module in model.named_modules()}
    place, frame = "", error.__traceback__
    while frame is not None:
        module = frame.tb_frame.f_locals.get("self")
        if names.get(id(module)):
            place = f" in layer {names[id(module)]} ({type(module).__name__})"
        frame = frame.tb_next
    return place
