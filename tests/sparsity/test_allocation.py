"""Allocations against brute force, with ties, dead weights and weights that must stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import ALLOCATIONS, Masks, survivors
from isogrid.sparsity.allocation import best, quotas, top

SHAPES = {"a": (6, 5), "b": (4, 3, 2, 2), "c": (3, 4)}


def problem(seed, kinds=3):
    """Scores with many ties, masks with dead weights, and the survivors of an output layer."""
    draw = generator(seed, "allocation")
    scores = {name: torch.randint(kinds, shape, generator=draw).float() for name, shape in SHAPES.items()}
    masks = Masks({name: torch.rand(shape, generator=draw) < 0.7 for name, shape in SHAPES.items()})
    return scores, masks, survivors(scores, masks, {"c": 0})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 100), name=st.sampled_from(list(ALLOCATIONS)))
def test_counts_are_exact_under_ties_and_within_what_lives_and_what_must_stay(seed, count, name):
    scores, masks, protected = problem(seed)
    kept = ALLOCATIONS.make(name).keep(scores, masks, protected, count)
    least = sum(int(mask.sum()) for mask in protected.values())
    assert kept.kept == min(max(count, least), masks.kept)
    for layer, mask in kept.items():
        assert not (mask & ~masks[layer]).any(), "a dead weight came back"
        assert not (protected[layer] & ~mask).any(), "a weight that must stay went"
        gone = masks[layer] & ~mask & ~protected[layer]
        stays = mask & ~protected[layer]
        if gone.any() and stays.any():
            assert scores[layer][gone].max() <= scores[layer][stays].min()
            edge = scores[layer][gone].max()
            tied_gone, tied_stay = ((part & (scores[layer] == edge)).flatten().nonzero() for part in (gone, stays))
            assert not len(tied_stay) or tied_gone.max() < tied_stay.min(), "of equal ones the lower index goes first"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(20, 80))
def test_global_is_one_ranking_of_all_layers(seed, count):
    scores, masks, protected = problem(seed, kinds=1000)
    kept = ALLOCATIONS.make("global").keep(scores, masks, protected, count)
    flat = {name: torch.cat([part[name].flatten() for name in SHAPES]) for part in (scores, masks, protected, kept) for name in [id(part)]}
    value, alive, stay, chosen = (flat[id(part)] for part in (scores, masks, protected, kept))
    order = sorted(range(len(value)), key=lambda i: (not alive[i], not stay[i], -float(value[i]), -i))
    assert set(order[: min(max(count, int(stay.sum())), int(alive.sum()))]) == set(chosen.nonzero().flatten().tolist())


def test_layers_keep_the_same_share_and_make_up_for_what_must_stay():
    masks = Masks({"a": torch.ones(100, 8, dtype=torch.bool), "b": torch.ones(10, 10, dtype=torch.bool)})
    scores = {name: torch.rand(mask.shape, generator=generator(0, name)) for name, mask in masks.items()}
    protected = survivors(scores, masks, {"b": 0})
    half = ALLOCATIONS.make("layer").keep(scores, masks, protected, 450)
    assert [int(mask.sum()) for mask in half.values()] == [400, 50]
    few = ALLOCATIONS.make("layer").keep(scores, masks, protected, 45)
    assert [int(mask.sum()) for mask in few.values()] == [35, 10]


def test_erk_is_the_published_density_on_lenet_300_100():
    net = nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10))
    masks = Masks.dense(net)
    scores = {name: weight.detach().abs() for name, weight in net.named_parameters()}
    kept = ALLOCATIONS.make("erk").keep(scores, masks, survivors(scores, masks, {"2.weight": 0}), 26620)
    # sums of shapes 1084, 400, 110: the last layer would be more than dense, so it is dense and the others share what is left
    epsilon = (26620 - 1000) / 1484
    assert [int(mask.sum()) for mask in kept.values()] == [round(1084 * epsilon), round(400 * epsilon), 1000]


@settings(max_examples=100, deadline=None)
@given(
    layers=st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=5),
    count=st.integers(0, 150),
)
def test_quotas_add_up_stay_in_bounds_and_are_a_common_scale_to_one(layers, count):
    wanted = {str(i): w for i, (w, _, _) in enumerate(layers)}
    least = {str(i): a for i, (_, a, _) in enumerate(layers)}
    most = {str(i): a + b for i, (_, a, b) in enumerate(layers)}
    found = quotas(wanted, least, most, count)
    assert sum(found.values()) == min(max(count, sum(least.values())), sum(most.values()))
    assert all(least[name] <= found[name] <= most[name] for name in found)
    # every layer that could give one and every layer that could take one stand within one weight of one scale
    gives = [(found[n] - 1) / wanted[n] for n in found if found[n] > least[n]]
    takes = [(found[n] + 1) / wanted[n] for n in found if found[n] < most[n]]
    assert not gives or not takes or max(gives) <= min(takes) + 1e-9 * max(takes)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_top_of_nothing_of_all_and_of_equals(count):
    assert int(top(torch.zeros(5), count).sum()) == count
    assert int(top(torch.tensor([-torch.inf, 1, 1, -torch.inf, torch.inf]), count).sum()) == count


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from([3, 100, 9000, 60000]),
    share=st.floats(0.0, 1.0),
    kind=st.sampled_from(["spread", "ties", "equal", "mostly lowest", "rising", "falling", "a peak every 16"]),
)
def test_top_is_the_end_of_a_stable_ranking(size, share, kind):
    scores = torch.randn(size, generator=generator(0, "top", size))
    if kind == "ties":
        scores = scores.mul(3).round()
    elif kind == "equal":
        scores = torch.ones(size)
    elif kind == "mostly lowest":
        scores[torch.rand(size, generator=generator(1, "top")) < 0.9] = torch.finfo(torch.float32).min
    elif kind in ("rising", "falling"):
        scores = scores.sort(descending=kind == "falling").values
    elif kind == "a peak every 16":  # a sample of every 16th is no picture of this
        scores[::16] += 100
    count = int(share * size)
    wanted = torch.zeros(size, dtype=torch.bool)
    wanted[scores.argsort(stable=True)[size - count :]] = True
    assert torch.equal(top(scores, count), wanted)
    assert torch.equal(best(scores, count), wanted.nonzero().flatten())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_top_of_other_types_and_of_scores_with_a_gradient(kind):
    scores = torch.randn(40000, generator=generator(0, "types")).to(kind)
    for some in (scores, scores[:300]):
        wanted = torch.zeros(len(some), dtype=torch.bool)
        wanted[some.argsort(stable=True)[-99:]] = True
        assert torch.equal(top(some.clone().requires_grad_(), 99), wanted)
        assert torch.equal(best(some, 99), wanted.nonzero().flatten())


@pytest.mark.parametrize("shape", [(7,), (5, 9), (4, 3, 2, 2)])
def test_the_survivor_is_the_first_of_the_best(shape):
    for seed in range(20):
        scores = torch.randn(shape, generator=generator(seed, "survivor")).round()
        mask = torch.rand(shape, generator=generator(seed, "alive")) < 0.6
        kept = survivors({"w": scores}, {"w": mask}, {})["w"].flatten().nonzero().flatten().tolist()
        alive = [(-score, i) for i, (score, lives) in enumerate(zip(scores.flatten().tolist(), mask.flatten(), strict=True)) if lives]
        assert kept == ([min(alive)[1]] if alive else [])
