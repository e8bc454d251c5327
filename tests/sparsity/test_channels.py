"""Whole channels and neurons: the smaller network is the masked one, what is removed, how near to the target, what is left whole."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.core.errors import InputError, ModelError
from isogrid.models import build
from isogrid.sparsity import Channels, Masks, compact, prunable, structures
from isogrid.testing.pruner_bench import models, train
from tests.sparsity import networks
from tests.sparsity.bench import network, samples, training

REMOVABLE = {
    *("tanh", "sigmoid", "relu6", "gelu", "silu", "softsign", "dropout", "instance norm", "batch norm", "batch norm without statistics"),
    *("batch norm on a table", "max pool", "average pool", "transposed", "residual", "a constant column", "encoder layer"),
    *("float16 inside", "bfloat16 inside", "autocast", "float64 inside", "1-D convolution", "3-D convolution"),
}
DIGITS, PHOTOS = (1, 28, 28), (3, 32, 32)


def lively(net, x):
    """Other biases, batch-norm shifts and statistics than the first ones: a dead channel gives a constant that is not 0."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for p in net.parameters():
            if p.dim() == 1:
                p.add_(torch.rand(p.shape).to(p.dtype) / 2)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.train()
        for _ in range(5):
            net(x)
    return net.eval()


def told(net, x, masks=None):
    """What `fit` would tell a pruner, on these samples."""
    found = training(net, 1, masks=masks)
    return type(found)(**{name: getattr(found, name) for name in found.__slots__} | {"batch": (x, torch.zeros(len(x), dtype=torch.long))})


def weights(net):
    return sum(p.numel() for p in prunable(net).values())


def zoo(name):
    shape = DIGITS if name.startswith("lenet") else PHOTOS
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    return lively(build(name, shape, 10, 0), x), x


class Block(nn.Module):
    """A residual stream that three layers write, with batch-norm, then convolution -> flatten -> linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.bn1, self.b, self.bn2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
        self.depthwise, self.skip = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(1, 6, 1)
        self.fc1, self.fc2 = nn.Linear(6 * 9, 7), nn.Linear(7, 4)

    def forward(self, x):
        h = torch.relu(self.bn0(self.stem(x)))
        h = torch.relu(h + self.bn2(self.b(torch.relu(self.bn1(self.a(h))))) + self.skip(x))
        h = nn.functional.max_pool2d(torch.relu(self.depthwise(h)), 2)
        return self.fc2(torch.relu(self.fc1(h.flatten(1))))


def block():
    torch.manual_seed(3)
    x = torch.rand(8, 1, 6, 6)
    return lively(Block(), x), x


@pytest.mark.parametrize("allocation", ["layer", "global"])
@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "vgg-like(width=0.125)", "resnet-32(width=0.5)", "block", *sorted(REMOVABLE)])
def test_the_smaller_network_is_the_masked_one(name, allocation):
    if name in networks.NETWORKS:
        net, x = networks.build(name)
        net = lively(net, x)
    else:
        net, x = block() if name == "block" else zoo(name)
    dense = weights(net)
    masks = Channels(sparsity=0.4, allocation=allocation).begin(told(net, x)).masks
    lively(net, x)
    keys = list(net.state_dict())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    small = compact(net, x)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert list(small.state_dict()) == keys
    assert weights(small) == masks.kept <= int(0.6 * dense + 0.5)
    with torch.no_grad():
        z, found = net(x), small(x)
    assert (z - z[:1]).abs().max() > 1e-3 * z.abs().max()
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-5 * float(z.abs().max()))
    assert type(small) is type(net)
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert all(p.requires_grad for p in small.parameters())


def test_after_training_too_where_the_masks_have_held():
    for net in models():
        masks = train(Channels(sparsity=0.6), net).masks
        x = torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        small = compact(net, x)
        assert weights(small) == masks.kept
        torch.testing.assert_close(small.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(networks.NETWORKS) - REMOVABLE))
def test_what_cannot_be_made_smaller_is_left_whole(name):
    net, x = networks.build(name)
    assert structures(net, x) == []
    with pytest.raises(ModelError, match="no channel or neuron"):
        Channels().begin(told(net, x))


def test_streams_with_padded_shortcuts_and_k_winners_are_left_whole():
    net, x = zoo("resnet-32(width=0.5)")
    assert [group.root for group in structures(net, x)] == [f"{i}.conv1" for i in range(4, 19)]
    net, x = zoo("lenet-300-100(winners=0.1)")
    assert structures(net, x) == []


@pytest.mark.parametrize("factor", [0.0, 1e6])
@pytest.mark.parametrize("name", ["layer norm", "group norm", "own arithmetic", "batch norm", "residual", "tanh"])
def test_what_can_go_is_a_matter_of_the_code_and_not_of_the_weights(name, factor):
    net, x = networks.build(name)
    wanted = [(group.root, len(group)) for group in structures(net, x)]
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(factor)
    assert [(group.root, len(group)) for group in structures(net, x)] == wanted
    assert bool(wanted) == (name in REMOVABLE)


def test_a_stream_with_plain_shortcuts_goes_with_all_that_write_and_read_it():
    net, x = block()
    (stream,) = (group for group in structures(net, x) if len(group) == 6)
    assert {(place.name, place.axis, place.reads, place.index.shape[1]) for place in stream.places} == {
        *((name, 0, False, 1) for name in ("stem.weight", "b.weight", "skip.weight", "depthwise.weight")),
        ("a.weight", 1, True, 1),
        ("fc1.weight", 1, True, 9),
    }


def test_a_constant_that_is_read_stays():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[1:3] = 0.0
        net[0].bias[:] = torch.tensor([0.1, 2.0, 3.0, 0.2])
        net[2].weight[:, 2] = 0.0
    x = torch.rand(5, 3)
    small = compact(net, x)
    assert [tuple(p.shape) for p in small.parameters()] == [(3, 3), (3,), (2, 3), (2,)]
    assert small[0].bias.tolist() == pytest.approx([0.1, 2.0, 0.2])
    torch.testing.assert_close(small(x), net(x))


def test_what_only_an_unread_neuron_reads_is_unread_and_a_layer_keeps_one():
    net = network()
    with torch.no_grad():
        net[4].weight[:, 2:] = 0.0
        net[2].weight[:2, 3:] = 0.0
    small = compact(net, samples()[0])
    assert [tuple(p.shape) for p in small.parameters() if p.dim() > 1] == [(3, 12), (2, 3), (4, 2)]
    with torch.no_grad():
        net[4].weight[:] = 0.0
    small = compact(net, samples()[0])
    assert [tuple(p.shape) for p in small.parameters() if p.dim() > 1] == [(3, 12), (1, 3), (4, 1)]
    assert torch.equal(small(samples()[0]), net(samples()[0]))


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.9), st.sampled_from(["layer", "global"]), st.integers(0, 3))
def test_the_target_is_passed_by_less_than_one_structure(sparsity, allocation, seed):
    net, (x, _) = network(seed), samples()
    groups = structures(net, x)
    masks = Channels(sparsity=sparsity, allocation=allocation).begin(told(net, x)).masks
    wanted = int((1 - sparsity) * masks.total + 0.5)
    assert masks.kept <= wanted
    alive = [[bool(masks[g.places[0].name].index_select(0, row).any()) for row in g.places[0].index] for g in groups]
    revived = []
    for which, group in enumerate(groups):
        for c in (c for c, lives in enumerate(alive[which]) if not lives):
            again = {name: torch.ones_like(mask) for name, mask in masks.items()}
            for other, state in zip(groups, alive, strict=True):
                other.cut(again, torch.tensor([not lives and not (other is group and i == c) for i, lives in enumerate(state)]))
            revived.append(Masks(again).kept)
    assert not revived or max(revived) > wanted
    if allocation == "layer":
        gone = [sum(not lives for lives in each) / len(each) for each in alive]
        assert abs(gone[0] - gone[1]) <= max(1 / len(each) for each in alive)


def hand_made():
    """Four hidden neurons: l1 norms of what makes them 1, 3, 2, 2 (mean 2), of what reads them 4, 1, 1, 2 (mean 2)."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[1.0, 0.0], [1.0, -2.0], [-1.0, 1.0], [2.0, 0.0]])
        net[2].weight[:] = torch.tensor([[4.0, -1.0, 0.5, 1.0], [0.0, 0.0, 0.5, -1.0]])
    return net


@pytest.mark.parametrize(("sparsity", "alive"), [(0.25, [0, 1, 3]), (0.5, [0, 3]), (0.75, [0])])
def test_the_worst_go_first_worth_what_their_layers_say_on_average(sparsity, alive):
    net = hand_made()  # worth 1.25, 1.0, 0.75, 1.0: of equal ones the lower index goes first
    masks = Channels(sparsity=sparsity).begin(told(net, torch.rand(4, 2))).masks
    assert masks["0.weight"].any(1).nonzero().flatten().tolist() == alive
    assert torch.equal(masks["0.weight"], masks["0.weight"].any(1, keepdim=True).expand(4, 2))
    assert torch.equal(masks["2.weight"], masks["0.weight"].any(1).expand(2, 4))


def test_allocations_differ_as_they_say():
    net = network()
    with torch.no_grad():
        net[2].weight[:] = net[2].weight.sign()  # all neurons of the second layer alike, those of the first far apart
        net[0].weight[:8] *= 1e-3
        net[2].weight[:, :8] *= 1e-3
        net[4].weight[:] = net[4].weight.sign()
    x = samples()[0]
    left = {}
    for allocation in ("layer", "global"):
        masks = Channels(sparsity=0.4, allocation=allocation).begin(told(network_like(net), x)).masks
        left[allocation] = [int(masks[name].any(1).sum()) for name in ("0.weight", "2.weight")]
    assert left["global"] == [8, 8]
    assert left["layer"][1] < 8


def network_like(net):
    other = network()
    other.load_state_dict(net.state_dict())
    return other


def test_on_a_sparse_network_what_is_dead_stays_dead_and_every_class_keeps_a_weight():
    net, x = network(), samples()[0]
    masks = {name: torch.ones_like(mask) for name, mask in Masks.dense(net).items()}
    masks["4.weight"][:] = torch.eye(4, 8, dtype=torch.bool)  # each class reads a neuron of its own
    masks["2.weight"][2] = False
    masks["2.weight"][2, 5] = True
    found = Channels(sparsity=0.9).begin(told(net, x, Masks(masks))).masks
    assert not any(bool((found[name] & ~mask).any()) for name, mask in masks.items())
    assert torch.equal(found["4.weight"], masks["4.weight"])
    assert bool(found["2.weight"][2, 5])


def test_weights_that_may_not_be_pruned_keep_their_channels():
    net, x = network(), samples()[0]
    masks = Channels(sparsity=0.6).begin(told(net, x, Masks.dense(net, exclude=["4.weight"]))).masks
    assert bool(masks["2.weight"].any(1).all())
    assert int(masks["0.weight"].any(1).sum()) < 16


def test_a_smaller_network_that_is_another_is_not_handed_out(monkeypatch):
    net, x = networks.build("layer norm")
    with torch.no_grad():
        net.head.weight[:, 4:] = 0.0
    monkeypatch.setattr("isogrid.sparsity.coupling._removable", lambda *_: True)
    with pytest.raises(ModelError, match="not the same network"):
        compact(net, x)


def test_without_the_extra_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    for call in (lambda: Channels().begin(told(network(), samples()[0])), lambda: compact(network(), samples()[0])):
        with pytest.raises(InputError, match=r"method channels: got no Torch-Pruning; accepted: .*isogrid\[structured\]"):
            call()
