"""The store: one folder per finished cell, named by kind and key. A cell is whole or not there, and is never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.files import digest, load_tensors, read_json, replacing_folder, save_tensors, write_json

SCHEMA = 5
"""Part of every key: raised whenever the meaning of a cell changes, so that old cells are never taken for new ones."""


def key(kind: str, configuration: dict[str, Any]) -> str:
    """`<kind>-<digest>` of ALL that decides a cell's content, the schema number included."""
    return f"{kind}-{digest({'schema': SCHEMA, 'kind': kind} | configuration)}"


class Store:
    """The cells of one study folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells = root / "cells"

    def open(self) -> None:
        """Create the folder; raises InputError where it cannot be written."""
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe = self.cells / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError("out", str(self.root), f"a folder that can be written ({error.strerror})") from None

    def finished(self, cell: str) -> bool:
        """Whether the cell is there (folders appear by renaming, so what is there is whole)."""
        return (self.cells / cell).is_dir()

    @contextmanager
    def write(self, cell: str) -> Iterator[Cell]:
        """A new cell, to be filled inside the block; it appears when the block ends well."""
        with replacing_folder(self.cells / cell) as folder:
            yield Cell(folder)

    def read(self, cell: str) -> Cell:
        """A finished cell."""
        return Cell(self.cells / cell)


class Cell:
    """The files of one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def metrics(self) -> dict[str, Any]:
        """Scalars, so that tables need not open the records."""
        value: dict[str, Any] = read_json(self.folder / "metrics.json")
        return value

    @property
    def seconds(self) -> float:
        """CPU time that it took; kept apart from the results, which are the same bytes every time."""
        return float(read_json(self.folder / "timing.json")["cpu_seconds"])

    @property
    def records(self) -> pd.DataFrame:
        """One row per sample."""
        return pd.read_parquet(self.folder / "records.parquet")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file of the cell."""
        return load_tensors(self.folder / f"{name}.safetensors")

    def has(self, name: str) -> bool:
        """Whether the cell holds that safetensors file."""
        return (self.folder / f"{name}.safetensors").is_file()

    def put(
        self,
        *,
        metrics: dict[str, Any],
        cpu_seconds: float,
        records: pd.DataFrame | None = None,
        tensors: dict[str, dict[str, Tensor]] | None = None,
    ) -> None:
        """Fill the cell."""
        write_json(self.folder / "metrics.json", metrics)
        write_json(self.folder / "timing.json", {"cpu_seconds": cpu_seconds})
        if records is not None:
            records.to_parquet(self.folder / "records.parquet", index=False, compression="zstd")
        for name, values in (tensors or {}).items():
            if values:
                save_tensors(self.folder / f"{name}.safetensors", values)
