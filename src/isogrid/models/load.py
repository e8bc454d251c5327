"""Models by the name that a user writes: built-in, `file.py:factory`, or an exported program. Not here: the networks themselves."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isogrid.core import targets
from isogrid.core.errors import InputError, one_of
from isogrid.core.modules import initialise_lazy
from isogrid.core.numbers import sizes, whole
from isogrid.core.process import settings_kept
from isogrid.core.random import isolated, seed_global
from isogrid.core.targets import load_target
from isogrid.models import zoo
from isogrid.models.onnx_file import ONNX, open_onnx
from isogrid.models.program import SUFFIXES, open_program
from isogrid.models.weights import load_weights

FILES = SUFFIXES + ONNX
"""Suffixes of a model's name that mean a file which holds a whole network, not a factory."""


def build(name: str, shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
    """The network `name` for samples of `shape` and so many classes, initialised from `seed` alone, on the CPU.

    `name` is built-in, or the user's factory `file.py:factory` / `package.module:factory`, called with no arguments, or with `shape` and
    `classes` where it has parameters of these names. The global random state, working folder and torch's settings are as before
    afterwards, whatever a factory does with them. Raises InputError for an unknown name, and where a factory raises or returns no module.

    >>> sum(p.numel() for n, p in build("lenet-300-100", (1, 28, 28), 10).named_parameters() if n.endswith("weight"))
    266200
    """
    shape, count = sizes(shape), whole(classes)
    if count is None or count < 2:
        raise InputError("classes", classes, "at least 2 classes")
    start = whole(seed)
    if start is None:
        raise InputError("seed", seed, "an integer")
    if not isinstance(name, str):
        raise InputError("model", name, "the name of a built-in model or a factory, file.py:factory")
    if zoo.is_built_in(name):
        try:
            return zoo.build(name, shape, count, start)
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # sizes that no memory holds
            raise InputError("model", f"{name} for {shape} and {count} classes", f"sizes that fit the memory ({error})") from None
    if Path(name).suffix in FILES:
        raise InputError("model", name, "a built-in model or a factory: an exported program has no layers to train or prune")
    if ":" not in name:
        raise one_of("model", name, [*zoo.MODELS, "file.py:factory", "package.module:factory"])
    return _from_factory(name, shape, count, start)


def open_model(
    name: str,
    x: Tensor,
    classes: int,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    on_note: Callable[[str], None] = lambda note: None,
) -> nn.Module:
    """A TRAINED model, in eval mode: a factory or built-in network with `weights`, a torch.export program, TorchScript or an ONNX file.

    `x` [N, *S]: some samples that it will see. A factory may bring its own weights; a built-in network needs `weights`; what was done so
    that they fit is told to `on_note`. An ONNX file is compared with onnxruntime on `x`. Raises InputError where the file cannot be used
    and ModelError where a program gives no input gradients.
    """
    if not isinstance(x, Tensor) or x.dim() < 2 or len(x) == 0:
        raise InputError("x", x if not isinstance(x, Tensor) else f"shape {tuple(x.shape)}", "some samples, a tensor [N, ...]")
    if isinstance(name, str) and Path(name).suffix in FILES:
        if weights is not None:
            raise InputError("weights", str(weights), f"no weights beside {name}: the file holds its own")
        return open_onnx(name, x) if Path(name).suffix in ONNX else open_program(Path(name), x)
    model = build(name, tuple(x.shape[1:]), classes, seed)
    if weights is not None:
        for note in load_weights(model, weights):
            on_note(f"weights: {weights}: {note}")
    elif zoo.is_built_in(name):
        raise InputError("weights", "none", f"the trained weights of {name} as .safetensors; without them it is untrained")
    return model.eval()


def source_digest(name: str) -> str:
    """16 hexadecimal digits of the code behind a model name: its file and all of the user's own files that it imports.

    "" for built-in ones, whose definition goes with the schema number.
    """
    if not isinstance(name, str) or zoo.is_built_in(name):
        return ""
    if Path(name).suffix in FILES:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16] if Path(name).is_file() else ""
    return targets.source_digest(name)


def _from_factory(name: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    with settings_kept(), isolated(seed, "factory"):
        factory = load_target("model", name)
        if isinstance(factory, nn.Module) or not callable(factory):
            raise InputError("model", f"{name}, {_kind(factory)}", "a function or class that returns a torch.nn.Module")
        arguments = _arguments(name, factory, {"shape": shape, "classes": classes})
        seed_global(seed, "factory")  # again: the import may have drawn, and only once per process
        try:
            with targets.at_home(name):
                model = factory(**arguments)
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            raise InputError("model", name, f"a factory that does not raise; it raised {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise InputError("model", f"{name}, which returned {_kind(model)}", "a factory that returns a torch.nn.Module")
        _fill(name, model, shape)
    try:
        return copy.deepcopy(model).cpu()  # a factory may hand out one and the same object: levels must not share it
    except Exception as error:
        raise InputError("model", name, f"a module that copy.deepcopy can copy ({_uncopied(model) or error})") from error


def _fill(name: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    """Give lazy layers their sizes and weights, by one forward pass; raises InputError where a tensor stays without memory."""
    try:
        initialise_lazy(model, torch.zeros(2, *shape))
    except Exception as error:
        raise InputError("model", name, f"lazy layers that take samples of shape {shape} ({type(error).__name__}: {error})") from error
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                "model", f"{name}, whose {key} has no values", "a network with its weights, which one forward pass gives lazy layers"
            )


_CURES = {
    "_mask": "torch.nn.utils.prune.remove(layer, '{}') makes it a weight again, with its zeros",
    "_g": "torch.nn.utils.parametrizations.weight_norm can be copied",
    "_u": "torch.nn.utils.parametrizations.spectral_norm can be copied",
}
"""What can be copied in the place of what is computed from others, by the end of the name that one of these has."""


def _uncopied(model: nn.Module) -> str:
    """Which layer holds a tensor that was computed from others, as torch.nn.utils.prune and its older weight_norm leave it behind."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                cure = next((cure for end, cure in _CURES.items() if hasattr(module, key + end)), "compute it in forward")
                return f"{f'{name}.{key}'.lstrip('.')} is computed from others; {cure.format(key)}"
    return ""


def _kind(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"


def _arguments(name: str, factory: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that the factory has parameters for."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = {key: value for key, value in offered.items() if key in parameters and parameters[key].kind in named}
    for key, parameter in parameters.items():
        if key not in given and parameter.kind not in optional and parameter.default is inspect.Parameter.empty:
            raise InputError(
                "model", f"{name}, whose parameter {key} has no default", "a factory callable with no arguments, or with shape and classes"
            )
    return given
