"""What tells one model, or one attack, from another in a later run: their digests. Not here: where anything is stored."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.files import digest
from isogrid.models.program import Program

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, str, tuple, torch.dtype)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: equal for equal contents, whatever the device or memory layout."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def model_digest(model: nn.Module) -> str:
    """16 hexadecimal digits of a model's printed structure, its parameters and buffers (persistent or not), its modules' plain attributes
    (numbers, texts, tensors), and of the programs in it their files.

    Pitfall: code is no part of it: a forward that was edited, or a hook, changes nothing here.

    >>> a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> model_digest(a) == model_digest(b), b.load_state_dict(a.state_dict()) and model_digest(a) == model_digest(b)
    (False, True)
    """
    tensors, plain = {}, [_ADDRESS.sub("", repr(model))]
    for name, value in _contents(model):
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _PLAIN):
            plain.append(f"{name}={_ADDRESS.sub('', repr(value))}")
    return digest([tensor_digest(tensors), *plain])


def _contents(model: nn.Module) -> Iterator[tuple[str, object]]:
    yield from model.state_dict().items()
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for place, module in model.named_modules():
        public = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        yield from ((f"{place}.{key}", public[key]) for key in sorted(public))
        if isinstance(module, Program):
            yield from ((f"{place}.program.{key}", value) for key, value in module.contents().items())


def identity(thing: Any) -> Any:
    """Plain data that stands for a parameter of an attack: equal in every run for equal things, different for different ones.

    Models stand by their digest, attacks by class and fields (and so for what they are composed of), functions by name and file. Raises
    InputError for what has no name that another run could know it by: a lambda, a function made inside another, a bare object.

    >>> identity((1, "a", None)) == identity((1, "a", None)) != identity((1.0, "a", None))
    True
    """
    if isinstance(thing, nn.Module):
        return model_digest(thing)
    if isinstance(thing, Tensor):
        return tensor_digest({"": thing})
    if isinstance(thing, tuple | list):
        return [identity(part) for part in thing]
    if isinstance(thing, Mapping):
        return [[identity(key), identity(value)] for key, value in thing.items()]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        kind = type(thing)
        return [kind.__module__, kind.__qualname__, [[f.name, identity(getattr(thing, f.name))] for f in dataclasses.fields(thing)]]
    if isinstance(thing, type) or inspect.isroutine(thing):
        return _named(thing)
    shown = repr(thing)
    if _ADDRESS.search(shown):
        raise _anonymous(thing)
    return [type(thing).__qualname__, shown]


def _named(thing: Any) -> list[str]:
    """Module, name and the source file's digest of a function or class at the top of a module."""
    if inspect.isbuiltin(thing):
        return [str(thing.__module__), thing.__qualname__]
    try:
        file = Path(inspect.getsourcefile(thing) or "")
    except TypeError:  # a class or method of an extension
        file = Path()
    if "<" in thing.__qualname__ or inspect.ismethod(thing) or not file.is_file():
        raise _anonymous(thing)
    return [thing.__module__, thing.__qualname__, hashlib.sha256(file.read_bytes()).hexdigest()]


def _anonymous(thing: object) -> InputError:
    shown = f"an attack with {getattr(thing, '__qualname__', None) or f'a {type(thing).__qualname__}'}"
    return InputError(
        "checkpoint", shown, 'attacks that a later run can tell apart: a function at the top of a file, or its target "file.py:name"'
    )
