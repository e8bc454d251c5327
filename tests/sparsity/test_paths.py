"""Outputs that are cut off: never claimed of one that can change, and found where the zeros of the weights say so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import build as build_model
from isogrid.sparsity import Masks, Progressive, activation_sparsity, compact, live_outputs, prunable, row_axes

from .networks import CLASSES, NETWORKS, Net, Own, build

IMAGE = torch.zeros(1, 1, 4, 4)


def test_live_outputs_follow_paths_not_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        net[1].weight[0] = 0  # hidden unit 0 sees nothing
        net[3].weight[0] = torch.tensor([1.0, 0.0, 0.0])  # class 0 sees hidden unit 0 only
    assert live_outputs(net, torch.zeros(1, 2, 3)).tolist() == [False, True, True]
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    before = copy.deepcopy(conv.state_dict())
    assert live_outputs(conv, torch.zeros(1, 1, 8, 8)).all()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), conv.state_dict().values(), strict=True))
    assert conv.training
    with torch.no_grad():
        conv[0].weight.zero_()
    assert not live_outputs(conv, torch.zeros(1, 1, 8, 8)).any()


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("form", ["two logits", "one column", "flat"])
def test_a_binary_model_lives_while_its_one_output_does(alive, form):
    if form == "two logits":
        net = build_model("linear", (1, 4, 4), 2, 0)
    else:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), *([nn.Flatten(0)] if form == "flat" else []))
    with torch.no_grad():
        for weight in prunable(net).values():
            weight.mul_(float(alive))
    assert live_outputs(net, IMAGE).tolist() == [alive, alive]


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_dense_network_never_collapses(name, same):
    net, x = build(name)
    x = x[:1].expand(8, *x.shape[1:]) if same else x  # equal samples show nothing by themselves
    keys, bits = list(net.state_dict()), copy.deepcopy(net.state_dict())
    net.train()
    state = torch.get_rng_state()
    assert live_outputs(net, x).all()
    assert net.training
    assert list(net.state_dict()) == keys
    assert all(torch.equal(bits[k], v) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_without_weights_has_collapsed_whatever_stands_before_it(name):
    net, x = build(name)
    with torch.no_grad():
        net.head.weight[2] = 0
    assert live_outputs(net, x).tolist() == [True, True, False, True]
    with torch.no_grad():
        net.head.weight.zero_()
    assert not live_outputs(net, x).any()


# 0 / 0, a way around every weight, or one operation that is not looked into
NEVER_CUT = ("weight norm", "spectral norm", "residual", "attention", "attention without weights", "encoder layer", "LSTM")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NEVER_CUT])
def test_a_network_without_any_weight_has_collapsed(name):
    net, x = build(name)
    masks = Masks.dense(net)
    dead = Masks({key: torch.zeros_like(mask) for key, mask in masks.items() if not key.startswith("head")})
    dead.apply(net)
    assert not live_outputs(net, x).any()


def reached(weights):
    """Which outputs of a plain MLP are connected to any input."""
    ways = torch.ones(weights[0].shape[1], dtype=torch.bool)
    for weight in weights:
        ways = ((weight != 0) & ways).any(1)
    return ways


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.floats(0.02, 0.6),
    activation=st.sampled_from([nn.ReLU(), nn.Tanh(), nn.GELU(), nn.Hardtanh(), nn.BatchNorm1d(5), nn.Identity()]),
)
def test_of_a_sparse_mlp_exactly_the_connected_outputs_live(seed, density, activation):
    draw = generator(seed, "paths")
    net = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 5), activation, nn.Linear(5, 4)).eval()
    weights = [net[i].weight for i in (0, 2, 4)]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=draw) * (torch.rand(weight.shape, generator=draw) < density))
    assert live_outputs(net, torch.zeros(1, 6)).tolist() == reached(weights).tolist()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "weight norm"])  # slices without a weight are 0 / 0
def test_what_is_called_dead_never_moves(name):
    net, x = build(name)
    draw = generator(0, "prune", name)
    for share in (0.5, 0.8, 0.95):
        sparse = copy.deepcopy(net)
        masks = Masks.dense(sparse)
        Masks({key: torch.rand(mask.shape, generator=draw) > share for key, mask in masks.items()}).apply(sparse)
        live = live_outputs(sparse, x[:1])
        with torch.no_grad():
            z = torch.cat([sparse(x * size) for size in (0.0, 1.0, 30.0, -5.0)])
        moved = (z - z[:1]).abs().amax(0) > 1e-4 * z.abs().amax()
        assert not (moved & ~live).any()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.a(x.flatten(1)) * (1.0 if x.sum() > 3 else 2.0),
        lambda m, x: m.a(x.flatten(1)) * x.sum().item(),
        lambda m, x: m.a(torch.ones(len(x), 16)) + torch.from_numpy(x.detach().numpy()).flatten(1).sum(1, keepdim=True),
        lambda m, x: m.a(torch.ones(len(x), 16))[torch.randperm(len(x))] + m.a(x.flatten(1)).sort(0).values,
        lambda m, x: torch.where(x.flatten(1)[:, :8] > 0.5, m.a(x.flatten(1)), 0.0),
        lambda m, x: m.e((x.flatten(1)[:, :8] * 3).long()).sum(2),
        lambda m, x: torch.fft.rfft(x.flatten(1)).real[:, :8],
        lambda m, x: m.a(torch.zeros(len(x), 16)).index_put((torch.arange(len(x)), torch.zeros(len(x)).long()), x.flatten(1)[:, 0]),
        lambda m, x: torch.sparse.mm(torch.eye(len(x)).to_sparse(), x.flatten(1))[:, :8],
        lambda m, x: torch.vmap(lambda v: v * 2)(x.flatten(1))[:, :8],
        lambda m, x: x.flatten(1)[:, :8].clone().transpose_(0, 1).t(),
        lambda m, x: torch.einsum("bi,ji->bj", x.flatten(1), m.a.weight),
    ],
)
def test_what_cannot_be_followed_is_no_collapse(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net(Own(function, a=nn.Linear(16, 8), e=nn.Embedding(9, 3)), 8).eval()
    assert live_outputs(net, torch.full((2, 1, 4, 4), 0.6)).all()
    with torch.no_grad():
        net.head.weight[1] = 0
    assert live_outputs(net, torch.full((2, 1, 4, 4), 0.6)).tolist()[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_layer_is_the_one_that_gives_the_classes(name):
    net, x = build(name)
    axes = row_axes(net, x)
    assert axes.pop("head.weight") == 0
    assert axes == ({"body.1.parametrizations.weight.original1": 0} if name == "weight norm" else {})


def test_the_output_layer_of_transposed_convolutions_own_parameters_and_sums():
    up = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ConvTranspose2d(3, CLASSES, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert row_axes(up, torch.rand(2, 1, 4, 4)) == {"1.weight": 1}
    own = Own(lambda m, x: m.a(x.flatten(1)).relu() @ m.w, a=nn.Linear(16, 8), w=nn.Parameter(torch.rand(8, CLASSES)))
    assert row_axes(own, torch.rand(2, 1, 4, 4)) == {"w": 1}
    two = Own(lambda m, x: m.a(x.flatten(1)) + m.b(x.flatten(1)), a=nn.Linear(16, 4), b=nn.Linear(16, 4))
    assert row_axes(two, torch.rand(2, 1, 4, 4)) == {"a.weight": 0, "b.weight": 0}
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert row_axes(tied, torch.rand(2, 4)) == {"0.weight": 0}


class Tied(nn.Module):
    """A head whose weight is used in a form of its own."""

    def __init__(self, use, shape) -> None:
        super().__init__()
        self.body, self.head, self.use = nn.Linear(16, 6), nn.Linear(*shape, bias=False), use

    def forward(self, x):
        return self.use(self.head.weight, torch.relu(self.body(x.flatten(1))))


@pytest.mark.parametrize("inputs", [6, CLASSES])
@pytest.mark.parametrize(
    ("use", "axis"),
    [
        (lambda w, h: h @ w, 1),
        (lambda w, h: torch.matmul(h, w), 1),
        (lambda w, h: torch.log_softmax(h @ w, 1), 1),
        (lambda w, h: torch.addmm(torch.ones(w.shape[1]), h, w), 1),
        (lambda w, h: torch.einsum("bi,ij->bj", h, w), 1),
        (lambda w, h: torch.bmm(h[:, None], w.expand(len(h), *w.shape)).squeeze(1), 1),
        (lambda w, h: (h.bfloat16() @ w.bfloat16()).float(), 1),
        (lambda w, h: (w.t() @ h.t()).t(), 1),
        (lambda w, h: F.linear(h, w.t()), 1),
        (lambda w, h: F.linear(h, w), 0),
        (lambda w, h: h @ w.t(), 0),
        (lambda w, h: (w @ h.t()).t() / 2 + 1, 0),
    ],
)
def test_the_classes_lie_along_the_axis_by_which_the_weight_is_used(use, axis, inputs):
    net = Tied(use, (CLASSES, inputs) if axis else (inputs, CLASSES)).eval()
    net.body = nn.Linear(16, inputs)
    x, masks = torch.rand(8, 1, 4, 4, generator=generator(0, "tied")), Masks.dense(net)
    assert row_axes(net, x) == {"head.weight": axis}
    for _ in range(12):
        masks = Progressive(rate=0.8).prune(net, masks, batch=(x, torch.zeros(8).long()))
        masks.apply(net)
    assert masks["head.weight"].any(1 - axis).all()


def test_without_samples_a_product_in_the_code_says_it_too():
    assert row_axes(Tied(lambda w, h: h @ w, (CLASSES, 6))) == {"head.weight": 1}
    assert row_axes(Tied(lambda w, h: h.mm(w), (CLASSES, 6))) == {"head.weight": 1}
    assert row_axes(Tied(lambda w, h: torch.mm(w, h.t()).t(), (6, CLASSES))) == {"head.weight": 0}


FOLLOWED = [n for n in NETWORKS if n not in ("own loop over a cell", "autocast", "in place", "a constant column")]


@pytest.mark.parametrize("name", FOLLOWED)
def test_without_samples_the_code_says_it(name):
    net, x = build(name)
    assert row_axes(net) == row_axes(net, x)


def test_where_code_cannot_be_followed_the_last_layer_is_taken():
    def function(m, x):
        return m.a(x.flatten(1)) if x.sum() > 0 else m.a(x.flatten(1)) * 2

    net = nn.Sequential(Own(function, a=nn.Linear(16, 8)), nn.Linear(8, 4))
    assert row_axes(net) == {"1.weight": 0} == row_axes(net, torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "weight norm"])
def test_progressive_keeps_every_class_wherever_its_layer_stands_and_whatever_the_order_of_masks(name):
    net, x = build(name)
    masks = Masks.dense(net)
    for _ in range(12):
        masks = Progressive(rate=0.8).prune(net, Masks(dict(sorted(masks.items()))), batch=(x, torch.zeros(8).long()))
        masks.apply(net)
    assert masks["head.weight"].any(1).all()
    assert int(masks["head.weight"].sum()) == CLASSES
    assert live_outputs(net, x).shape == (CLASSES,)


def test_weight_norm_keeps_a_weight_in_every_slice_and_so_never_divides_by_zero():
    net, x = build("weight norm")
    masks = Masks.dense(net)
    for _ in range(12):
        masks = Progressive(rate=0.8).prune(net, masks)
        masks.apply(net)
    assert masks["body.1.parametrizations.weight.original1"].any(1).all()
    assert torch.isfinite(net(x)).all()


@pytest.mark.parametrize("look", [live_outputs, row_axes, activation_sparsity, compact])
@pytest.mark.parametrize("x", [None, torch.zeros(0, 3), np.zeros((2, 3)), torch.tensor(1.0), [[1.0]]], ids=repr)
def test_what_is_no_samples_is_refused_in_one_line(look, x):
    if look is row_axes and x is None:
        assert row_axes(nn.Linear(3, 2), None) == {"weight": 0}
        return
    with pytest.raises(InputError, match=r"x: got .*accepted: a tensor of at least one sample"):
        look(nn.Linear(3, 2), x)


@pytest.mark.parametrize("look", [live_outputs, row_axes, activation_sparsity])
def test_what_is_no_module_is_refused_in_one_line(look):
    with pytest.raises(InputError, match=r"model: got a function; accepted: a torch.nn.Module"):
        look(lambda x: x, torch.rand(2, 3))
