"""Activation sparsity: every form of a ReLU is seen, nothing else is, and the shares are those counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from isogrid.core.random import generator
from isogrid.sparsity import activation_sparsity
from isogrid.sparsity.activations import BATCH, learns, watch_relus


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x + 0.0)


def zeros(x):
    return torch.zeros_like(x)


FORMS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.Hardtanh from 0": nn.Hardtanh(0, 9),
    "nn.Threshold at 0": nn.Threshold(0, 0),
    "functional.relu": functional.relu,
    "functional.relu in place": lambda x: functional.relu(x, inplace=True),
    "functional.relu by keyword": lambda x: functional.relu(input=x),
    "functional.relu6": functional.relu6,
    "functional.hardtanh": lambda x: functional.hardtanh(x, 0.0, 6.0),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "x.clamp(0)": lambda x: x.clamp(0),
    "x.clamp_(min=0)": lambda x: x.clamp_(min=0),
    "torch.clamp(input=x, min=0, max=9)": lambda x: torch.clamp(input=x, min=0, max=9),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "x.clip": lambda x: x.clip(0),
    "clamp to a tensor": lambda x: x.clamp(min=torch.zeros(3)),
    "torch.maximum": lambda x: torch.maximum(x, zeros(x)),
    "torch.maximum the other way": lambda x: torch.maximum(zeros(x), x),
    "torch.max of two": lambda x: torch.max(x, zeros(x)),
    "x.maximum": lambda x: x.maximum(torch.zeros(())),
}
OTHERS = {
    "leaky": functional.leaky_relu,
    "hardtanh": functional.hardtanh,
    "gelu": functional.gelu,
    "clamp to 1": lambda x: x.clamp(-1, 1),
    "clamp from above": lambda x: x.clamp(max=0),
    "threshold elsewhere": lambda x: functional.threshold(x, 0.1, 0),
    "largest of all": lambda x: x.max(),
    "largest along dimension 0": lambda x: x.max(0).values,
    "largest along a dimension by keyword": lambda x: torch.max(input=x, dim=1).values,
    "maximum of two": lambda x: torch.maximum(x, x + 1),
    "a trained bound": lambda x: torch.maximum(x, nn.Parameter(torch.zeros(3))),
}


def signed(n=7):
    return torch.randn(n, 3, generator=generator(0, "signed"))


@pytest.mark.parametrize("form", FORMS)
def test_a_relu_is_seen_in_every_form(form):
    found = activation_sparsity(Calls(FORMS[form]), signed())
    assert found is not None
    assert found.zeros == (int((signed() < 0).sum()),)
    assert found.units == (21,)


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_relu_is_not_counted(other):
    assert activation_sparsity(Calls(OTHERS[other]), signed()) is None


class Reused(nn.Module):
    """One ReLU module used twice, on different widths, and dropout and batch-norm that behave otherwise in training."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Linear(4, 2)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.dropout(self.relu(self.second(self.relu(self.norm(self.first(x)))))))


def test_each_use_of_a_relu_counts_for_itself_over_all_samples_in_eval_mode():
    net, x = Reused(), signed(2 * BATCH + 3)
    net(x)  # statistics of its own
    net.second.eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    found = activation_sparsity(net, x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert modes == [m.training for m in net.modules()]
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    net.eval()
    first = net.relu(net.norm(net.first(x)))
    second = net.relu(net.second(first))
    assert found.zeros == (int((first == 0).sum()), int((second == 0).sum()))
    assert found.units == (len(x) * 8, len(x) * 4)
    assert found.shares == (found.zeros[0] / found.units[0], found.zeros[1] / found.units[1])
    assert found.last == found.shares[1]
    assert found.total == sum(found.zeros) / (12 * len(x))


def test_a_pass_that_raises_ends_the_watch():
    seen = []

    def fails(x):
        raise RuntimeError("no")

    net = nn.Sequential(nn.Linear(3, 3), Calls(fails))
    with watch_relus(net, seen.append, when=learns), pytest.raises(RuntimeError, match="no"):
        net(signed())
    with watch_relus(net, seen.append, when=learns):
        torch.relu(signed())
    assert not seen


def test_only_passes_that_parameters_learn_from_are_watched_where_that_is_asked_for():
    net, seen = Reused(), []
    with watch_relus(net, seen.append, when=learns):
        with torch.no_grad():
            net(signed())
        net.requires_grad_(False)(signed().requires_grad_())
        assert not seen
        net.requires_grad_(True).eval()(signed())
    assert len(seen) == 2
