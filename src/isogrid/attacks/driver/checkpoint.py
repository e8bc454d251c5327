"""Finished batches, and stages of a batch, on disk: an interrupted run goes on where it stopped. Nothing of any attack belongs here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from isogrid.attacks.driver.identity import identity, model_digest, tensor_digest
from isogrid.core.errors import InputError
from isogrid.core.files import digest, load_tensors, save_tensors

SCHEMA = 5
"""Raised whenever a stored batch would come out differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStore:
    """A folder of finished batches; `identity` stands for everything that all batches of a run share.

    A batch's file is named by the digest of `identity` and of the batch's own tensors, so a change in any of them (attack, parameters,
    seed, weights, samples, box, batch rule) never meets an old file; files are written whole or not at all.
    Pitfall: a model's code is not part of the digest, beyond its printed structure; a forward that was edited needs a new folder.
    """

    folder: Path
    identity: str

    @classmethod
    def of(cls, folder: Path, model: nn.Module, *shared: object) -> BatchStore:
        """The store in `folder` for `model` and whatever else is `shared` (the attack, say); see `identity` for what tells it apart.

        Raises InputError where that cannot be said: an attack with an anonymous function.
        """
        return cls(folder=Path(folder), identity=digest([SCHEMA, model_digest(model), *map(identity, shared)]))

    def path(self, given: Mapping[str, Tensor | None]) -> Path:
        """Where the batch with the input tensors `given` is or will be."""
        own = tensor_digest({name: value for name, value in given.items() if value is not None})
        return self.folder / f"{digest([self.identity, own])}.safetensors"

    def load(self, given: Mapping[str, Tensor | None], device: torch.device) -> dict[str, Tensor] | None:
        """The stored outcome of that batch on `device`, or None where there is none (a damaged file is none)."""
        stored = _read(self.path(given), device)
        if stored is not None:  # a run that was killed while it cleaned up has left them
            self.stages(given).clear()
        return stored

    def save(self, given: Mapping[str, Tensor | None], outcome: Mapping[str, Tensor]) -> None:
        """Store a batch's outcome; its stages go."""
        save_tensors(self.path(given), outcome)
        self.stages(given).clear()

    def stages(self, given: Mapping[str, Tensor | None]) -> Stages:
        """The finished stages of that batch, while it has no outcome."""
        return Stages(folder=self.path(given).with_suffix(".stages"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """A folder of the finished stages of one unfinished batch, by their numbers."""

    folder: Path

    def load(self, number: int, device: torch.device) -> dict[str, Tensor] | None:
        """What a stage left behind, or None."""
        return _read(self.folder / f"{number}.safetensors", device)

    def save(self, number: int, left: Mapping[str, Tensor]) -> None:
        """Store what a stage left behind."""
        save_tensors(self.folder / f"{number}.safetensors", left)

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        return {name: tensor.to(device) for name, tensor in load_tensors(path, "checkpoint").items()}
    except InputError:
        return None
