"""The user's own arrays and image folders: what is accepted comes out right, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isogrid.core.errors import InputError
from isogrid.data import load

Y = np.arange(20) % 2


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return str(tmp_path / "own.npz")

    return write


def image(shape=(20, 4, 5)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (image((20, 7)), (7,)),
        (image((20, 3, 11)) / 255, (3, 11)),
        (image((20, 11, 3)) / 255, (11, 3)),
        (image((20, 9, 9)) / 255, (1, 9, 9)),
        (image((20, 2, 6, 6)) / 255, (2, 6, 6)),
        (image((20, 13, 16, 20)), (13, 16, 20)),
        (image((20, 16, 20, 13)), (13, 16, 20)),
        (image((20, 6, 6, 2)), (2, 6, 6)),
        (image((20, 1, 4, 4)), (1, 4, 4)),
        (image((20, 3, 3, 3)), (3, 3, 3)),
        (image((20, 1, 5, 6, 7)), (1, 5, 6, 7)),
        (image((20, 2, 3, 4, 2, 5)) / 255, (2, 3, 4, 2, 5)),
        (image((20, 40)) > 99, (40,)),
        (image(), (1, 4, 5)),
        (image((20, 3, 4, 5)), (3, 4, 5)),
        (image((20, 5, 6, 3)), (3, 5, 6)),
        (image((20, 5, 6, 1)), (1, 5, 6)),
        (np.linspace(0, 1, 140).reshape(20, 7), (7,)),
        (np.linspace(0, 1, 140, dtype=np.float16).reshape(20, 7), (7,)),
    ],
)
def test_arrays_of_every_accepted_form(save, x, shape):
    split = load(save(x=x, y=Y))
    assert split.train.shape == shape
    assert (split.train.n, split.test.n) == (16, 4)
    assert split.train.y.bincount().tolist() == [8, 8]
    scaled = x / 255 if x.dtype == np.uint8 else x
    assert float(split.train.x.max()) == pytest.approx(float(scaled.max()), abs=0.2)
    planes = np.moveaxis(scaled, 3, 1) if x.ndim == 4 and x.shape[1:] != shape else scaled * 1.0
    rows = planes.reshape(20, -1).astype(np.float32)
    for part in (split.train, split.test):
        for row, label in zip(part.x.flatten(1).numpy(), part.y.tolist(), strict=True):
            assert Y[np.abs(rows - row).max(1).argmin()] == label
            assert np.abs(rows - row).max(1).min() < 1e-6


def test_a_given_test_set_is_used(save):
    split = load(save(x_train=image(), y_train=Y, x_test=image((6, 4, 5)), y_test=Y[:6].astype(np.uint8)))
    assert (split.train.n, split.test.n) == (20, 6)


@pytest.mark.parametrize(
    ("layout", "shape", "want"),
    [
        ("channels-first", (4, 5, 3), (4, 5, 3)), ("channels-first", (6, 6), (6, 6)), ("channels-last", (5, 4, 6), (6, 5, 4)),
        ("channels-last", (9, 2), (2, 9)), ("channels-last", (5, 6, 7, 2), (2, 5, 6, 7)), ("gray", (3, 8), (1, 3, 8)),
        ("gray", (4, 5, 6), (1, 4, 5, 6)),
    ],
)  # fmt: skip
def test_a_layout_in_the_file_decides(save, layout, shape, want):
    x = image((20, *shape)) / 255
    split = load(save(x=x, y=Y, layout=np.array(layout)))
    assert split.train.shape == want
    moved = np.moveaxis(x, -1, 1) if layout == "channels-last" else x.reshape(20, *want)
    stored = {row.tobytes() for row in moved.astype(np.float32)}
    assert {row.numpy().tobytes() for row in split.train.x} < stored


@pytest.mark.parametrize("y", [Y.astype(bool), Y.astype(np.float32), Y[:, None], Y.astype(np.uint8)[:, None], Y.astype(">i2")])
def test_labels_of_every_usual_form_are_classes(save, y):
    assert load(save(x=image(), y=y)).digest() == load(save(x=image(), y=Y)).digest()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding_outside_the_box_is_put_onto_its_edge(save, dtype):
    x = np.linspace(0, 1, 140).reshape(20, 7).astype(dtype)
    x[0, 0], x[-1, -1] = np.nextafter(dtype(0), dtype(-1)), np.nextafter(dtype(1), dtype(2))
    split = load(save(x=x, y=Y))
    assert min(split.train.x.min(), split.test.x.min()) == 0
    assert max(split.train.x.max(), split.test.x.max()) == 1
    wide = load(save(x=x * 255, y=Y), box=(0, 255))
    assert max(wide.train.x.max(), wide.test.x.max()) == 255


def test_all_samples_are_test_samples_where_nothing_is_trained(save):
    path = save(x=image(), y=Y + 3)
    split = load(path, hold_out=False)
    assert (split.test.n, split.test.classes) == (20, 5)
    assert split.test.y.bincount().tolist() == [0, 0, 0, 10, 10]
    assert {r.numpy().tobytes() for r in split.train.x} == {r.numpy().tobytes() for r in split.test.x}
    assert load(path, hold_out=False, test=4).test.n == 4
    assert load(save(x=image((2, 4, 5)), y=Y[:2] * 0), hold_out=False).test.classes == 2
    assert load(save(x=image(), y=Y, classes=np.array(7)), hold_out=False).test.classes == 7
    given = save(x_train=image(), y_train=Y, x_test=image((6, 4, 5)), y_test=Y[:6])
    assert load(given, hold_out=False).digest() == load(given).digest()
    assert load("digits", hold_out=False).digest() == load("digits").digest()  # a network was trained on the rest of these


def test_the_box_of_a_call_or_a_name_wins(save):
    path = save(x=np.linspace(-1, 1, 140).reshape(20, 7), y=Y)
    assert load(path, box=(-2, 2)).test.box == (-2.0, 2.0)
    assert load(f"{path}:box=-1..1").train.box == (-1.0, 1.0)
    for bad in ("", "1", "1..-1", "a..b", "0..1..2", "0..inf", "nan..1"):
        with pytest.raises(InputError, match=r"^data box: got "):
            load(f"{path}:box={bad}")
    with pytest.raises(InputError, match=r"^data box: got .*8 bits"):
        load(save(x=image(), y=Y), box=(0, 2))


def test_a_declared_box_is_kept(save):
    split = load(save(x=np.linspace(-2, 3, 140).reshape(20, 7), y=Y, box=np.array([-2.0, 3.0])))
    assert split.train.box == (-2.0, 3.0)
    assert split.source == "arrays of own.npz"


@pytest.mark.parametrize(
    ("arrays", "field", "said"),
    [
        ({"x": image()}, "data", "also y"),
        ({"y": Y}, "data", "either x and y"),
        ({"x": image(), "x_train": image(), "y": Y}, "data", "either x and y"),
        ({"x_train": image(), "y_train": Y}, "data", "x_test, y_test"),
        ({"x": image().astype(np.int32), "y": Y}, "data x", "uint8"),
        ({"x": image().astype(np.float32), "y": Y}, "data x", r"values in \[0, 1\]"),
        ({"x": np.full((20, 3), np.nan), "y": Y}, "data x", "finite"),
        ({"x": np.zeros(20, dtype=np.uint8), "y": Y}, "data x", "shape"),
        ({"x": image((20, 3, 4, 3)), "y": Y}, "data x", "C the smallest side, or an array `layout`"),
        ({"x": image((20, 5, 4, 6)), "y": Y}, "data x", "channels-last"),
        ({"x": image((20, 5, 4, 6)), "y": Y, "layout": np.array("channels-lst")}, "data layout", "did you mean channels-last"),
        ({"x": image((0, 4, 5)), "y": Y[:0]}, "data x", "at least one"),
        ({"x": image(), "y": Y[:19]}, "data y", r"\(20,\)"),
        ({"x": image(), "y": Y / 2}, "data y", "integer"),
        ({"x": image(), "y": np.where(Y, np.nan, 0)}, "data y", "integer"),
        ({"x": image(), "y": np.where(Y, "cat", "dog")}, "data y", "return_inverse"),
        ({"x": image(), "y": np.eye(2)[Y]}, "data y", r"argmax\(1\)"),
        ({"x": image(), "y": Y + 1}, "data y", r"start at 0 \(subtract 1"),
        ({"x": image(), "y": Y, "classes": np.array(1)}, "data classes", "number of classes, from 2"),
        ({"x": image(), "y": Y, "classes": np.array([2, 3])}, "data classes", "one integer"),
        ({"x": image(), "y": Y - 1}, "data y", "classes 0"),
        ({"x": image(), "y": Y * 10**9}, "data y", "classes 0"),
        ({"x": image(), "y": Y * 2}, "data train", "no sample of class 1"),
        ({"x": image(), "y": Y * 0}, "data classes", "at least 2"),
        ({"x": image((3, 4, 5)), "y": Y[:3]}, "data", "at least 5 samples"),
        ({"x": image(), "y": Y, "box": np.array([0, 2])}, "data box", "no box"),
        ({"x": image() / 255, "y": Y, "box": np.array([0.0])}, "data box", "two finite numbers"),
        ({"x": image() / 255, "y": Y, "box": np.array([1.0, 0.0])}, "data box", "low < high"),
        ({"x": image() / 255 + 1e-3, "y": Y}, "data x", r"values in \[0, 1\], or a `box`"),
        ({"x_train": image(), "y_train": Y, "x_test": image((6, 5, 5)), "y_test": Y[:6]}, "data x_test", "x_train"),
        ({"x_train": image(), "y_train": Y, "x_test": image((0, 4, 5)), "y_test": Y[:0]}, "data x_test", "at least one"),
        ({"x_train": image(), "y_train": Y, "x_test": image((6, 4, 5)), "y_test": Y[:6] * 5}, "data train", "no sample of class"),
    ],
)
def test_unusable_arrays_are_refused_by_field(save, arrays, field, said):
    with pytest.raises(InputError, match=said) as caught:
        load(save(**arrays))
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_pickled_corrupt_and_foreign_files_are_refused(tmp_path, save):
    with pytest.raises(InputError, match="never loaded"):
        load(save(x=np.array([{"a": 1}] * 20, dtype=object), y=Y))
    whole = save(x=image(), y=Y)
    raw = (tmp_path / "own.npz").read_bytes()
    for name, content in (("cut.npz", raw[: len(raw) // 2]), ("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"numpy\.savez"):
            load(tmp_path / name)
    middle = bytearray(raw)
    middle[200:400] = bytes(200)
    (tmp_path / "hurt.npz").write_bytes(bytes(middle))
    with pytest.raises(InputError, match=r"numpy\.savez"):
        load(tmp_path / "hurt.npz")
    assert load(whole).train.n == 16


def fill(root, classes=("cat", "dog"), n=10, mode="L", size=(5, 4), suffix="png"):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            value = (label * 100 + i) if mode in ("L", "P") else (label * 100 + i, 0, 7)
            Image.new(mode, size, value).save(root / name / f"{i}.{suffix}")
    return root


def test_a_folder_of_gray_images(tmp_path):
    split = load(fill(tmp_path / "animals"))
    (tmp_path / "animals" / "cat" / "notes.txt").write_text("ignored")
    assert (split.train.n, split.test.n, split.train.shape, split.train.classes) == (16, 4, (1, 4, 5), 2)
    assert torch.equal((split.test.x[:, 0, 0, 0] * 255 >= 100).long(), split.test.y)
    assert "cat, dog" in split.source


def test_one_coloured_image_makes_all_three_planes(tmp_path):
    fill(tmp_path)
    Image.new("RGBA", (5, 4), (9, 8, 7, 255)).save(tmp_path / "cat" / "colour.png")
    split = load(f"folder:{tmp_path}")
    assert split.train.shape == (3, 4, 5)
    every = torch.cat([split.train.x, split.test.x])
    coloured = every[(every[:, 0] != every[:, 1]).flatten(1).any(1)]
    assert (coloured[:, :, 0, 0] * 255).round().tolist() == [[9.0, 8.0, 7.0]]


def test_train_and_test_folders(tmp_path):
    fill(tmp_path / "train", mode="RGB")
    fill(tmp_path / "test", mode="RGB", n=3)
    split = load(tmp_path)
    assert (split.train.n, split.test.n, split.test.shape) == (20, 6, (3, 4, 5))


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least two class sub-folders; it has 0"):
        load(tmp_path)
    fill(tmp_path, classes=("one",))
    with pytest.raises(InputError, match="it has 1"):
        load(tmp_path)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match=r"broken\.png.*readable image"):
        load(tmp_path)
    (tmp_path / "two" / "broken.png").unlink()
    Image.new("L", (6, 4)).save(tmp_path / "two" / "wide.png")
    with pytest.raises(InputError, match=r"wide\.png: 4x6 pixels.*4x5"):
        load(tmp_path)
    Image.new("I;16", (5, 4)).save(tmp_path / "two" / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: mode I.*8 bits"):
        load(tmp_path)


def test_a_class_that_was_never_trained_on_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=("cat", "cow"), n=3)
    with pytest.raises(InputError, match="class cow"):
        load(tmp_path)


def test_what_an_npz_file_holds_is_told(save, tmp_path):
    (tmp_path / "no.npz").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"\(it is no \.npz file\)"):
        load(tmp_path / "no.npz")
    with pytest.raises(InputError, match=r"\(its array names holds Python objects"):
        load(save(x=image(), y=Y, names=np.array([{}], dtype=object)))
    Path(save(x=image(), y=Y)).rename(tmp_path / "UP.NPZ")
    assert load(tmp_path / "UP.NPZ").train.n == 16


def test_a_number_of_classes_is_for_networks_that_are_given(save):
    path = save(x=image(), y=Y, classes=np.array(5))
    assert load(path, hold_out=False).test.classes == 5
    with pytest.raises(InputError, match=r"no sample of class 2, 3, 4; .*no array `classes` that says 5"):
        load(path)


@pytest.mark.parametrize("largest", [0, 1, 16, 63])
def test_values_of_eight_bits_of_another_scale_are_not_divided_by_255(save, largest):
    x = np.minimum(image(), largest).astype(np.uint8)
    with pytest.raises(
        InputError, match=rf"^data x: got values of 8 bits that are {largest} at most; .*x\.astype\('float32'\) / {max(largest, 1)}"
    ):
        load(save(x=x, y=Y))
    with pytest.raises(InputError, match="8 bits"):
        load(save(x_train=x, y_train=Y, x_test=x, y_test=Y))
    assert load(save(x=x.astype("float32") / max(largest, 1), y=Y)).train.n == 16
    assert load(save(x_train=x, y_train=Y, x_test=image(), y_test=Y)).train.n == 20
