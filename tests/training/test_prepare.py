"""What fit takes and what it refuses: arguments of wrong kinds, one logit, layers that need a sample, a batch or an order in memory."""

from __future__ import annotations

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from isogrid.core.errors import IsogridError, ModelError
from isogrid.core.random import generator
from isogrid.sparsity import Criterion, Masks, Progressive
from isogrid.training import FitConfig, OptimizerConfig, fit
from isogrid.training.layout import channels_last

PLAIN = OptimizerConfig(lr=0.1, momentum=0.0, nesterov=False)


def images(n=24, side=6, classes=3):
    draw = generator(0, "images")
    return torch.rand(n, 1, side, side, generator=draw), torch.randint(0, classes, (n,), generator=draw)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def train(model, x, y, **config):
    return fit(model, x, y, FitConfig(**({"epochs": 2, "batch_size": 8, "optimizer": PLAIN} | config)), seed=0)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("ending", ["column", "flat"])
def test_one_logit_is_trained_with_the_softplus_loss(ending):
    x, y = images(classes=2)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 1)))
    by_hand = copy.deepcopy(model)
    model = nn.Sequential(model, nn.Flatten(0)) if ending == "flat" else model
    log = train(model, x, y, epochs=1, batch_size=24, schedule="constant")
    z = by_hand(x).squeeze(1)
    loss = torch.where(y == 0, F.softplus(z), F.softplus(-z)).mean()
    loss.backward()
    with torch.no_grad():
        for p in by_hand.parameters():
            p -= 0.1 * p.grad
    assert log.losses[0] == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(flat(model), flat(by_hand))


class Gradient(Criterion):
    name = "gradient"

    def score(self, model, batch, loss):
        names, weights = zip(*model.named_parameters(), strict=True)
        return dict(zip(names, (g.abs() for g in torch.autograd.grad(loss(model, *batch), weights)), strict=True))


def test_one_logit_is_scored_with_the_same_loss(monkeypatch):
    from isogrid.sparsity import CRITERIA

    monkeypatch.setitem(CRITERIA._rows, "gradient", Gradient)
    x, y = images(classes=2)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 1)))
    log = fit(model, x, y, FitConfig(epochs=1), seed=0, pruner=Progressive(rate=0.5, criterion="gradient"))
    assert log.masks.kept == 18


@pytest.mark.parametrize("n", [17, 33, 2, 16])
@pytest.mark.parametrize("norm", [True, False])
def test_a_rest_of_one_joins_the_last_batch_only_where_it_must(n, norm):
    x, y = images(n)
    sizes = []
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Linear(8, 3)))
    model.train().register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])) if torch.is_grad_enabled() else None)
    log = train(model, x, y, epochs=1, batch_size=8)
    plain = [8] * (n // 8) + ([n % 8] if n % 8 else [])
    joined = [*plain[:-2], 9] if n % 8 == 1 and n > 8 else plain
    assert sizes == (joined * 2 if norm else plain)  # twice: the batch-norm statistics of the final weights
    assert len(log.losses) == 1


def test_one_sample_that_cannot_be_normalised_is_one_line_with_the_layer():
    x, y = images(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"layer 2 \(BatchNorm1d\): ValueError: Expected more than 1 value.*train mode") as caught:
        train(model, x, y)
    assert "\n" not in str(caught.value)


class Viewing(nn.Module):
    def __init__(self, how="view"):
        super().__init__()
        self.a, self.b, self.fc, self.how = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1), nn.Linear(288, 3), how

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        if self.how == "storage":  # takes what lies in memory, in whichever order
            x = x.as_strided((len(x), 288), (288, 1))
        return self.fc(x.view(len(x), -1) if self.how == "view" else x.flatten(1))


@pytest.mark.parametrize("how", ["view", "storage"])
def test_what_cannot_work_in_channels_last_trains_as_a_plain_loop_does(how):
    x, y = images()
    model, flattening = seeded(lambda: Viewing(how)), seeded(lambda: Viewing("flatten"))
    strides = [p.stride() for p in model.parameters()]
    assert not channels_last(model, x)
    assert channels_last(flattening, x)
    assert [p.stride() for p in model.parameters()] == strides
    assert [p.stride() for p in flattening.parameters()] != strides
    logs = [train(m, x, y) for m in (model, flattening)]
    assert logs[0].losses == pytest.approx(logs[1].losses, rel=1e-4)
    torch.testing.assert_close(flat(model), flat(flattening), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.Dropout, nn.InstanceNorm2d])
def test_finding_the_order_moves_nothing(kind):
    x, _ = images()
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), kind(4) if kind is not nn.Dropout else kind(0.5), nn.Flatten(), nn.Linear(64, 3))
    ).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert channels_last(model, x)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_other_inputs_and_compiled_models_stay_as_they_are():
    assert not channels_last(nn.Linear(3, 2), torch.rand(4, 3))
    assert not channels_last(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), torch.rand(4, 1, 6, 6))
    assert not channels_last(nn.Sequential(torch.compile(nn.Conv2d(2, 3, 3), backend="eager"), nn.Flatten()), torch.rand(4, 2, 6, 6))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_get_weights_from_the_seed_and_train():
    x, y = images()
    state = torch.get_rng_state()
    nets = [nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)) for _ in range(2)]
    for net in nets:
        log = train(net, x, y)
        assert log.masks.total == 36 + 64 * 3
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    assert torch.equal(state, torch.get_rng_state())
    assert not any("Lazy" in type(module).__name__ for module in nets[0].modules())


class Modes(nn.Module):
    """Other outputs in training than in evaluation."""

    def __init__(self, training):
        super().__init__()
        self.fc, self.script = nn.Linear(36, 3), training

    def forward(self, x):
        z = self.fc(x.flatten(1))
        return self.script(z) if self.training else z


def raising(z):
    raise KeyError("two\nlines")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda z: (z, z), r"gave tuple; accepted: .*in train mode"),
        (lambda z: {"logits": z}, r"gave dict; accepted: .*in train mode"),
        (lambda z: z.sum(), r"shape \(\); accepted: .*in train mode"),
        (lambda z: z[:, :2], r"y: got labels from 0 to 2; accepted: 0 to 1"),
        (lambda z: z * torch.nan, "NaN.*in train mode"),
        (raising, r"a pass in train mode failed in layer 0 \(Modes\): KeyError: 'two\\nlines'"),
        (lambda z: z.detach(), "does not require grad"),
    ],
)
def test_outputs_that_differ_in_training_are_one_line(script, said):
    model = nn.Sequential(Modes(script))
    with pytest.raises(IsogridError, match=said) as caught:
        train(model, *images())
    assert "\n" not in str(caught.value)


def test_a_model_with_nothing_to_train_is_one_line():
    model = nn.Linear(4, 2).requires_grad_(False)
    with pytest.raises(ModelError, match="nothing to train"):
        train(model, torch.rand(6, 4), torch.zeros(6).long())
    with pytest.raises(ModelError, match="nothing to train"):
        train(nn.Flatten(), torch.rand(6, 4), torch.zeros(6).long())


X, Y = torch.rand(6, 4), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "net"}, "model: got net"),
        ({"model": lambda x: x}, "model: got function"),
        ({"x": X.numpy()}, "x: got ndarray"),
        ({"x": X[:0], "y": Y[:0]}, "x: got 0 samples"),
        ({"x": X.long()}, "x: got torch.int64"),
        ({"x": X.half()}, "x: got torch.float16"),
        ({"x": X.clone().fill_(torch.nan)}, "x: got NaN"),
        ({"x": X[:, :3]}, r"layer|forward|failed"),
        ({"y": Y[:5]}, r"y: got torch.int64 of shape \(5,\)"),
        ({"y": Y[:, None]}, "y: got"),
        ({"y": Y.float()}, "y: got torch.float32"),
        ({"y": Y.tolist()}, "y: got list"),
        ({"y": Y - 1}, "labels from -1 to 0"),
        ({"y": Y + 1}, "labels from 1 to 2"),
        ({"masks": Masks({"nope": torch.ones(2, 4, dtype=torch.bool)})}, "masks: got nope"),
        ({"config": {"epochs": 1}}, "config: got dict"),
        ({"seed": "a"}, "seed: got a"),
        ({"pruner": "progressive"}, "pruner: got progressive; accepted: .*PRUNERS"),
        ({"masks": {"weight": torch.ones(2, 4)}}, "masks: got dict"),
    ],
)
def test_unusable_arguments_are_one_line(change, said):
    arguments = {"model": nn.Linear(4, 2), "x": X, "y": Y, "config": FitConfig(epochs=1), "seed": 0} | change
    with pytest.raises(IsogridError, match=said) as caught:
        fit(arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), arguments.pop("config"), **arguments)
    assert "\n" not in str(caught.value)


def test_labels_of_any_integer_type_are_taken():
    nets = [seeded(lambda: nn.Linear(4, 2)) for _ in range(3)]
    for net, kind in zip(nets, (torch.int64, torch.int32, torch.uint8), strict=True):
        train(net, X, Y.to(kind))
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    assert torch.equal(flat(nets[0]), flat(nets[2]))


ANYTHING = st.one_of(
    st.none(),
    st.integers(-2, 2),
    st.text(max_size=3),
    st.floats(),
    st.lists(st.integers(0, 3), max_size=3),
    st.builds(
        lambda shape, kind: torch.ones(shape).to(kind),
        st.lists(st.integers(0, 4), max_size=4),
        st.sampled_from(
            [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.complex64]
        ),
    ),
    st.just(nn.Linear(4, 2)),
    st.just(np.zeros((3, 4))),
)


@settings(max_examples=150, deadline=None)
@given(model=ANYTHING, x=ANYTHING, y=ANYTHING, right=st.sets(st.sampled_from(["model", "x", "y"])))
def test_whatever_is_given_ends_well_or_in_one_line(model, x, y, right):
    good = {"model": nn.Linear(4, 2), "x": X, "y": Y}
    chosen = {name: good[name] if name in right else value for name, value in {"model": model, "x": x, "y": y}.items()}
    with contextlib.suppress(IsogridError):
        fit(copy.deepcopy(chosen["model"]), chosen["x"], chosen["y"], FitConfig(epochs=1), seed=0)


class Drawing(nn.Module):
    """A network that draws from every global generator there is."""

    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(36, 3), nn.Dropout(0.5)

    def forward(self, x):
        h = self.drop(x.flatten(1))
        if self.training:
            h = h * (1 + random.random()) + float(np.random.rand())
        return self.fc(h)


def globals_now():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_what_a_model_draws_comes_from_the_seed_and_every_generator_is_put_back():
    x, y = images()
    found = []
    for run in range(3):
        torch.rand(run)
        np.random.rand(run)
        random.seed(run)
        model = seeded(Drawing)
        before = globals_now()
        log = fit(model, x, y, FitConfig(epochs=3, batch_size=8), seed=0, on_epoch=lambda *_, run=run: torch.rand(5 * run))
        assert globals_now() == before
        found.append((log.losses, flat(model).tolist()))
    assert found[0] == found[1] == found[2]
    other = seeded(Drawing)
    assert fit(other, x, y, FitConfig(epochs=3, batch_size=8), seed=1).losses != found[0][0]


def test_epochs_draw_anew():
    x, y = images(8)
    seen = []
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)))
    model[1].register_forward_hook(lambda module, args, out: seen.append((out != 0).sum().item()) if torch.is_grad_enabled() else None)
    train(model, x, y, epochs=6)
    assert len(set(seen)) > 1
