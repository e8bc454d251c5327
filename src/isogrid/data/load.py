"""From a name or a path to `Split`: options, subsets, classes, scaling. What does not belong here: file formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from isogrid.core.errors import InputError, one_of
from isogrid.core.files import exists, user_path
from isogrid.core.numbers import limits, whole
from isogrid.core.random import generator
from isogrid.data import embedded, files, own, vision
from isogrid.data.arrays import Arrays, Pool
from isogrid.data.samples import Samples, Split, stratified_order

Reader = Callable[[str], Pool]
"""A reader takes what stands after `NAME:` (a folder, usually; '' where nothing does)."""

DATA: dict[str, tuple[Reader, str]] = {
    "mnist-5k": (embedded.mnist_5k, "4,000 / 1,000 MNIST digits, 1x28x28, embedded (the default)"),
    "digits": (embedded.digits, "1,437 / 360 small digits, 1x8x8, embedded"),
    "mnist": (files.mnist, "60,000 / 10,000 digits, 1x28x28, from IDX files: mnist:FOLDER or a usual place"),
    "fashion-mnist": (files.fashion_mnist, "60,000 / 10,000 clothes, 1x28x28, from IDX files: fashion-mnist:FOLDER or Debian's package"),
    "cifar10": (files.cifar10, "50,000 / 10,000 photographs, 3x32x32, from the official binary files: cifar10:FOLDER"),
    "torchvision": (vision.torchvision_set, "torchvision:NAME[:FOLDER], a data set of torchvision that is already on disk"),
    "npz": (own.npz, "npz:FILE or FILE.npz: arrays x, y or x_train, y_train, x_test, y_test"),
    "folder": (own.folder, "folder:DIR or DIR: images in one sub-folder per class, or below train/ and test/"),
}
"""The registry: name -> (reader, one line)."""

OPTIONS = ("train", "test", "classes", "box")
_OPTIONS = re.compile(r":(\s*\w+\s*=[^:=]*(?:,\s*\w+\s*=[^:=]*)*)$")
_BETWEEN = re.compile(r",(?=\s*\w+\s*=)")  # commas that stand in a value are refused with it: `classes=1,7`

DARK = 64
"""Values of 8 bits that are all below are taken for another scale than 0 .. 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for: a registered name, what stands behind it (a path, usually), and the options; `body`: both as written."""

    body: str
    name: str
    rest: str = ""
    train: int | None = None
    test: int | None = None
    classes: tuple[int, ...] | None = None
    box: tuple[float, float] | None = None


def parse(text: str, field: str = "data") -> Request:
    """Read `NAME[:PATH][:train=N,test=N,classes=A+B,box=LOW..HIGH]` or `PATH[:...]`; raises InputError for anything else.

    >>> parse("mnist-5k:train=1000,test=200")
    Request(body='mnist-5k', name='mnist-5k', rest='', train=1000, test=200, classes=None, box=None)
    >>> parse("digits:classes=1+7").classes, parse("my.npz:box=-1..1").box
    ((1, 7), (-1.0, 1.0))
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(field, text, "the name of a data set or the path of an .npz file or image folder")
    found = _OPTIONS.search(text)
    items = [] if found is None else [tuple(part.strip() for part in item.split("=")) for item in _BETWEEN.split(found[1])]
    if found and not all(key in OPTIONS for key, _ in items) and exists(Path(text.partition(":")[2])):
        found, items = None, []  # a path with = in it, not options
    body = text[: found.start()] if found else text
    values: dict[str, str] = {}
    for key, value in items:
        if key not in OPTIONS:
            raise one_of(f"{field} option", key, OPTIONS)
        if key in values:
            raise InputError(f"{field} option", f"{key}={value}", f"{key} once")
        values[key] = value
    name, _, rest = body.partition(":")
    if name not in DATA:
        name, rest = _kind_of(body, field), body
    return Request(
        body=body,
        name=name,
        rest=rest,
        train=_count(f"{field} train", values.get("train")),
        test=_count(f"{field} test", values.get("test")),
        classes=_labels(f"{field} classes", values["classes"]) if "classes" in values else None,
        box=_box(f"{field} box", values["box"]) if "box" in values else None,
    )


def _kind_of(text: str, field: str) -> str:
    """The reader that a bare path belongs to."""
    path = user_path(text, field)
    if exists(path, folder=True):
        return "folder"
    if path.suffix.lower() == ".npz":
        return "npz"
    if exists(path) or path.suffix or len(path.parts) > 1:
        raise InputError(field, text, "an existing .npz file or image folder, or one of " + ", ".join(sorted(DATA)))
    raise one_of(field, text, DATA)


def _count(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+)(?:[eE]\+?([0-9]{1,2}))?", text)
    if found is None:
        raise InputError(field, text, "a whole number of samples >= 1")
    return int(found[1] + "0" * int(found[2] or 0))


def _labels(field: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)+", text):
        raise InputError(field, text, "at least two labels joined by +, as 1+7")
    return tuple(int(part) for part in text.split("+"))


def _box(field: str, text: str) -> tuple[float, float]:
    try:
        return limits([float(end) for end in text.split("..")], field)
    except ValueError:
        raise InputError(field, text, "two finite numbers, low..high, as -1..1") from None


def load(
    name_or_path: str | Path,
    *,
    train: int | None = None,
    test: int | None = None,
    classes: Sequence[int] | None = None,
    box: tuple[float, float] | None = None,
    hold_out: bool = True,
    seed: int = 0,
    field: str = "data",
) -> Split:
    """Training and test samples by name or path, cut and scaled.

    `train`, `test`: stratified subsets of that many samples, drawn by `seed`; a smaller subset is part of a larger one. `classes`: only
    these labels, relabelled 0 .. k - 1 in the order given. `box`: the limits (low, high) of the inputs, instead of the source's own. The
    split itself never depends on `seed`. Each may be written into the name, `mnist-5k:train=1000,test=200`; arguments win.
    `hold_out=False`: nothing will be trained here, so all samples of the user's own data without a test set are test samples (`train`
    holds them too), whichever classes they have; the embedded sets keep the split of published figures. Raises InputError that names
    `field`.

    >>> split = load("digits:train=100", test=50, classes=(1, 7))
    >>> split.train.n, split.test.n, split.train.classes, split.train.shape
    (100, 50, 2, (1, 8, 8))
    """
    request = parse(str(name_or_path), field)
    counts = (request.train if train is None else train, request.test if test is None else test)
    chosen = request.classes if classes is None else _chosen(f"{field} classes", classes)
    edges = request.box if box is None else limits(box, f"{field} box")
    start = whole(seed)
    if start is None:
        raise InputError("seed", seed, "an integer")
    try:
        pool = DATA[request.name][0](request.rest)
        return _cut(pool if edges is None else replace(pool, box=edges), request, counts, chosen, start, hold_out)
    except InputError as error:
        own = error.field.removeprefix("data").strip()
        named = error.field if error.field.startswith(field) else f"{field} {own}".strip()
        raise InputError(named, error.value, error.accepted) from None
    except Exception as error:  # a damaged or forbidden file may raise anything in the libraries that read it
        reason = str(error).strip() or type(error).__name__
        raise InputError(field, str(name_or_path), f"data that can be read ({reason})") from None


def _chosen(field: str, classes: Sequence[int]) -> tuple[int, ...]:
    try:
        labels = [whole(label) for label in classes]
    except TypeError:
        labels = [None]
    if any(label is None for label in labels):
        raise InputError(field, classes, "two or more different labels")
    return tuple(label for label in labels if label is not None)


def _cut(pool: Pool, request: Request, counts: tuple[object, object], chosen: tuple[int, ...] | None, seed: int, hold_out: bool) -> Split:
    """Choose classes, hold out a test set where there is none, take subsets, scale."""
    every = [part.y for part in (pool.train, pool.test) if part is not None and len(part.y)]
    lowest, highest = (min(int(y.min()) for y in every), max(int(y.max()) for y in every)) if every else (0, -1)
    total = pool.classes if pool.classes is not None else max(highest + 1, 1 if hold_out else 2)
    if pool.test is not None:
        train, test = pool.train, pool.test
    elif hold_out or pool.held_out is not None:
        train, test = _hold_out(pool.train, pool.held_out)
    else:
        train = test = pool.train
    if chosen is not None:
        _check_classes(chosen, total)
        train, test, total = _only(train, chosen), _only(test, chosen), len(chosen)
    elif hold_out and lowest > 0:
        raise InputError("data y", f"labels from {lowest} to {highest}", f"labels that start at 0 (subtract {lowest}: y - {lowest})")
    name = Path(request.rest).stem if request.name in ("npz", "folder") else request.name
    parts = {}
    for part, arrays, count in (("train", train, counts[0]), ("test", test, counts[1])):
        kept = _subset(arrays, count, seed, part)
        if part == "train" and hold_out:
            declared = request.name == "npz" and pool.classes is not None and chosen is None
            _check_every_class(kept.y, total, whole_set=count is None, declared=declared)
        parts[part] = _samples(kept, total, pool.box, name)
    if request.name in ("npz", "folder"):  # of the others the scale is known
        _check_scale([part.x for part in (pool.train, pool.test) if part is not None])
    labels = "" if chosen is None else f", labels {', '.join(map(str, chosen))}"
    return Split(train=parts["train"], test=parts["test"], source=f"{pool.source}{labels}")


def _hold_out(arrays: Arrays, count: int | None) -> tuple[Arrays, Arrays]:
    """A fixed stratified test set of `count` samples, a fifth by default: the same for every seed."""
    size = len(arrays.y) // 5 if count is None else count
    if size < 1:
        raise InputError("data", f"{len(arrays.y)} samples", "at least 5 samples, of which a fifth is held out as the test set")
    order = stratified_order(arrays.y, generator(0, "data", "split"))
    return arrays.take(order[size:]), arrays.take(order[:size])


def _check_classes(chosen: tuple[int, ...], total: int) -> None:
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or any(not 0 <= c < total for c in chosen):
        raise InputError("data classes", ",".join(map(str, chosen)), f"two or more different labels from 0 to {total - 1}")


def _only(arrays: Arrays, chosen: tuple[int, ...]) -> Arrays:
    kept = arrays.take(np.flatnonzero(np.isin(arrays.y, chosen)))
    order = np.argsort(chosen)
    return Arrays(x=kept.x, y=order[np.searchsorted(np.asarray(chosen), kept.y, sorter=order)])


def _subset(arrays: Arrays, count: object, seed: int, part: str) -> Arrays:
    size = len(arrays.y) if count is None else whole(count)
    if count is not None and (size is None or not 1 <= size <= len(arrays.y)):
        raise InputError(f"data {part}", count, f"1 to {len(arrays.y)} samples")
    order = stratified_order(arrays.y, generator(seed if count is not None else 0, "data", "subset", part))
    return arrays.take(order[:size])


def _check_every_class(y: np.ndarray, total: int, *, whole_set: bool, declared: bool) -> None:
    missing = [str(c) for c, n in enumerate(np.bincount(y, minlength=total)) if n == 0]
    if missing:
        cure = (
            "labels without gaps" + (f", or no array `classes` that says {total}" if declared else "") if whole_set else "take more samples"
        )
        accepted = f"training samples of every class 0 to {total - 1} ({cure})"
        raise InputError("data train", f"no sample of class {', '.join(missing)}", accepted)


def _check_scale(stored: list[np.ndarray]) -> None:
    """Raises InputError for values of 8 bits of another scale than 0 .. 255, which would all come to lie near 0."""
    largest = max((int(x.max(initial=0)) for x in stored if x.dtype == np.uint8), default=255)
    if largest < DARK:
        accepted = f"values up to 255, which are divided by 255; for another scale floats: x.astype('float32') / {max(largest, 1)}"
        raise InputError("data x", f"values of 8 bits that are {largest} at most", accepted)


def _samples(arrays: Arrays, classes: int, box: tuple[float, float], name: str) -> Samples:
    x = torch.from_numpy(np.ascontiguousarray(arrays.x))
    if x.dtype == torch.uint8:
        if box != (0.0, 1.0):
            raise InputError("data box", f"({box[0]:g}, {box[1]:g}) beside values of 8 bits", "no box: they are scaled to [0, 1]")
        x = x.float() / 255
    return Samples(x=x, y=torch.from_numpy(np.ascontiguousarray(arrays.y)), classes=classes, box=box, name=name)
