"""Any classification data set of torchvision that is already on disk; torchvision is imported only here, and only when asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from isogrid.core.errors import InputError, one_of
from isogrid.data.arrays import Arrays, Pool


def torchvision_set(rest: str) -> Pool:
    """`NAME[:FOLDER]`: the training and test part of `torchvision.datasets.NAME` under FOLDER (default `data`); never downloads.

    Raises InputError where torchvision is missing, the name is unknown, the files are not there, or images differ in size.
    """
    name, _, root = rest.partition(":")
    try:
        sets: Any = importlib.import_module("torchvision.datasets")
    except ImportError:
        raise InputError("data", f"torchvision:{rest}", "an installed torchvision: pip install 'isogrid[vision]'") from None
    names = [n for n in getattr(sets, "__all__", ()) if isinstance(getattr(sets, n, None), type)]
    if name not in names:
        raise one_of("data torchvision", name or "no name", names)
    folder = str(Path(root or "data").expanduser())
    parts = [_part(getattr(sets, name), name, folder, train) for train in (True, False)]
    classes = max(int(part.y.max()) for part in parts) + 1
    return Pool(train=parts[0], test=parts[1], classes=classes, source=f"torchvision's {name} in {folder}")


def _part(cls: Any, name: str, root: str, train: bool) -> Arrays:
    """One part; data sets of torchvision say either `train=` or `split=`."""
    failure: Exception | None = None
    for option in ({"train": train}, {"split": "train" if train else "test"}):
        try:
            stored = cls(root, download=False, **option)
        except TypeError as error:
            failure = error
            continue
        except Exception as error:  # somebody else's reader may raise anything
            raise InputError("data", f"torchvision:{name}:{root}", f"a folder that holds its files ({error})") from None
        return _arrays(stored, name)
    raise InputError("data", f"torchvision:{name}", f"a data set with a train and a test part ({failure})")


def _arrays(stored: Any, name: str) -> Arrays:
    images: list[np.ndarray] = []
    labels: list[int] = []
    for image, label in (stored[i] for i in range(len(stored))):
        values = np.asarray(image)
        if values.dtype != np.uint8 or values.ndim not in (2, 3) or (images and values.shape != images[0].shape):
            first = f", all of shape {images[0].shape}" if images else ""
            raise InputError("data", f"torchvision:{name}: {values.dtype} image of shape {values.shape}", f"8-bit images{first}")
        images.append(values)
        labels.append(int(label))
    if not images:
        raise InputError("data", f"torchvision:{name}: 0 samples", "at least one sample")
    x = np.stack(images)
    return Arrays(x=x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1), y=np.asarray(labels, dtype=np.int64))
