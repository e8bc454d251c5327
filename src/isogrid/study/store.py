"""The store: one folder per finished cell, named by its key. What is there is whole, and is never changed. Not here: what a cell is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, read_json, replacing_folder, save_tensors, write_json


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
    def write(self, cell: str) -> Iterator[Entry]:
        """A new cell, to be filled inside the block; it appears when the block ends well."""
        with replacing_folder(self.cells / cell) as folder:
            yield Entry(folder)

    def read(self, cell: str) -> Entry:
        """A finished cell."""
        return Entry(self.cells / cell)


class Entry:
    """The files of one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def metrics(self) -> dict[str, Any]:
        """Scalars, so that tables need not open the records."""
        value: dict[str, Any] = self._read("metrics.json", read_json)
        return value

    @property
    def seconds(self) -> float:
        """CPU time that it took; kept apart from the results, which are the same bytes every time."""
        return float(self._read("timing.json", lambda path: read_json(path)["cpu_seconds"]))

    @cached_property  # several tables ask for them
    def records(self) -> pd.DataFrame:
        """One row per sample."""
        found: pd.DataFrame = self._read("records.parquet", pd.read_parquet)
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file of the cell."""
        found: dict[str, Tensor] = self._read(f"{name}.safetensors", load_tensors)
        return found

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(self.folder / name)
        except (OSError, ValueError, KeyError, TypeError):  # cells are written whole: something else has damaged this one
            accepted = "a whole file; delete its folder and run the study again, which computes this cell alone anew"
            raise InputError("cell", str(self.folder / name), accepted) from None

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
