"""Cells that something else has damaged: one line that names the file, and nothing computed from half a file."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.study.store import Store

READ = {
    "metrics.json": lambda cell: cell.metrics,
    "timing.json": lambda cell: cell.seconds,
    "records.parquet": lambda cell: cell.records,
    "weights.safetensors": lambda cell: cell.tensors("weights"),
}


@pytest.fixture
def cell(tmp_path):
    store = Store(tmp_path)
    store.open()
    with store.write("train-0") as new:
        new.put(metrics={"a": 1}, cpu_seconds=2.0, records=pd.DataFrame({"x": range(50)}), tensors={"weights": {"w": torch.ones(9)}})
    return store.read("train-0")


def test_a_whole_cell_is_read_back(cell):
    assert cell.metrics == {"a": 1}
    assert cell.seconds == 2.0
    assert cell.records["x"].tolist() == list(range(50))
    assert torch.equal(cell.tensors("weights")["w"], torch.ones(9))


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "nonsense"])
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_named_with_what_to_do(cell, name, damage):
    path = cell.folder / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "emptied": b"", "nonsense": b"\x00\xff" * 40}[damage])
    with pytest.raises(InputError, match=rf"^cell: got .*{name}; accepted: a whole file; delete its folder"):
        READ[name](cell)
