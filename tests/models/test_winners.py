"""k-winners: exact counts, ties included, gradients of the winners alone, and an audit that says by itself what they do to gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.attacks import PGD
from isogrid.audit.model import examine_model
from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.data import load
from isogrid.models import KWinners, build, k_winners
from isogrid.models.winners import winners
from isogrid.sparsity import Masks, activation_sparsity, live_outputs
from isogrid.training import FitConfig, fit

VALUES = st.lists(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES, min_size=1, max_size=4), share=st.sampled_from([0.01, 0.25, 0.5, 1.0]))
def test_exactly_the_largest_stay_of_each_sample(rows, share):
    x = torch.tensor(rows).view(len(rows), 3, 2, 2).requires_grad_()
    count = max(1, round(share * 12))
    y = winners(x, share)
    assert ((y != 0).flatten(1).sum(1) == count).all()  # no value is 0
    for row, out in zip(rows, y.flatten(1).tolist(), strict=True):
        assert sorted((v for v in out if v), reverse=True) == sorted(row, reverse=True)[:count]
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).float())


def test_a_sample_does_not_depend_on_its_neighbours_or_on_the_layout_of_memory():
    x = torch.randn(5, 4, 6, 6, generator=generator(0, "winners"))
    whole = winners(x, 0.2)
    assert torch.equal(whole, torch.cat([winners(row, 0.2) for row in x.split(1)]))
    assert torch.equal(whole, winners(x.to(memory_format=torch.channels_last), 0.2))


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "vgg-like(width=0.125)", "resnet-32(width=0.25)"])
def test_every_built_in_network_takes_it_with_the_same_weights(name):
    inside = name.replace(")", ",winners=0.1)") if ")" in name else f"{name}(winners=0.1)"
    plain, sparse = build(name, (3, 32, 32), 4, seed=5), build(inside, (3, 32, 32), 4, seed=5)
    assert not any(isinstance(module, nn.ReLU) for module in sparse.modules())
    assert sum(isinstance(module, KWinners) for module in sparse.modules()) == sum(isinstance(m, nn.ReLU) for m in plain.modules())
    assert all(torch.equal(value, sparse.state_dict()[key]) for key, value in plain.state_dict().items())


def test_its_zeros_are_measured():
    net, x = build("lenet-300-100(winners=0.1)", (1, 8, 8), 4), torch.rand(6, 1, 8, 8, generator=generator(0, "zeros"))
    found = activation_sparsity(net, x)
    assert found.units == (1800, 600)
    assert found.zeros == (1620, 540)


def test_it_takes_the_place_of_modules_in_ones_own_network():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), nn.Linear(8, 2))
    assert k_winners(net, 0.5) is net
    assert isinstance(net[1], KWinners)
    assert isinstance(net[2][1], KWinners)
    for share in (0, 1.5, True, "half"):
        with pytest.raises(InputError, match="winners"):
            k_winners(net, share)
    with pytest.raises(InputError, match=r"torch\.nn\.ReLU"):
        k_winners(nn.Linear(2, 2), 0.5)


def test_a_dead_class_is_still_found():
    net = build("lenet-300-100(winners=0.2)", (1, 8, 8), 4)
    masks = Masks.dense(net)
    masks["5.weight"][1] = False
    masks.apply(net)
    assert live_outputs(net, torch.rand(3, 1, 8, 8, generator=generator(0, "live"))).tolist() == [True, False, True, True]


@pytest.mark.slow
def test_the_audit_says_by_itself_that_it_masks_gradients():
    """What PGD leaves standing at 10 % winners a gradient-free attack breaks; on the same network with ReLUs nothing is found."""
    split = load("mnist-5k", test=200)
    codes = []
    for name in ("lenet-300-100(winners=0.1)", "lenet-300-100"):
        net = build(name, split.train.shape, 10, seed=0)
        fit(net, split.train.x, split.train.y, FitConfig(epochs=15), seed=0)
        found = examine_model(net, split.test.x, split.test.y, [PGD(eps=0.1)], samples=200)
        codes.append({finding.code for finding in found.findings if finding.severity == "error"})
    assert codes == [{"IG005"}, set()]
