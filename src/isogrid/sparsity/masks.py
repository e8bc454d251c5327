"""Masks live beside the model, never inside it: state_dict keys, deepcopy and export stay those of the plain module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, save_tensors
from isogrid.core.modules import check_module
from isogrid.sparsity.layers import named_weights, prunable


@final
@dataclass(frozen=True, slots=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, True = the weight is alive.

    >>> masks = Masks.dense(nn.Linear(3, 2))
    >>> masks.kept, masks.total, masks.sparsity
    (6, 6, 0.0)
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, Mapping):
            raise InputError("masks", self.tensors, "a mapping of parameters' names to tensors of torch.bool")
        for name, mask in self.tensors.items():
            if not isinstance(mask, Tensor):
                raise InputError(f"mask {name}", mask, "a tensor of torch.bool")
            if mask.dtype != torch.bool:
                raise InputError(f"mask {name}", mask.dtype, "a tensor of torch.bool")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @classmethod
    def dense(cls, model: nn.Module, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Masks:
        """Every prunable weight alive; patterns as in `prunable`."""
        weights = prunable(model, include=include, exclude=exclude)
        return cls({name: torch.ones(w.shape, dtype=torch.bool, device=w.device) for name, w in weights.items()})

    @classmethod
    def of_zeros(cls, model: nn.Module, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Masks:
        """The masks that a pruned model's own zeros describe: alive where the weight is not exactly zero; patterns as in `prunable`."""
        weights = prunable(model, include=include, exclude=exclude)
        return cls({name: (weight.detach() != 0).contiguous() for name, weight in weights.items()})

    @property
    def kept(self) -> int:
        """The number of weights alive."""
        return sum(int(mask.sum()) for mask in self.tensors.values())

    @property
    def total(self) -> int:
        """The number of prunable weights."""
        return sum(mask.numel() for mask in self.tensors.values())

    @property
    def sparsity(self) -> float:
        """1 - kept / total."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over names, shapes and bits."""
        state = hashlib.sha256()
        for name in sorted(self.tensors):
            mask = self.tensors[name].cpu().contiguous()
            state.update(f"{name}{tuple(mask.shape)}".encode())
            state.update(mask.numpy().tobytes())
        return state.hexdigest()[:16]

    def check(self, model: nn.Module) -> None:
        """Raise InputError unless every mask has a parameter of its name and shape."""
        check_module(model)
        parameters = named_weights(model)
        for name, mask in self.tensors.items():
            if name not in parameters:
                raise InputError("masks", name, f"a parameter of the model: {', '.join(parameters)}")
            if parameters[name].shape != mask.shape:
                raise InputError(f"mask {name}", tuple(mask.shape), f"the parameter's shape {tuple(parameters[name].shape)}")

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set every dead weight of `model` to exactly +0."""
        self.check(model)
        parameters = named_weights(model)
        for name, mask in self.tensors.items():
            _clear(parameters[name], mask.to(parameters[name].device))

    def on(self, model: nn.Module) -> Masks:
        """The same masks on the devices of the model's parameters and in their order, which storage does not keep."""
        self.check(model)
        return Masks({name: self.tensors[name].to(p.device) for name, p in named_weights(model).items() if name in self.tensors})

    def save(self, path: Path) -> None:
        """Store as safetensors."""
        save_tensors(path, self.tensors)

    @classmethod
    def load(cls, path: Path) -> Masks:
        """Read what `save` wrote; raises InputError where the file is missing or holds anything but bool tensors."""
        return cls(load_tensors(path, "masks"))


BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _clear(weight: Tensor, mask: Tensor) -> None:
    """weight = +0 wherever the mask is False, NaN and infinity too: its bits and those of -1 or 0, a fifth of masked_fill_'s time."""
    kind = BITS[weight.element_size()]
    weight.view(kind).bitwise_and_(mask.view(torch.uint8).to(kind).neg_())
