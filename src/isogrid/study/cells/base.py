"""What a cell is: a frozen configuration that is known by the digest of its fields, and knows how to compute what it stands for.

Here: keys, needs, what `run` writes, cells as plain data and back. Not here: any one kind; one file of this folder is one kind.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, NamedTuple, final, get_type_hints

import pandas as pd
from pydantic import TypeAdapter
from torch import Tensor

from isogrid.core.files import digest
from isogrid.study.store import Entry, Store

SCHEMA = 8
"""Part of every key: raised whenever the meaning of a cell changes, so that old cells are never taken for new ones."""
BESIDE: Mapping[str, bool] = {"key": False}
"""Metadata of a field that says where something lies or how it is called, not what it is: no key depends on it."""


class Row(NamedTuple):
    """One figure in the frontier. eps: NaN where there is none; n: the samples that it is over."""

    metric: str
    attack: str
    norm: str
    domain: str
    eps: float
    value: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cell computed: scalars for the tables, one record per sample, tensors by file name."""

    metrics: dict[str, Any]
    records: pd.DataFrame | None = None
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(ABC):
    """One thing that a study computes and stores once.

    Its fields are its whole configuration; fields that are cells, alone or in tuples, are what it needs. `key` is
    `<kind>-<digest>` of all fields but those marked `BESIDE`, cells by their own keys, with the schema number. `threads`, `device`: what it
    is computed with, and part of its configuration, since bits depend on them.
    """

    kind: ClassVar[str]

    threads: int = 1
    device: str = "cpu"
    key: str = field(init=False, repr=False, compare=False, metadata=BESIDE)

    def __post_init__(self) -> None:
        values = {f.name: _identity(getattr(self, f.name)) for f in dataclasses.fields(self) if f.metadata.get("key", True)}
        object.__setattr__(self, "key", f"{self.kind}-{digest({'schema': SCHEMA, 'kind': self.kind} | values)}")

    @property
    @abstractmethod
    def label(self) -> str:
        """What a progress bar calls it."""

    @abstractmethod
    def compute(self, store: Store) -> Result:
        """Compute it; what it needs is in the store."""

    def cost(self, pace: float) -> float:
        """The expected seconds, where one gradient of the model costs `pace` seconds a sample: order and forecasts only."""
        return 0.5

    def rows(self, entry: Entry) -> Iterator[Row]:
        """The figures that it adds to the frontier."""
        return iter(())

    @final
    @property
    def needs(self) -> tuple[Cell, ...]:
        """The cells that must be finished before."""
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]
        return tuple(cell for value in values for cell in (value if isinstance(value, tuple) else (value,)) if isinstance(cell, Cell))

    @final
    def run(self, store: Store) -> None:
        """Compute it and store it, whole or not at all; nothing where it is there."""
        if store.finished(self.key):
            return
        started = time.process_time()
        result = self.compute(store)
        with store.write(self.key) as entry:
            entry.put(metrics=result.metrics, cpu_seconds=time.process_time() - started, records=result.records, tensors=result.tensors)


def _identity(value: Any) -> Any:
    """What a key is made of: cells by their keys, whole numbers as integers (1e2 is 100), fields marked `BESIDE` left out at any depth."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Cell):
        return value.key
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _identity(getattr(value, f.name)) for f in dataclasses.fields(value) if f.metadata.get("key", True)}
    if isinstance(value, Mapping):
        return {str(name): _identity(part) for name, part in value.items()}
    return [_identity(part) for part in value] if isinstance(value, list | tuple) else value


def written(cell: Cell, kind: str) -> dict[str, Any]:
    """A cell as plain data under the name of its kind, the cells that it needs by their keys."""
    return {"kind": kind, "key": cell.key} | {f.name: _plain(getattr(cell, f.name)) for f in dataclasses.fields(cell) if f.init}


def _plain(value: Any) -> Any:
    if isinstance(value, Cell):
        return {"cell": value.key}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def read(value: Mapping[str, Any], kind: type[Cell], others: Mapping[str, Cell]) -> Cell:
    """What `written` gave, as the cell again; `others`: cells by key, its needs among them.

    Raises ValueError, KeyError or TypeError where the data are no such cell, or its key is not the one that its fields give.
    """
    types = _types(kind)
    fields = {name: part for name, part in value.items() if name not in ("kind", "key")}
    cell = kind(**{name: _found(part, types[name], others) for name, part in fields.items()})
    if cell.key != value["key"]:
        raise ValueError(f"the fields of {value['key']} give the key {cell.key}")
    return cell


@cache
def _types(kind: type[Cell]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind)
    return {f.name: TypeAdapter(hints[f.name]) for f in dataclasses.fields(kind) if f.init}


def _found(part: Any, adapter: TypeAdapter[Any], others: Mapping[str, Cell]) -> Any:
    if isinstance(part, Mapping) and set(part) == {"cell"}:
        return others[part["cell"]]
    if isinstance(part, list) and part and isinstance(part[0], Mapping) and set(part[0]) == {"cell"}:
        return tuple(others[one["cell"]] for one in part)
    return adapter.validate_python(part)
