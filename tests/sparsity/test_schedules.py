"""One-shot, cubic, lottery and N:M: how many weights go, when, and that nothing comes back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.sparsity import PRUNERS, Cubic, Dense, Lottery, Masks, NofM, OneShot, Progressive
from isogrid.sparsity.n_of_m import best_of
from isogrid.sparsity.schedules import Revisions
from isogrid.training import EarlyStop, FitConfig, OptimizerConfig, fit
from tests.sparsity.bench import network, run, samples, training

CONFIG = FitConfig(epochs=4, batch_size=16, optimizer=OptimizerConfig(lr=0.05))
TOTAL = 12 * 16 + 16 * 8 + 8 * 4


def dead_half(net):
    return Masks({name: (torch.rand(w.shape, generator=generator(5, name)) < 0.5) for name, w in net.named_parameters() if w.dim() > 1})


@pytest.mark.parametrize("allocation", ["layer", "global", "erk"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip", "taylor"])
@pytest.mark.parametrize("method", [OneShot, Cubic])
def test_targets_are_reached_to_one_weight_by_every_criterion_and_allocation(method, criterion, allocation):
    net = network()
    pruner = method(sparsity=0.83, criterion=criterion, allocation=allocation)
    masks = fit(net, *samples(), CONFIG, seed=0, pruner=pruner).masks
    assert masks.kept == round(0.17 * TOTAL)
    assert sum(int((p != 0).sum()) for p in net.parameters() if p.dim() > 1) == masks.kept


@settings(max_examples=100, deadline=None)
@given(steps=st.integers(1, 200), every=st.integers(1, 300), until=st.floats(0.01, 1.0))
def test_the_last_revision_is_at_the_end_of_its_share_whatever_the_interval(steps, every, until):
    when = Revisions(steps, every, until)
    due = [step for step in range(steps) if when.due(step)]
    assert due[-1] == when.last == max(1, round(until * steps)) - 1
    assert when.progress(due[-1]) == 1.0
    assert all(b - a == every for a, b in pairwise(due))
    assert due[0] < every


def test_cubic_follows_its_formula_and_keeps_the_last_masks():
    net = network()
    told = training(net, 40)
    dynamics, seen = Cubic(sparsity=0.9, every=3, until=0.75).begin(told), {}
    masks, state = run(dynamics, told, lambda step: seen.update({step: dynamics.masks.kept}))
    for step, kept in seen.items():
        done = max((s for s in range(step + 1) if s <= 29 and (29 - s) % 3 == 0), default=None)
        t = 0 if done is None else (done + 1) / 30
        assert kept == pytest.approx(TOTAL * (1 - 0.9 * (1 - (1 - t) ** 3)), abs=1), step
    assert masks.kept == round(0.1 * TOTAL)
    assert not dynamics.busy
    assert state["revisions"][-1, 0] <= 29
    assert int(state["revisions"][:, 1].sum()) == TOTAL - masks.kept
    assert not state["revisions"][:, 2].any()


def test_masks_of_the_same_count_are_not_multiplied_up_until_nothing_is_left():
    net = network()
    told = training(net, 60)
    dynamics = Cubic(sparsity=0.5, every=1, until=1.0).begin(told)
    kept = []
    run(dynamics, told, lambda step: kept.append(dynamics.masks.kept))
    assert kept[-1] == kept[-5] == TOTAL // 2
    net = network()
    again = training(net, 60, masks=dynamics.masks)
    same = Cubic(sparsity=0.5, every=1, until=1.0).begin(again)
    assert run(same, again)[0].digest() == dynamics.masks.digest()


def test_a_schedule_is_not_cut_short_by_early_stopping_and_then_gets_its_patience():
    config = FitConfig(epochs=40, batch_size=16, early_stop=EarlyStop(patience=3, min_delta=1e6))  # no loss falls by so much
    plain = fit(network(), *samples(), config, seed=0, pruner=Dense())
    assert len(plain.losses) == 4
    log = fit(network(), *samples(), config, seed=0, pruner=Cubic(sparsity=0.9, until=0.25))
    assert log.masks.kept == round(0.1 * TOTAL)
    assert len(log.losses) == 10 - 1 + 4


@pytest.mark.parametrize("method", [OneShot, Cubic])
def test_one_goes_on_from_a_network_that_is_sparse_already(method):
    net = network()
    before = dead_half(net)
    log = fit(net, *samples(), CONFIG, seed=0, pruner=method(sparsity=0.2), masks=before)
    assert log.masks.digest() == before.digest(), "sparser than asked for already: nothing goes, nothing comes back"


def test_a_ticket_starts_from_the_first_weights_with_the_masks_of_the_trained_ones():
    net = network()
    net.insert(1, nn.BatchNorm1d(16))
    first = {name: value.clone() for name, value in net.state_dict().items()}
    x, y = samples()
    fit(net, x, y, CONFIG, seed=0)
    expected = Progressive(rate=0.2).prune(net, Masks.dense(net), batch=(x, y))
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    none = FitConfig(epochs=0)
    log = fit(net, x, y, none, seed=0, pruner=Lottery(), initial=first)
    assert log.masks.digest() == expected.digest()
    for name, value in net.named_parameters():  # the running statistics are those of these weights on the data
        assert torch.equal(value, first[name] * expected[name] if name in expected else first[name]), name
    assert any(not torch.equal(trained[name], first[name]) for name in first)
    with pytest.raises(InputError, match=r"initial.*known"):
        fit(net, x, y, none, seed=0, pruner=Lottery())


def test_snip_as_published_prunes_the_untrained_network():
    net, first = network(1), network(0).state_dict()
    pruner = OneShot(sparsity=0.9, criterion="snip", allocation="global", start="scratch")
    masks = fit(net, *samples(), FitConfig(epochs=0), seed=0, pruner=pruner, initial=first).masks
    untrained = network(0)
    direct = fit(untrained, *samples(), FitConfig(epochs=0), seed=0, pruner=OneShot(sparsity=0.9, criterion="snip", allocation="global"))
    assert masks.digest() == direct.masks.digest()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), untrained.parameters(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 4),
    more=st.integers(0, 4),
    shape=st.sampled_from([(3, 8), (2, 7), (4, 5, 3, 3), (2, 1, 3, 3)]),
)
def test_of_every_m_neighbours_the_n_best_stay(seed, n, more, shape):
    m, draw = n + more, generator(seed, "n of m")
    scores, mask = torch.randint(4, shape, generator=draw).float(), torch.rand(shape, generator=draw) < 0.8
    found = best_of(scores, mask, n, m).movedim(1, -1).reshape(-1, shape[1])
    for kept, score, alive in zip(
        found, scores.movedim(1, -1).reshape(-1, shape[1]), mask.movedim(1, -1).reshape(-1, shape[1]), strict=True
    ):
        for start in range(0, shape[1], m):
            group = range(start, min(start + m, shape[1]))
            order = sorted((i for i in group if alive[i]), key=lambda i: (-float(score[i]), -i))
            assert {i for i in group if kept[i]} == set(order[:n])


def test_groups_lie_along_the_inputs_and_do_not_move_while_fine_tuning():
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 2), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.Flatten(), nn.Linear(5 * 9, 3))
    x, y = torch.rand(16, 4, 3, 3, generator=generator(0, "x")), torch.arange(16) % 3
    told = training(net, 0)
    first = {name: mask.clone() for name, mask in NofM().begin(told).masks.items()}
    assert int(first["0.weight"].sum(0).max()) == int(first["0.weight"].sum(0).min()) == 2
    conv = first["2.weight"]
    assert (conv[:, :4].sum(1) == 2).all()
    assert conv[:, 4:].all(), "a rest of two keeps two"
    masks = fit(net, x, y, CONFIG, seed=0, pruner=Dense(), masks=Masks(first)).masks
    assert all(torch.equal(masks[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"name": "one-shot", "sparsity": 1}, "sparsity"),
        ({"name": "one-shot", "sparsity": True}, "sparsity"),
        ({"name": "one-shot", "start": "scratches"}, "start"),
        ({"name": "cubic", "every": 0}, "every"),
        ({"name": "cubic", "until": 0}, "until"),
        ({"name": "cubic", "allocation": "erkk"}, "allocation"),
        ({"name": "cubic", "criterion": {"name": "taylor", "batch": 0}}, "batch"),
        ({"name": "lottery", "rate": 1.0}, "rate"),
        ({"name": "n-of-m", "pattern": "4:2"}, "pattern"),
        ({"name": "n-of-m", "pattern": "0:4"}, "pattern"),
        ({"name": "n-of-m", "pattern": 124}, "pattern"),
        ({"name": "surgery", "c": "much"}, "c"),
        ({"name": "surgery", "c": {"1.weight": None}}, "c.1.weight"),
        ({"name": "surgery", "gamma": -1}, "gamma"),
        ({"name": "surgery-target", "sparsity": float("nan")}, "sparsity"),
        ({"name": "rigl", "drop": 1.5}, "drop"),
        ({"name": "set", "drop": -0.1}, "drop"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_name(config, field):
    with pytest.raises(InputError) as caught:
        PRUNERS.make(config)
    assert str(caught.value).startswith(field) or f".{field}" in str(caught.value)
