"""What counts as a weight: of which layers, under which names, through which wrappers, and what is refused with the layer's name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.sparsity import Dense, Masks, Progressive, counted_share, enforce, prunable
from isogrid.training import FitConfig, OptimizerConfig, fit

from .networks import NETWORKS, build


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.Linear(4, 3), ["weight"]),
        (nn.Bilinear(4, 3, 2), ["weight"]),
        (nn.Conv1d(2, 3, 2), ["weight"]),
        (nn.Conv3d(2, 3, 2), ["weight"]),
        (nn.ConvTranspose1d(2, 3, 2), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 2), ["weight"]),
        (nn.ConvTranspose3d(2, 3, 2), ["weight"]),
        (nn.LSTM(3, 2, 2), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]),
        (nn.LSTM(3, 4, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (nn.GRU(3, 2, bidirectional=True), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"]),
        (nn.RNN(3, 2), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.LSTMCell(3, 2), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.MultiheadAttention(4, 2, kdim=3, vdim=2), ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]),
        (parametrizations.weight_norm(nn.Linear(4, 3)), ["parametrizations.weight.original1"]),
        (parametrizations.spectral_norm(nn.Linear(4, 3)), ["parametrizations.weight.original"]),
        (nn.utils.spectral_norm(nn.Linear(4, 3)), ["weight_orig"]),
        (nn.Embedding(4, 3), []),
        (nn.BatchNorm2d(3), []),
        (nn.LayerNorm((3, 2)), []),
    ],
)
def test_the_weights_of_each_kind_of_layer(layer, names):
    found = prunable(layer)
    assert list(found) == names
    assert all(found[name] is layer.get_parameter(name) for name in names)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_the_older_weight_norm_counts_its_directions():
    assert list(prunable(nn.utils.weight_norm(nn.Linear(4, 3)))) == ["weight_v"]


def test_leaves_out_biases_and_counts_shared_weights_once():
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    assert list(prunable(net)) == ["0.weight", "3.weight", "5.weight"]
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert list(prunable(tied)) == ["0.weight"]


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.place = nn.Embedding(10, 4), nn.Parameter(torch.rand(3, 4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.words(x) + self.place)


def test_patterns_bring_parameters_in_and_leave_layers_out():
    net = Own()
    assert list(prunable(net)) == ["fc.weight"]
    assert list(prunable(net, include=["pl*"])) == ["place", "fc.weight"]
    assert list(prunable(net, include=["*"], exclude=["fc.*"])) == ["place", "words.weight"]
    assert Masks.dense(net, include=["words.weight"]).total == 48
    assert Masks.of_zeros(net, exclude=["fc.weight"], include=["place"]).kept == 12
    with pytest.raises(InputError, match=r"include: got plase; accepted: .*did you mean place"):
        prunable(net, include=["plase"])
    with pytest.raises(InputError, match=r"exclude: got fd\.\*"):
        prunable(net, exclude=["fd.*"])


@pytest.mark.parametrize("patterns", ["bias", 3, [3]])
@pytest.mark.parametrize("field", ["include", "exclude"])
def test_patterns_come_in_a_list(field, patterns):
    with pytest.raises(InputError, match=rf"{field}: got (bias|3); accepted: a list of patterns"):
        Masks.dense(nn.Linear(3, 2), **{field: patterns})


def test_the_share_of_all_weights_that_sparsity_is_counted_over():
    net = Own()
    assert counted_share(net, prunable(net)) == 8 / 60
    assert counted_share(net, Masks.dense(net, include=["*"])) == 1.0
    assert counted_share(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)), {"0.weight": torch.ones(2, 5)}) == 1.0
    assert counted_share(nn.Sequential(nn.LSTM(3, 2), nn.Linear(2, 2)), {"1.weight": torch.ones(2, 2)}) == 4 / 44


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lazy, "1 is a lazy LazyLinear"),
        (
            lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3))),
            "weight of 0 has the parametrization _Orthogonal; accepted: weight_norm",
        ),
        (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), "weight of the model has the parametrization"),
    ],
)
def test_a_layer_that_cannot_be_pruned_is_named(make, said):
    with pytest.raises(ModelError, match=said):
        prunable(make())


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda net: torch.compile(net, backend="eager"),
    "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "the other way round": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_masks_of_a_model_hold_through_its_wrappers(wrapper):
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    masks = Progressive(rate=0.5).prune(net, Masks.dense(net))
    wrapped = WRAPPERS[wrapper](net)
    assert list(prunable(wrapped)) == list(masks)
    x, y = torch.rand(16, 8, generator=generator(0, "x")), torch.arange(16) % 2
    optimizer = torch.optim.Adam(wrapped.parameters(), 0.1, weight_decay=0.1)
    with enforce(masks, wrapped, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            assert all(not net.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert Masks.of_zeros(wrapped).digest() == masks.digest()


def test_a_layer_compiled_within_a_model_keeps_its_plain_name():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    names = list(prunable(net))
    net[0] = torch.compile(net[0], backend="eager")
    assert list(prunable(net)) == names
    Masks.dense(net).apply(net)


@pytest.mark.parametrize("optimizer", [OptimizerConfig(lr=0.02, weight_decay=1e-2), OptimizerConfig(name="adamw", lr=1e-2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_pruned_and_trained_with_dead_weights_at_zero(name, optimizer):
    net, x = build(name)
    x = torch.cat([x] * 3)
    y, log = torch.arange(len(x)) % 4, None
    dead = {}

    def look(module, _):
        assert all(not p[~dead[key]].any() for key, p in prunable(net).items() if key in dead)

    net.register_forward_pre_hook(look)
    config = FitConfig(epochs=2, batch_size=8, optimizer=optimizer)
    for level in range(3):
        masks = None if log is None else log.masks
        log = fit(net, x, y, config, seed=0, purpose=(level,), pruner=Progressive(rate=0.5) if level else Dense(), masks=masks)
        dead.update(log.masks)
        assert list(log.masks) == list(prunable(net))
    assert log.masks.sparsity == pytest.approx(0.75, abs=0.1)
    again = copy.deepcopy(net)
    assert torch.equal(again(x), net(x))


def test_magnitude_is_that_of_the_normalised_weight():
    plain = nn.Linear(6, 4)
    normed = nn.Linear(6, 4)
    with torch.no_grad():
        normed.weight.copy_(plain.weight)
        plain.weight[1] *= 100
    normed = parametrizations.weight_norm(normed)
    with torch.no_grad():
        normed.parametrizations.weight.original0[1] *= 100  # the same function as the plain layer
    assert torch.allclose(normed.weight, plain.weight)
    masks = [next(iter(Progressive(rate=0.4).prune(layer, Masks.dense(layer)).values())) for layer in (plain, normed)]
    assert torch.equal(*masks)


def test_removing_a_parametrization_keeps_the_zeros():
    net = parametrizations.weight_norm(nn.Linear(6, 4))
    masks = Progressive(rate=0.7).prune(net, Masks.dense(net))
    masks.apply(net)
    parametrize.remove_parametrizations(net, "weight")
    assert torch.equal(net.weight != 0, next(iter(masks.values())))
