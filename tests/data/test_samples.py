"""`Samples` holds only what a classifier can be judged on, and the one order makes every prefix stratified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.data import Samples, stratified_order


def samples(**changes) -> Samples:
    fields = {"x": torch.rand(6, 2, generator=generator(0, "x")), "y": torch.tensor([0, 1, 2, 0, 1, 2]), "classes": 3}
    return Samples(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"x": torch.zeros(6, 2, dtype=torch.float64)}, "x"),
        ({"x": torch.zeros(6)}, "x"),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0, dtype=torch.int64)}, "x"),
        ({"x": torch.full((6, 2), 1.01)}, "x"),
        ({"x": torch.full((6, 2), -0.01)}, "x"),
        ({"x": torch.full((6, 2), torch.nan)}, "x"),
        ({"x": torch.full((6, 2), torch.inf), "box": (0.0, 1e30)}, "x"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, "y"),
        ({"y": torch.zeros(6)}, "y"),
        ({"y": torch.zeros(6, dtype=torch.int32)}, "y"),
        ({"y": torch.tensor([0, 1, 2, 3, 0, 0])}, "y"),
        ({"y": torch.tensor([0, 1, 2, -1, 0, 0])}, "y"),
        ({"classes": 1, "y": torch.zeros(6, dtype=torch.int64)}, "classes"),
        ({"box": (1.0, 0.0)}, "box"),
        ({"box": (0.0, float("inf"))}, "box"),
        ({"box": (torch.zeros(2), torch.ones(2))}, "box"),
        ({"box": 1.0}, "box"),
        ({"box": "01"}, "box"),
        ({"x": np.zeros((6, 2), dtype=np.float32)}, "x"),
        ({"x": torch.zeros(6, 2).to_sparse()}, "x"),
        ({"x": torch.zeros(6, 2, device="meta")}, "x"),
        ({"y": [0, 1, 2, 0, 1, 2]}, "y"),
        ({"classes": 3.5}, "classes"),
        ({"classes": "3"}, "classes"),
    ],
)
def test_unusable_samples_are_refused_by_field(changes, field):
    with pytest.raises(InputError) as caught:
        samples(**changes)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_what_lies_a_rounding_error_outside_is_put_onto_the_edge():
    above = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    made = samples(x=torch.tensor([[0.5, above]] * 6), classes=np.int64(3), box=np.array([0, 1]))
    assert made.x.max() == 1
    assert made.x[:, 0].eq(0.5).all()
    assert (made.classes, made.box) == (3, (0.0, 1.0))
    kept = torch.full((6, 2), 0.1)  # above 0.1 as a number of 64 bits
    assert torch.equal(samples(x=kept, box=(0.0, 0.1)).x, kept)
    with pytest.raises(InputError, match=r"values in \[0\.5, 1\.00001\d*\]"):
        samples(x=torch.tensor([[0.5, 1.00001]] * 6))


def test_another_box_is_accepted_and_kept():
    wide = samples(x=torch.full((6, 2), -3.0), box=(-4.0, 4.0))
    assert wide.take(torch.tensor([1])).box == (-4.0, 4.0)


def test_batch_and_take_follow_indices_and_masks():
    s = samples()
    x, y = s.batch(torch.tensor([4, 0]))
    assert torch.equal(x, s.x[[4, 0]])
    assert y.tolist() == [1, 0]
    assert s.take(s.y == 2).y.tolist() == [2, 2]


def test_digest_depends_on_everything_but_the_name():
    s = samples()
    changed_x = s.x.clone()
    changed_x[5, 1] = torch.nextafter(changed_x[5, 1], torch.tensor(0.0))
    others = [
        samples(x=changed_x),
        samples(x=s.x.reshape(6, 1, 2)),
        samples(y=s.y.flip(0)),
        samples(classes=4),
        samples(box=(0.0, 2.0)),
        s.take(torch.tensor([1, 0, 2, 3, 4, 5])),
    ]
    digests = [s.digest(), *(other.digest() for other in others)]
    assert len(set(digests)) == len(digests)
    assert samples(name="another", x=s.x.clone()).digest() == s.digest()
    assert samples(x=s.x.t().contiguous().t()).digest() == s.digest()  # the same values in another memory layout


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_every_prefix_of_the_order_is_stratified(counts, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(y, generator(seed, "test"))
    assert sorted(order.tolist()) == list(range(len(y)))
    for size in range(1, len(y) + 1):
        taken = np.bincount(y[order[:size]], minlength=len(counts))
        share = np.array(counts) / len(y)
        assert (np.abs(taken - size * share) <= 1 + share * len(counts) / 2).all()


def test_the_order_is_random_within_classes_and_repeats():
    y = np.repeat(np.arange(3), 50)
    one, again, other = (stratified_order(y, generator(seed, "test")) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()
    members = one[y[one] == 0]
    assert (np.diff(members) < 0).any()
