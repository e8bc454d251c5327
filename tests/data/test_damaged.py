"""Damaged files of every format: thousands of mutations, and nothing but InputError comes out of a reader."""

from __future__ import annotations

import gzip
import io
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isogrid.core.errors import InputError
from isogrid.data import load

X, Y = np.random.default_rng(0).integers(0, 256, (20, 4, 5), dtype=np.uint8), np.arange(20) % 2


def mutated(whole: bytes, numbers: random.Random, spots: list[int]) -> bytes:
    """Some bytes changed, removed, doubled or cut off, half of the time near a place that a parser reads."""
    raw = bytearray(whole)
    for _ in range(numbers.randint(1, 4)):
        near = numbers.choice(spots) if numbers.random() < 0.5 else 0
        place = min(near + numbers.randrange(80), len(raw) - 1) if near else numbers.randrange(len(raw))
        kind = numbers.randrange(5)
        if kind == 0:
            raw[place] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            raw[place : place + 4] = numbers.randbytes(4)
        elif kind == 2:
            del raw[place : place + numbers.choice((1, 2, 50))]
        elif kind == 3:
            raw[place:place] = raw[place : place + numbers.choice((1, 8))]
        else:
            raw[place : place + 1] = numbers.choice((b"{", b"(", b"\n", b"'", b"\0", b"\xff", b"9", b"[" * 400))
        raw = raw or bytearray(1)
    return bytes(raw[: numbers.randrange(1, len(raw) + 1)] if numbers.random() < 0.1 else raw)


def npz(folder: Path, change: Callable[[bytes], bytes], deep: bool) -> str:
    """The arrays' own bytes changed inside a sound archive, or the archive itself."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, array in {"x": X, "y": Y, "box": np.array([0.0, 1.0]), "layout": np.array("gray")}.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", change(member.getvalue()) if deep else member.getvalue())
    (folder / "d.npz").write_bytes(made.getvalue() if deep else change(made.getvalue()))
    return str(folder / "d.npz")


def idx(folder: Path, change: Callable[[bytes], bytes], deep: bool) -> str:
    for part in ("train", "t10k"):
        for kind, dims, values in (("images", 3, X), ("labels", 1, Y.astype(np.uint8))):
            raw = bytes([0, 0, 8, dims]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()
            packed = gzip.compress(change(raw)) if deep else change(gzip.compress(raw))
            (folder / f"{part}-{kind}-idx{dims}-ubyte.gz").write_bytes(packed)
    return f"mnist:{folder}"


def cifar(folder: Path, change: Callable[[bytes], bytes], deep: bool) -> str:
    table = np.zeros((4, 3073), dtype=np.uint8)
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        table[:, 0] = np.arange(4) % 10
        (folder / name).write_bytes(change(table.tobytes()) if deep else table.tobytes()[: len(change(bytes(4 * 3073)))])
    return f"cifar10:{folder}"


def images(folder: Path, change: Callable[[bytes], bytes], deep: bool) -> str:
    for number, label in enumerate("ab"):
        (folder / label).mkdir(exist_ok=True)
        for k in range(5):
            made = io.BytesIO()
            form = "PNG" if deep else ("GIF", "JPEG", "TIFF", "WEBP", "BMP")[k]
            Image.new("L", (6, 5), 100 * number + k).save(made, form)
            (folder / label / f"{k}.{form.lower()}").write_bytes(change(made.getvalue()) if k == number else made.getvalue())
    return str(folder)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("write", "times"), [(npz, 700), (idx, 300), (cifar, 100), (images, 150)])
def test_damaged_files_are_data_or_one_line(tmp_path, write, times, deep):
    numbers = random.Random(f"{write.__name__} {deep}")
    assert load(write(tmp_path, lambda raw: raw, deep), hold_out=False).test.n >= 4
    lines = []
    for _ in range(times):
        text = write(tmp_path, lambda raw: mutated(raw, numbers, [1, 10, 128]) if numbers.random() < 0.7 else raw, deep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the libraries say of damaged files
            try:
                load(text, hold_out=False)
            except InputError as error:
                lines.append(str(error))
    assert len(lines) > times / 5
    assert all(line.startswith("data") and "\n" not in line for line in lines)
