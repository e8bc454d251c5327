"""Readers of the official files of published data sets: IDX (MNIST and its kin) and CIFAR-10's binary version."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np

from isogrid.core.errors import InputError
from isogrid.core.files import exists, user_path
from isogrid.data.arrays import Arrays, Pool

VARIABLE = "ISOGRID_DATA"
"""The environment variable that names a folder in which data sets are looked for, each in a folder of its own name."""

_CIFAR_ROW = 1 + 3 * 32 * 32


def mnist(rest: str) -> Pool:
    """MNIST (LeCun, Cortes & Burges 1998) from its four IDX files, gzipped or not."""
    return _idx_set("mnist", rest, ("mnist", "MNIST", "MNIST/raw"))


def fashion_mnist(rest: str) -> Pool:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017) from its four IDX files, gzipped or not."""
    return _idx_set("fashion-mnist", rest, ("fashion-mnist", "FashionMNIST", "FashionMNIST/raw"))


def cifar10(rest: str) -> Pool:
    """CIFAR-10 (Krizhevsky 2009), binary version: records of 1 label byte and 3,072 pixel bytes (red, green, blue planes of 32x32)."""
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    folder = _find("cifar10", rest, ("cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"), names[-1])
    parts = [_cifar_batch(folder / name) for name in names]
    train = Arrays(x=np.concatenate([p.x for p in parts[:-1]]), y=np.concatenate([p.y for p in parts[:-1]]))
    return Pool(train=train, test=parts[-1], classes=10, source=f"CIFAR-10 binary files in {folder}")


def _cifar_batch(path: Path) -> Arrays:
    if not path.is_file():
        raise InputError("data", str(path), "an existing file: CIFAR-10's binary version has data_batch_1.bin to 5 and test_batch.bin")
    raw = np.fromfile(path, dtype=np.uint8)
    if not len(raw) or len(raw) % _CIFAR_ROW:
        raise InputError(
            "data", f"{path}: {len(raw)} bytes", f"a positive multiple of {_CIFAR_ROW} bytes (the file is truncated or of another kind)"
        )
    table = raw.reshape(-1, _CIFAR_ROW)
    return Arrays(x=table[:, 1:].reshape(-1, 3, 32, 32), y=table[:, 0].astype(np.int64))


def _idx_set(name: str, rest: str, folders: tuple[str, ...]) -> Pool:
    folder = _find(name, rest, folders, "train-images-idx3-ubyte", "train-images.idx3-ubyte")
    parts = []
    for part in ("train", "t10k"):
        x, y = (read_idx(_idx_file(folder, part, *kind)) for kind in (("images", 3), ("labels", 1)))
        if len(x) != len(y):
            raise InputError("data", f"{folder}: {len(x)} {part} images, {len(y)} labels", "as many labels as images")
        parts.append(Arrays(x=x[:, None], y=y.astype(np.int64)))
    return Pool(train=parts[0], test=parts[1], classes=10, source=f"{name} IDX files in {folder}")


def _idx_names(part: str, kind: str, dims: int) -> tuple[str, ...]:
    return tuple(f"{part}-{kind}{mark}idx{dims}-ubyte{end}" for mark in "-." for end in ("", ".gz"))


def _idx_file(folder: Path, part: str, kind: str, dims: int) -> Path:
    names = _idx_names(part, kind, dims)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError("data", str(folder), f"a folder that holds {names[0]} or {names[1]}")


def _find(name: str, rest: str, folders: tuple[str, ...], *files: str) -> Path:
    """The folder given, or the first usual place that holds one of `files` (gzipped or not)."""
    if rest:
        given = user_path(rest, "data")
        if not exists(given, folder=True):
            raise InputError("data", f"{name}:{rest}", "an existing folder")
        return given
    roots = [Path(root).expanduser() for root in ((os.environ.get(VARIABLE) or ""), "data", "~/data", "/usr/share/datasets") if root]
    for place in (root / folder for root in roots for folder in folders):
        if any((place / f"{file}{end}").is_file() for file in files for end in ("", ".gz")):
            return place
    hint = " (on Debian: apt install dataset-fashion-mnist)" if name == "fashion-mnist" else ""
    places = ", ".join(str(root) for root in roots)
    raise InputError("data", name, f"{name}:FOLDER, or the files in a folder {folders[0]} under {places}, or {VARIABLE} set{hint}")


def _chunks(file: gzip.GzipFile | BufferedReader, most: int) -> Iterator[bytes]:
    """What a file holds, up to `most` bytes: a header that promises too much costs no memory."""
    while most > 0 and (chunk := file.read(min(most, 2**24))):
        most -= len(chunk)
        yield chunk


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: 4 bytes 0, 0, 8, ndim; each side as a big-endian 32-bit integer; the values row by row.

    Raises InputError where the magic number, the sides or the length do not fit; never reads more than the header promises.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= 4:
                raise InputError(
                    "data", f"{path}: magic number {head.hex() or 'missing'}", "an IDX file of bytes: 0000 08 and 1 to 4 dimensions"
                )
            sides = np.frombuffer(file.read(4 * head[3]).ljust(4 * head[3], b"\0"), dtype=">u4").tolist()
            size = math.prod(sides)
            data = b"".join(_chunks(file, size + 1))
    except InputError:
        raise
    except Exception as error:  # damaged bytes may raise anything in a decoder
        raise InputError("data", str(path), f"a readable IDX file ({error or type(error).__name__})") from None
    if len(data) != size or size == 0:
        shown = "more" if len(data) > size else str(len(data))
        raise InputError("data", f"{path}: {shown} values", f"{size} values > 0, as its header says {sides} (is the file truncated?)")
    return np.frombuffer(data, dtype=np.uint8).reshape(sides)
