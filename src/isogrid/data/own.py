"""Readers of the user's own data: .npz arrays and image folders. Nothing in a file is ever executed (no pickles)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from isogrid.core.errors import InputError
from isogrid.data.arrays import Arrays, Pool

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""Files of an image folder that are read; others are ignored."""

MAX_CLASSES = 100_000
"""Larger labels are taken for a mistake (a column of numbers that are no classes)."""

_GRAY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "RGBX", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def npz(rest: str) -> Pool:
    """Arrays x, y (a fifth is held out) or x_train, y_train, x_test, y_test from an .npz file; `box` = (low, high) optional.

    x is uint8 (scaled by 1/255) or floating inside `box`, by default (0, 1): a table [N, D], images [N, H, W], [N, C, H, W] or
    [N, H, W, C] with C = 1, 3 or 4, which becomes [N, C, H, W]. y holds the integer classes 0 .. K - 1. Raises InputError.
    """
    path = Path(rest).expanduser()
    if not path.is_file():
        raise InputError("data", rest, "an existing .npz file")
    arrays = _read_npz(path)
    if ("x" in arrays) == ("x_train" in arrays):
        raise InputError("data", f"{path}: {', '.join(arrays) or 'no array'}", "either x and y, or x_train, y_train, x_test and y_test")
    pairs = (("x", "y"),) if "x" in arrays else (("x_train", "y_train"), ("x_test", "y_test"))
    missing = [name for pair in pairs for name in pair if name not in arrays]
    if missing:
        raise InputError("data", f"{path}: {', '.join(arrays)}", f"also {', '.join(missing)}")
    box = _box(arrays["box"]) if "box" in arrays else (0.0, 1.0)
    parts = [_pair(arrays, *pair, box) for pair in pairs]
    if len(parts) == 2 and parts[0].x.shape[1:] != parts[1].x.shape[1:]:
        raise InputError(
            "data x_test", f"samples of shape {parts[1].x.shape[1:]}", f"the shape of x_train's samples, {parts[0].x.shape[1:]}"
        )
    return Pool(train=parts[0], test=parts[1] if len(parts) == 2 else None, box=box, source=f"arrays of {path.name}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file; object arrays, which would need unpickling, are refused."""
    try:
        with path.open("rb") as file:  # numpy leaves a file of its own open where it is damaged
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a single .npy array")
            with stored:
                return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = (
            "it holds pickled objects, which are never loaded" if "pickle" in str(error).lower() else str(error) or type(error).__name__
        )
        raise InputError("data", str(path), f"an .npz file of plain arrays, as numpy.savez writes it ({reason})") from None


def _box(values: np.ndarray) -> tuple[float, float]:
    if values.shape != (2,) or values.dtype.kind not in "fiu":
        raise InputError("data box", f"{values.dtype} of shape {values.shape}", "two numbers, low and high")
    return float(values[0]), float(values[1])


def _pair(arrays: dict[str, np.ndarray], x_name: str, y_name: str, box: tuple[float, float]) -> Arrays:
    x, y = arrays[x_name], arrays[y_name]
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise InputError(f"data {x_name}", f"dtype {x.dtype}", "uint8 (scaled by 1/255) or a floating-point type")
    if x.dtype == np.uint8 and box != (0.0, 1.0):
        raise InputError("data box", f"{box} with {x_name} of dtype uint8", "no box: uint8 is scaled to [0, 1]")
    if not 2 <= x.ndim <= 4 or x.size == 0:
        raise InputError(f"data {x_name}", f"shape {x.shape}", "at least one sample: [N, D], [N, H, W], [N, C, H, W] or [N, H, W, C]")
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise InputError(f"data {y_name}", f"{y.dtype} of shape {y.shape}", f"one integer class per sample, shape ({len(x)},)")
    if y.min() < 0 or y.max() >= MAX_CLASSES:
        raise InputError(f"data {y_name}", f"labels from {y.min()} to {y.max()}", f"classes 0 .. K - 1, K <= {MAX_CLASSES}")
    x = _channels_first(x, x_name)
    if x.dtype.kind == "f":
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"data {x_name}", "NaN or infinite values", "finite values")
        if low < box[0] or high > box[1]:
            accepted = f"values in [{box[0]:g}, {box[1]:g}], or uint8, or an array `box` = (low, high) in the file"
            raise InputError(f"data {x_name}", f"values in [{low:.6g}, {high:.6g}]", accepted)
        x = x.astype(np.float32)
    return Arrays(x=x, y=y.astype(np.int64))


def _channels_first(x: np.ndarray, name: str) -> np.ndarray:
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in (1, 3, 4), x.shape[3] in (1, 3, 4)
    if first == last:
        raise InputError(f"data {name}", f"shape {x.shape}", "[N, C, H, W] or [N, H, W, C] with C = 1, 3 or 4 on exactly one side")
    return x if first else np.moveaxis(x, 3, 1)


def folder(rest: str) -> Pool:
    """Images of one size in one sub-folder per class (sorted: classes 0 .. K - 1), or below train/ and test/ (or val/).

    Gray images become [N, 1, H, W]; where any image has colours, all become [N, 3, H, W] (transparency is dropped). Raises
    InputError that names the first file that cannot be used.
    """
    root = Path(rest).expanduser()
    if not root.is_dir():
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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError("data", str(path), f"a readable image ({str(error) or type(error).__name__})") from None
    raise InputError("data", f"{path}: mode {mode}", "an image of 8 bits per channel, gray or in colours")


def _planes(image: np.ndarray, colour: bool) -> np.ndarray:
    if not colour:
        return image[None]
    return np.moveaxis(image, 2, 0) if image.ndim == 3 else np.stack([image] * 3)
