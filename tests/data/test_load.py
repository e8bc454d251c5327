"""Names, options, splits, subsets and classes, on the embedded sets and on small ones made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from isogrid.core.errors import InputError
from isogrid.data import DATA, load, parse

PINNED = "80253e15c022f278"


def rows(x) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_mnist_5k_is_the_stratified_split_of_the_published_figures():
    split = load("mnist-5k")
    assert (split.train.n, split.test.n, split.train.shape, split.train.classes) == (4000, 1000, (1, 28, 28), 10)
    assert split.train.y.bincount().tolist() == [400] * 10
    assert split.test.y.bincount().tolist() == [100] * 10
    assert split.train.x.min() == 0
    assert split.train.x.max() == 1
    assert not rows(split.train.x) & rows(split.test.x)  # no test digit was trained on
    assert torch.equal(split.train.x, (split.train.x * 255).round() / 255)
    assert split.digest() == PINNED  # another split would make old studies and published figures incomparable


def test_digits_are_those_that_scikit_learn_returns():
    split, theirs = load("digits"), load_digits()
    images = {row.astype(np.float32).tobytes(): label for row, label in zip(theirs.images / 16, theirs.target, strict=True)}
    for part in (split.train, split.test):
        assert all(images[x.numpy().tobytes()] == y for x, y in zip(part.x, part.y.tolist(), strict=True))
    assert split.train.n + split.test.n == 1797
    assert split.test.n == 360


def test_the_split_does_not_depend_on_the_seed_but_the_subset_does():
    whole, other = load("digits", seed=0), load("digits", seed=7)
    assert whole.train.digest() == other.train.digest()
    assert whole.test.digest() == other.test.digest()
    one, two = load("digits:train=200,test=100"), load("digits", train=200, test=100, seed=7)
    assert one.train.digest() != two.train.digest()
    assert rows(two.train.x) <= rows(whole.train.x)
    assert rows(two.test.x) <= rows(whole.test.x)
    smaller = load("digits", train=150, test=100, seed=7)
    assert torch.equal(smaller.train.x, two.train.x[:150])
    assert smaller.train.y.bincount().tolist() == pytest.approx([15] * 10, abs=1)


def test_arguments_win_over_the_name():
    split = load("digits:train=200,test=60,classes=1+7", train=100, classes=(3, 8, 5))
    assert (split.train.n, split.test.n, split.train.classes) == (100, 60, 3)


@pytest.mark.parametrize("classes", [(1, 7), (7, 1), (9, 0, 4)])
def test_chosen_classes_are_relabelled_in_the_order_given(classes):
    whole, part = load("digits").test, load("digits", classes=classes).test
    label = {x.numpy().tobytes(): y for x, y in zip(whole.x, whole.y.tolist(), strict=True)}
    assert [classes[y] for y in part.y.tolist()] == [label[x.numpy().tobytes()] for x in part.x]
    assert part.n == sum(int((whole.y == c).sum()) for c in classes)
    assert part.classes == len(classes)


@pytest.mark.parametrize(
    "text", ["digits:train=9", "npz:/a/b.npz:test=3", "mnist:/a:train=1,test=2", "x/y.npz:classes=0+2", "torchvision:MNIST:/root"]
)
def test_parse_separates_name_rest_and_options(text):
    request = parse(text)
    assert request.name in DATA
    assert "=" not in request.rest


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("mnist5k", "data", "did you mean mnist-5k"),
        ("missing/file.npz", "data", "existing"),
        ("missing/folder", "data", "existing"),
        ("digits:tran=3", "data option", "did you mean train"),
        ("digits:train=-3", "data train", ">= 1"),
        ("digits:train=3.5", "data train", ">= 1"),
        ("digits:train=0", "data train", "1 to 1437"),
        ("digits:test=361", "data test", "1 to 360"),
        ("digits:train=3,train=4", "data option", "once"),
        ("digits:train=5", "data train", "every class"),
        ("digits:classes=1", "data classes", "1+7"),
        ("digits:classes=1+10", "data classes", "0 to 9"),
        ("digits:classes=1,7", "data classes", "joined by +, as 1+7"),
        ("my.npz:train=5,classes=1,2", "data classes", "joined by +, as 1+7"),
        ("digits:box=0,1,train=5", "data box", "low..high"),
        ("digits:train=5,7", "data train", "whole number"),
        ("digits:classes=1+1", "data classes", "different"),
        ("digits:/some/folder", "data", "takes no folder"),
        ("npz:nothing.npz", "data", "existing .npz"),
        ("", "data", "name of a data set"),
        ("a\0b.npz", "data", "a path"),
        ("~no-such-user-here/x.npz", "data", "a path"),
        ("x" * 5000, "data", "mnist-5k"),
        ("npz:" + "x" * 5000 + ".npz", "data", "existing .npz"),
        ("digits:box=0..0.5", "data x", "values in"),
    ],
)
def test_bad_requests_end_in_one_line(text, field, said):
    with pytest.raises(InputError) as caught:
        load(text)
    assert caught.value.field == field
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"train": 20.5}, "data train"),
        ({"test": "5"}, "data test"),
        ({"classes": 3}, "data classes"),
        ({"classes": [0.5, 1]}, "data classes"),
        ({"classes": "12"}, "data classes"),
        ({"box": 2}, "data box"),
        ({"seed": "a"}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_arguments_of_wrong_types_are_refused(arguments, field):
    with pytest.raises(InputError) as caught:
        load("digits", **arguments)
    assert caught.value.field == field


def test_numbers_of_numpy_and_torch_are_numbers():
    plain = load("digits", train=50, test=20, classes=(1, 7), seed=3)
    other = load("digits", train=np.int64(50), test=torch.tensor(20), classes=np.array([1, 7]), seed=np.uint8(3))
    assert plain.digest() == other.digest()


def test_a_path_with_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("run=3.npz", x=np.zeros((10, 2), dtype=np.float32), y=np.arange(10) % 2)
    for text in ("run=3.npz", "npz:run=3.npz", str(tmp_path / "run=3.npz"), "npz:run=3.npz:test=1", f"{tmp_path}/run=3.npz:test=1"):
        assert load(text).train.n == 8, text
    assert parse("digits:train=5,test=2").body == "digits"


def test_the_field_of_the_caller_is_named():
    with pytest.raises(InputError, match=r"^study\.data train: got 0"):
        load("digits", train=0, field="study.data")


def test_loading_touches_no_global_random_state():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    load("digits", train=100, seed=3)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


def test_spaces_between_options_mean_nothing():
    assert parse("digits:train=10, test = 5 ,classes=1+7") == parse("digits:train=10,test=5,classes=1+7")
