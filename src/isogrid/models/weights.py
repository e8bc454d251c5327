"""A trained network's weights from a file into a module: which of the file's tensors is which of the model's.

What does not belong here: how files are read (`checkpoints.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.files import user_path
from isogrid.models.checkpoints import Table, read_tables

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")
"""Parts of names that DataParallel, torch.compile and FSDP put in, wherever a network or a part of it was wrapped."""

COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of names of counters: no logit depends on them, so one that only the file or only the model has is no fault."""


def load_weights(model: nn.Module, path: str | Path, field: str = "weights") -> tuple[str, ...]:
    """Copy the tensors of a .safetensors file (or of a state_dict in a .pt / .pth / .pth.tar file) into `model`, on whatever device it is.

    Names and shapes must be those of `model.state_dict()`; a tensor that two names share may be stored under one of them. What is
    unambiguous is put right, and said in what is returned, a sentence each: the table under a key (`state_dict`, `model`, `net` ...) of a
    training's checkpoint, one prefix of all names (`module.`, `_orig_mod.`, `model.`), pairs of `weight_orig` and `weight_mask` (their
    product, as torch.nn.utils.prune computes it), pairs of `weight_g` and `weight_v` (weight norm). Raises InputError, naming `field`, with
    the missing, unexpected or misshapen names and the cure, for values that are not finite, and for a file that holds anything but tensors.
    The model is changed only where everything fits.
    """
    path = user_path(path, field, "the path of a file of weights")
    if not isinstance(model, nn.Module):
        raise InputError("model", model, "a torch.nn.Module")
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tables = read_tables(path, field)
    matches = {key: _match(table, wanted) for key, table in tables.items()}
    fitting = {key: match for key, match in matches.items() if not match.faults}
    if len(fitting) > 1:
        fitting = {
            key: match for key, match in fitting.items() if all(v.shape == wanted[n].shape for n, v in match.table.items())
        } or fitting
    if len(fitting) > 1:
        accepted = f"one network's tensors: keep the one that is meant, torch.save(checkpoint[{next(iter(fitting))!r}], FILE)"
        raise InputError(field, f"{path} with networks under {', '.join(fitting)}", accepted)
    if not fitting:
        nearest = max(matches.values(), key=lambda match: (len(wanted) - len(match.missing), len(match.table)))
        raise _misfit(field, path, nearest, wanted)
    ((key, match),) = fitting.items()
    _check_values(match.table, wanted, path, field)
    with torch.no_grad():
        for name, value in match.table.items():
            wanted[name].copy_(value)
    return ((f"taken from its key {key!r}",) if key else ()) + match.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """A table under the model's names, what was done to it, and what does not fit."""

    table: Table
    notes: tuple[str, ...]
    missing: list[str]
    unexpected: list[str]

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected)


def _match(given: Table, wanted: Table) -> _Match:
    """The table under the names that fit best: its own, else those without wrappers, else those without (or with) a common prefix."""
    folded, folds = _folded(given, wanted)
    best: _Match | None = None
    for rename, note in _renamings(list(folded), list(wanted)):
        table = {rename(name): value for name, value in folded.items()}
        if len(table) < len(folded):
            continue  # two names would become one
        stored = {_place(wanted[name]) for name in table if name in wanted}
        found = _Match(
            table={name: value for name, value in table.items() if name in wanted or not _counter(name)},
            notes=folds + ((note,) if note else ()),
            missing=[n for n, v in wanted.items() if n not in table and not _counter(n) and (v.numel() == 0 or _place(v) not in stored)],
            unexpected=[name for name in table if name not in wanted and not _counter(name)],
        )
        if best is None or found.faults < best.faults:
            best = found
        if not found.faults:
            break
    assert best is not None
    return best


def _counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _place(value: Tensor) -> tuple[int, int]:
    return value.data_ptr(), value.numel()


def _renamings(given: list[str], wanted: list[str]) -> Iterator[tuple[Callable[[str], str], str]]:
    """Ways from a file's names to the model's, the plainest first, each with what is to be said of it."""
    yield (lambda name: name), ""
    back = {_unwrapped(name): name for name in wanted}
    if len(back) < len(wanted):
        return
    core, own = ([_unwrapped(name) for name in names if not _counter(name)] for names in (given, wanted))
    put_in = sorted({part for name in given for part in name.split(".") if part in WRAPPERS})
    wrappers = f"without {', '.join(part + '.' for part in put_in)} in its names" if put_in else ""

    def renamed(change: Callable[[str], str]) -> Callable[[str], str]:
        return lambda name: back.get(change(_unwrapped(name)), change(_unwrapped(name)))

    yield renamed(lambda name: name), wrappers or "with the names of the model's wrapper"
    for prefix in _prefixes(core):
        note = f"without the prefix {prefix} of all its names"
        yield renamed(lambda name, prefix=prefix: name.removeprefix(prefix)), f"{wrappers}, {note}".lstrip(", ")  # type: ignore[misc]
    for prefix in _prefixes(own):
        yield renamed(lambda name, prefix=prefix: prefix + name), f"with the prefix {prefix} of the model's names"  # type: ignore[misc]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(names: list[str]) -> Iterator[str]:
    """The prefixes `a.`, `a.b.` ... that all names share."""
    parts = [name.split(".")[:-1] for name in names]
    for length in range(1, min(map(len, parts), default=0) + 1):
        if len({tuple(part[:length]) for part in parts}) > 1:
            return
        yield ".".join(parts[0][:length]) + "."


def _folded(given: Table, wanted: Table) -> tuple[Table, tuple[str, ...]]:
    """The table with pairs that stand for one weight multiplied out, where the model holds the weight itself."""
    table, notes = dict(given), []
    for first, second, fold, note in (
        ("_orig", "_mask", lambda orig, mask: orig * mask, "with weight_orig times weight_mask as its weights"),
        ("_g", "_v", _weight_norm, "with weight norm folded into its weights"),
    ):
        if any(name.endswith(first) for name in wanted):
            continue
        for name in [n.removesuffix(first) for n in given if n.endswith(first)]:
            if name + second in given and name not in given:
                with contextlib.suppress(RuntimeError):  # tensors that do not belong together: their names will not fit
                    table[name] = fold(given[name + first], given[name + second])
                    del table[name + first], table[name + second]
                    notes += [note] if note not in notes else []
    return table, tuple(notes)


def _weight_norm(g: Tensor, v: Tensor) -> Tensor:
    """g v / ||v||, the norm over all dimensions but the one in which g has a size of its own (torch.nn.utils.weight_norm)."""
    over = [k for k in range(v.dim()) if g.dim() == 0 or g.shape[k] != v.shape[k]]
    return v * (g / torch.linalg.vector_norm(v, dim=over, keepdim=True)) if over else v.sign() * g


def _misfit(field: str, path: Path, match: _Match, wanted: Table) -> InputError:
    parts = [f"{kind} {_some(names)}" for kind, names in (("without", match.missing), ("with the unknown", match.unexpected)) if names]
    cure = ""
    if any("parametrizations." in name or name.endswith(("_u", "_v", "_orig")) for name in match.unexpected):
        cure = " (the file's layers are parametrised: let the factory do the same, or take it off before saving: "
        cure += "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight'))"
    elif not match.missing:
        cure = f" (keep those alone: torch.save({{k: v for k, v in state.items() if k not in {match.unexpected[:3]!r}}}, FILE))"
    elif head := _head(match.unexpected, wanted):
        own = f"{{k.removeprefix({head!r}): v for k, v in state.items() if k.startswith({head!r})}}"
        cure = f" (keep those under {head} alone: torch.save({own}, FILE))"
    return InputError(field, f"{path}: {' and '.join(parts)}", f"the model's tensors: {_some(list(wanted))}{cure}")


def _head(names: list[str], wanted: Table) -> str | None:
    """A prefix under which the model's names stand among others."""
    needed, there = [name for name in wanted if not _counter(name)], set(names)
    heads = {name.removesuffix(needed[0]) for name in names if name.endswith("." + needed[0])} if needed else set()
    return next((head for head in sorted(heads) if all(head + name in there for name in needed)), None)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _check_values(given: Table, wanted: Table, path: Path, field: str) -> None:
    for name, value in given.items():
        own = wanted[name]
        if value.shape != own.shape:
            raise InputError(field, f"{path}: {name} of shape {tuple(value.shape)}", f"{name} of shape {tuple(own.shape)}")
        if value.layout != torch.strided or value.is_quantized:
            raise InputError(field, f"{path}: {name}, sparse or quantised", f"{name} as a plain tensor: .dequantize() or .to_dense()")
        if value.is_floating_point() != own.is_floating_point() or value.is_complex() != own.is_complex():
            raise InputError(field, f"{path}: {name} of {value.dtype}", f"{name} of {own.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(field, f"{path}: {name} with NaN or infinite values", "finite values")
