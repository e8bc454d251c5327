"""Files of weights as people have them: which tables of tensors they hold. Nothing in a file is ever executed: no general pickles.

What does not belong here: which of a file's tables a model takes, and under which names (`weights.py`).
"""

from __future__ import annotations

import argparse
import codecs
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.files import exists, load_tensors

Table = dict[str, Tensor]
"""What a state_dict is: names and tensors."""

STATE_DICT = "a state_dict of plain tensors: torch.save(model.state_dict(), FILE), or best as .safetensors"


def read_tables(path: Path, field: str) -> dict[str, Table]:
    """The tables of a .safetensors file, or of a .pt, .pth, .pth.tar or .ckpt through torch.load(weights_only=True), by their key.

    The key is "" for a file that is one table, else the place in a dictionary of a training's state (`state_dict`, `model`, `net` ...;
    `a.b` where they are nested). What a file is, its first bytes say, not its name. Raises InputError, naming `field`, where it is
    missing, of another kind, or holds no table of tensors or something that only unpickling could read.
    """
    if not exists(path):
        raise InputError(field, str(path), "the path of an existing .safetensors file (or a state_dict as .pt, .pth or .pth.tar)")
    if _is_safetensors(path) or path.suffix == ".safetensors":
        return {"": load_tensors(path, field)}
    tables = dict(_tables(_unpickled(path, field)))
    if not tables:
        raise InputError(field, f"{path}, which holds no names with tensors", STATE_DICT)
    return tables


def _is_safetensors(path: Path) -> bool:
    """Eight bytes for the header's length, then its JSON; no archive or pickle starts so."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
        return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    except OSError:
        return False


def _unpickled(path: Path, field: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
            warnings.simplefilter("ignore")  # torch warns of its own legacy formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any other kind may raise anything
        said = str(error)
        found = re.search(r"Unsupported \w+:?( GLOBAL)? \S+", said)
        reason = found[0] if found else (said.strip().split("\n")[0] or type(error).__name__)[:120]
        raise InputError(field, str(path), f"{STATE_DICT}; nothing else is unpickled ({reason})") from None


_SCALARS: list[type[np.generic]] = [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_]
_scalar: Any = np.float64(0).__reduce__()[0]
_PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (codecs.encode, "_codecs.encode"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in _SCALARS),
    argparse.Namespace,
]
"""What stands beside the weights in checkpoints of training scripts, an accuracy or the script's arguments: values without code."""


def _tables(stored: Any, place: str = "", depth: int = 4) -> Iterator[tuple[str, Table]]:
    """Every mapping of names to tensors in nested dictionaries, with its place; other values beside the tensors are left out."""
    if not isinstance(stored, Mapping) or depth == 0:
        return
    table = {name: value for name, value in stored.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if table:
        yield place, table
    for name, value in stored.items():
        if isinstance(name, str):
            yield from _tables(value, f"{place}.{name}".lstrip("."), depth - 1)


__all__ = ["Table", "read_tables"]
