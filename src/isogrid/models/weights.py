"""A trained network's weights from a file into a module. Nothing in a file is ever executed: no general pickles."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
"""Suffixes that are read as a state_dict through torch.load(weights_only=True); all others must be safetensors."""


def load_weights(model: nn.Module, path: str | Path, field: str = "weights") -> None:
    """Copy the tensors of a .safetensors file (or of a state_dict in a .pt / .pth file) into `model`, on whatever device it is.

    Names and shapes must be those of `model.state_dict()`; a tensor that two names share may be stored under one of them. Raises
    InputError, naming `field`, with the missing, unexpected or misshapen names, for values that are not finite, and for a file that
    holds anything but tensors. The model is changed only where everything fits.
    """
    path = Path(path).expanduser()
    given = _read(path, field)
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    stored = {_place(wanted[name]) for name in given if name in wanted}
    missing = [name for name, value in wanted.items() if name not in given and (value.numel() == 0 or _place(value) not in stored)]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        parts = [f"{kind} {_some(names)}" for kind, names in (("without", missing), ("with the unknown", unexpected)) if names]
        raise InputError(field, f"{path}: {' and '.join(parts)}", f"the model's tensors: {_some(list(wanted))}")
    for name, value in given.items():
        own = wanted[name]
        if value.shape != own.shape:
            raise InputError(field, f"{path}: {name} of shape {tuple(value.shape)}", f"{name} of shape {tuple(own.shape)}")
        if value.is_floating_point() != own.is_floating_point() or value.is_complex() != own.is_complex():
            raise InputError(field, f"{path}: {name} of {value.dtype}", f"{name} of {own.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(field, f"{path}: {name} with NaN or infinite values", "finite values")
    with torch.no_grad():
        for name, value in given.items():
            wanted[name].copy_(value)


def _place(value: Tensor) -> tuple[int, int]:
    return value.data_ptr(), value.numel()


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read(path: Path, field: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(field, str(path), "the path of an existing .safetensors file (or a state_dict as .pt / .pth)")
    if path.suffix not in PICKLED:
        return load_tensors(path, field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own legacy formats
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any other kind may raise anything
        reason = str(error).strip().split("\n")[0][:80]
        raise InputError(
            field, str(path), f"a state_dict of plain tensors, best as .safetensors; nothing else is unpickled ({reason})"
        ) from None
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in stored.items()):
        raise InputError(field, str(path), "a state_dict: a mapping of names to tensors")
    return dict(stored)
