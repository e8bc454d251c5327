"""Readers of the user's own data: .npz arrays and image folders. Nothing in a file is ever executed (no pickles)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isogrid.core.errors import InputError, one_of
from isogrid.core.files import exists, user_path
from isogrid.core.numbers import limits, whole
from isogrid.data.arrays import Arrays, Pool

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""Files of an image folder that are read; others are ignored."""

MAX_CLASSES = 100_000
"""Larger labels are taken for a mistake (a column of numbers that are no classes)."""

_GRAY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "RGBX", "PA", "CMYK", "YCbCr", "LAB", "HSV")


LAYOUTS = ("channels-first", "channels-last", "gray")
"""What an array `layout` in an .npz may say: samples as they are; the last side moved to the front; a channel of one added in front."""


def npz(rest: str) -> Pool:
    """Arrays x, y (a fifth is held out) or x_train, y_train, x_test, y_test from an .npz file; `box`, `layout`, `classes` optional.

    x is uint8 (scaled by 1/255, and refused where all of it is below 64, as of another scale), truth values, or floating inside `box` =
    (low, high), by default (0, 1). Samples may have any shape: tables [N, D], series [N, C, T], images [N, C, H, W], volumes [N, C, D, H,
    W]. Two forms are turned into images: [N, H, W] where it is uint8 or square becomes [N, 1, H, W], and [N, H, W, C] whose last side is
    the smallest becomes [N, C, H, W]; `layout` (one of LAYOUTS) says it where that is wrong or does not decide. y holds the integer classes
    0 .. K - 1; `classes` says K where it is more than the largest label + 1, for a network that is given: a training needs samples of every
    class. Raises InputError.
    """
    path = user_path(rest, "data", "an existing .npz file")
    if not exists(path):
        raise InputError("data", rest, "an existing .npz file")
    arrays = _read_npz(path)
    if ("x" in arrays) == ("x_train" in arrays):
        raise InputError("data", f"{path}: {', '.join(arrays) or 'no array'}", "either x and y, or x_train, y_train, x_test and y_test")
    pairs = (("x", "y"),) if "x" in arrays else (("x_train", "y_train"), ("x_test", "y_test"))
    missing = [name for pair in pairs for name in pair if name not in arrays]
    if missing:
        raise InputError("data", f"{path}: {', '.join(arrays)}", f"also {', '.join(missing)}")
    box = limits(arrays["box"], "data box") if "box" in arrays else (0.0, 1.0)
    layout = _layout(arrays["layout"]) if "layout" in arrays else None
    parts = [_pair(arrays, *pair, layout) for pair in pairs]
    if len(parts) == 2 and parts[0].x.shape[1:] != parts[1].x.shape[1:]:
        raise InputError(
            "data x_test", f"samples of shape {parts[1].x.shape[1:]}", f"the shape of x_train's samples, {parts[0].x.shape[1:]}"
        )
    return Pool(
        train=parts[0],
        test=parts[1] if len(parts) == 2 else None,
        box=box,
        classes=_classes(arrays["classes"], parts) if "classes" in arrays else None,
        source=f"arrays of {path.name}",
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file; object arrays, which would need unpickling, are refused."""
    try:
        with path.open("rb") as file:  # numpy leaves a file of its own open where it is damaged
            if file.read(len(_ZIP)) != _ZIP:  # numpy would take it for a pickle
                raise ValueError("it is no .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: _plain(stored, name) for name in stored.files}
    except Exception as error:  # damaged bytes may raise anything: numpy parses a header as Python
        reason = str(error) or type(error).__name__
        raise InputError("data", str(path), f"an .npz file of plain arrays, as numpy.savez writes it ({reason})") from None


_ZIP = b"PK"


def _plain(stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """One array of the file; raises ValueError, naming it, where it would need unpickling."""
    try:
        return stored[name]
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise ValueError(f"its array {name} holds Python objects, pickled, which are never loaded") from None
        raise


def _layout(value: np.ndarray) -> str:
    text = str(value)
    if text not in LAYOUTS:
        raise one_of("data layout", text, LAYOUTS)
    return text


def _classes(value: np.ndarray, parts: list[Arrays]) -> int:
    least = max(2, *(int(part.y.max(initial=-1)) + 1 for part in parts))
    total = whole(value)
    if total is None or not least <= total <= MAX_CLASSES:
        raise InputError("data classes", value, f"one integer, the number of classes, from {least} to {MAX_CLASSES}")
    return total


def _pair(arrays: dict[str, np.ndarray], x_name: str, y_name: str, layout: str | None) -> Arrays:
    x, y = arrays[x_name], arrays[y_name]
    if x.dtype != np.uint8 and x.dtype.kind not in "fb":
        raise InputError(f"data {x_name}", f"dtype {x.dtype}", "uint8 (scaled by 1/255) or a floating-point type")
    if x.ndim < 2 or x.size == 0:
        raise InputError(f"data {x_name}", f"shape {x.shape}", "at least one sample with a value: [N, D], [N, C, H, W] or another [N, ...]")
    labels = _labels(y, y_name, len(x))
    x = _arranged(x, x_name, layout)
    with np.errstate(over="ignore"):  # what is infinite in float32 is refused by name
        return Arrays(x=x if x.dtype == np.uint8 else x.astype(np.float32), y=labels)


def _labels(y: np.ndarray, name: str, n: int) -> np.ndarray:
    """Classes [N] as int64 from integers, truth values or whole floats, [N] or [N, 1]."""
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.dtype.kind == "f" and bool(np.isfinite(y).all()) and bool((y == np.round(y)).all()) and bool((np.abs(y) <= MAX_CLASSES).all()):
        y = y.astype(np.int64)
    if y.dtype.kind not in "iub" or y.shape != (n,):
        cure = ""
        if y.dtype.kind in "USO":
            cure = " (of names: numpy.unique(y, return_inverse=True)[1])"
        elif y.ndim == 2 and len(y) == n:
            cure = " (of one row of scores or zeros and a one per sample: y.argmax(1))"
        raise InputError(f"data {name}", f"{y.dtype} of shape {y.shape}", f"one integer class per sample, shape ({n},){cure}")
    if y.min() < 0 or y.max() >= MAX_CLASSES:
        raise InputError(f"data {name}", f"labels from {y.min()} to {y.max()}", f"classes 0 .. K - 1, K <= {MAX_CLASSES}")
    return y.astype(np.int64)


def _arranged(x: np.ndarray, name: str, layout: str | None) -> np.ndarray:
    """Samples in the order that networks take them, channels first."""
    sides = x.shape[1:]
    if layout is None:
        layout = "channels-first"
        if len(sides) == 2 and (x.dtype == np.uint8 or sides[0] == sides[1]):
            layout = "gray"
        if len(sides) == 3 and sides[1] != sides[2]:
            smallest = [k for k in range(3) if sides[k] == min(sides)]
            if smallest not in ([0], [2]):
                accepted = f"[N, C, H, W] or [N, H, W, C] with C the smallest side, or an array `layout`: {', '.join(LAYOUTS)}"
                raise InputError(f"data {name}", f"shape {x.shape}", accepted)
            layout = "channels-last" if smallest == [2] else layout
    if layout == "gray":
        return x[:, None]
    return np.moveaxis(x, -1, 1) if layout == "channels-last" else x


def folder(rest: str) -> Pool:
    """Images of one size in one sub-folder per class (sorted: classes 0 .. K - 1), or below train/ and test/ (or val/).

    Gray images become [N, 1, H, W]; where any image has colours, all become [N, 3, H, W] (transparency is dropped). Raises
    InputError that names the first file that cannot be used.
    """
    root = user_path(rest, "data")
    if not exists(root, folder=True):
        raise InputError("data", rest, "an existing folder with one sub-folder of images per class")
    held = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held is not None:
        names = _class_names(root / "train")
        strange = [name for name in _class_names(held) if name not in names]
        if strange:
            raise InputError("data", f"{held}: class {strange[0]}", f"the classes of {root / 'train'}: {', '.join(names)}")
        listed = [_listed(root / "train", names), _listed(held, names)]
    else:
        names = _class_names(root)
        listed = [_listed(root, names)]
    images = [[_image(path) for path, _ in part] for part in listed]
    shape = images[0][0].shape[:2]
    colour = any(image.ndim == 3 for part in images for image in part)
    parts = []
    for part, files in zip(images, listed, strict=True):
        for image, (path, _) in zip(part, files, strict=True):
            if image.shape[:2] != shape:
                size = "x".join(map(str, image.shape[:2]))
                raise InputError("data", f"{path}: {size} pixels", f"{shape[0]}x{shape[1]}, as the first image has: one size for all")
        planes = [_planes(image, colour) for image in part]
        parts.append(Arrays(x=np.stack(planes), y=np.array([label for _, label in files], dtype=np.int64)))
    source = f"images in {root.name}, classes {', '.join(names)}"
    return Pool(train=parts[0], test=parts[1] if len(parts) == 2 else None, classes=len(names), source=source)


def _class_names(root: Path) -> list[str]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise InputError("data", str(root), f"a folder with at least two class sub-folders; it has {len(names)}")
    return names


def _listed(root: Path, names: list[str]) -> list[tuple[Path, int]]:
    listed = [
        (path, label)
        for label, name in enumerate(names)
        for path in (sorted((root / name).rglob("*")) if (root / name).is_dir() else ())
        if path.is_file() and path.suffix.lower() in SUFFIXES
    ]
    if not listed:
        raise InputError("data", str(root), f"image files ({', '.join(SUFFIXES)}) in the class sub-folders")
    return listed


def _image(path: Path) -> np.ndarray:
    """uint8 [H, W] for a gray image, [H, W, 3] for one in colours."""
    from PIL import Image  # only this reader needs it

    try:
        with Image.open(path) as image:
            if image.mode in _GRAY:
                return np.asarray(image.convert("L"))
            if image.mode in _COLOUR:
                return np.asarray(image.convert("RGB"))
            mode = image.mode
    except Exception as error:  # damaged bytes may raise anything in a decoder
        raise InputError("data", str(path), f"a readable image ({str(error) or type(error).__name__})") from None
    raise InputError("data", f"{path}: mode {mode}", "an image of 8 bits per channel, gray or in colours")


def _planes(image: np.ndarray, colour: bool) -> np.ndarray:
    if not colour:
        return image[None]
    return np.moveaxis(image, 2, 0) if image.ndim == 3 else np.stack([image] * 3)
