"""Official files, written here in their published formats and read back; damaged ones are refused by name."""

from __future__ import annotations

import gzip
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.data import load
from isogrid.data.files import read_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def write_mnist(folder, numbers, *, zipped=False, dot=False, n=(40, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for part, count in zip(("train", "t10k"), n, strict=True):
        x, y = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        stored[part] = (x, y)
        for kind, dims, values in (("images", 3, x), ("labels", 1, y)):
            name = f"{part}-{kind}{'.' if dot else '-'}idx{dims}-ubyte"
            raw = idx(values)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    return stored


@pytest.mark.parametrize(("zipped", "dot"), [(False, False), (True, False), (False, True)])
def test_idx_files_give_back_their_bytes(tmp_path, numbers, zipped, dot):
    stored = write_mnist(tmp_path, numbers, zipped=zipped, dot=dot)
    split = load(f"mnist:{tmp_path}")
    assert (split.train.n, split.test.n) == (40, 20)
    for samples, (x, y) in ((split.train, stored["train"]), (split.test, stored["t10k"])):
        want = {row.tobytes(): label for row, label in zip(x, y.tolist(), strict=True)}
        got = (samples.x[:, 0] * 255).round().byte().numpy()
        assert [want[row.tobytes()] for row in got] == samples.y.tolist()


def test_idx_files_are_found_through_the_environment(tmp_path, numbers, monkeypatch):
    write_mnist(tmp_path / "mnist", numbers)
    monkeypatch.setenv("ISOGRID_DATA", str(tmp_path))
    assert str(tmp_path) in load("mnist").source


def test_missing_files_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOGRID_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"cifar10:FOLDER.*ISOGRID_DATA"):
        load("cifar10")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: b"\x00\x00\x0d\x03" + raw[4:], "magic number 00000d03"),
        (lambda raw: b"", "magic number missing"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"\0", "more values"),
        (lambda raw: raw[:10], "truncated"),
        (lambda raw: raw[:4] + struct.pack(">III", 2**31, 2**31, 2**31) + raw[16:], "truncated"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, numbers, damage, said):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(damage(idx(numbers.integers(0, 256, (3, 4, 5), dtype=np.uint8))))
    with pytest.raises(InputError, match=said):
        read_idx(path)


@pytest.mark.parametrize("cut", [3, 40, -3])
def test_damaged_gzip_is_refused(tmp_path, numbers, cut):
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(numbers.integers(0, 256, (3, 4, 5), dtype=np.uint8)))[:cut])
    with pytest.raises(InputError):
        read_idx(path)


def test_labels_that_do_not_match_are_refused(tmp_path, numbers):
    write_mnist(tmp_path, numbers)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, dtype=np.uint8)))
    with pytest.raises(InputError, match="20 t10k images, 19 labels"):
        load(f"mnist:{tmp_path}")


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian():
    split = load("fashion-mnist", train=100, test=50)
    assert (split.train.n, split.test.n, split.train.shape) == (100, 50, (1, 28, 28))
    assert split.train.y.bincount().tolist() == [10] * 10


def write_cifar(folder, numbers, rows=20):
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        table = numbers.integers(0, 256, (rows, 3073), dtype=np.uint8)
        table[:, 0] = np.arange(rows) % 10
        (folder / name).write_bytes(table.tobytes())
        stored[name] = table
    return stored


def test_cifar_records_become_red_green_blue_planes(tmp_path, numbers):
    stored = write_cifar(tmp_path, numbers)
    split = load(f"cifar10:{tmp_path}")
    assert (split.train.n, split.test.n, split.train.shape) == (100, 20, (3, 32, 32))
    want = {row[1:].tobytes(): int(row[0]) for row in stored["test_batch.bin"]}
    assert [want[(x * 255).round().byte().numpy().tobytes()] for x in split.test.x] == split.test.y.tolist()
    red = stored["test_batch.bin"][:, 1 : 1 + 1024].reshape(-1, 32, 32)
    assert {plane.tobytes() for plane in red} == {(x[0] * 255).round().byte().numpy().tobytes() for x in split.test.x}


def test_damaged_cifar_files_are_refused(tmp_path, numbers):
    write_cifar(tmp_path, numbers)
    with (tmp_path / "data_batch_3.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"data_batch_3\.bin: 61461 bytes"):
        load(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_3\.bin"):
        load(f"cifar10:{tmp_path}")


def test_cifar_labels_out_of_range_are_refused(tmp_path, numbers):
    stored = write_cifar(tmp_path, numbers)
    table = stored["test_batch.bin"]
    table[4, 0] = 10
    (tmp_path / "test_batch.bin").write_bytes(table.tobytes())
    with pytest.raises(InputError, match="data y: got labels from 0 to 10"):
        load(f"cifar10:{tmp_path}")


class Stored:
    """What a data set of torchvision looks like from outside."""

    def __init__(self, root, train=True, transform=None, download=False):
        if not Path(root).is_dir():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        assert not download
        self.n = 20 if train else 10

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return np.full((4, 5, 3), i, dtype=np.uint8), i % 2


class SplitStored(Stored):
    def __init__(self, root, split="train", download=False):
        super().__init__(root, train=split == "train", download=download)


@pytest.fixture
def torchvision(monkeypatch):
    sets = types.ModuleType("torchvision.datasets")
    sets.__all__ = ["Stored", "SplitStored"]
    sets.Stored, sets.SplitStored = Stored, SplitStored
    package = types.ModuleType("torchvision")
    package.datasets = sets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", sets)


@pytest.mark.parametrize("name", ["Stored", "SplitStored"])
def test_torchvision_sets_are_read_by_train_or_by_split(tmp_path, torchvision, name):
    split = load(f"torchvision:{name}:{tmp_path}")
    assert (split.train.n, split.test.n, split.train.shape, split.train.classes) == (20, 10, (3, 4, 5), 2)
    assert torch.equal((split.test.x[:, 0, 0, 0] * 255).round().long() % 2, split.test.y)


def test_torchvision_errors_are_one_line(tmp_path, torchvision):
    with pytest.raises(InputError, match="did you mean Stored"):
        load("torchvision:Store")
    with pytest.raises(InputError, match="a folder that holds its files"):
        load(f"torchvision:Stored:{tmp_path / 'none'}")


def test_without_torchvision_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(InputError, match=r"isogrid\[vision\]"):
        load("torchvision:MNIST")
