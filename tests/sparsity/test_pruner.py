"""The protocol of pruners inside a training: what they are told, when they are called, what an optimizer forgets."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.sparsity import CRITERIA, PRUNERS, Dense, Dynamics, Masks, Progressive, Pruner, Static, forget
from isogrid.training import FitConfig, OptimizerConfig, fit

OWN = Path(__file__).with_name("own.py")
CONFIG = FitConfig(epochs=3, batch_size=16, optimizer=OptimizerConfig(lr=0.05))


def problem(n=40):
    g = generator(0, "problem")
    x = torch.rand(n, 6, generator=g)
    return x, (x @ torch.randn(6, 3, generator=g)).argmax(1)


def network(*extra):
    net = nn.Sequential(nn.Linear(6, 8), *extra, nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=generator(1, "init", i)))
    return net


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted(Pruner):
    """Begins what it is given."""

    name: ClassVar[str] = "scripted"
    relation: ClassVar[str] = "chain"

    make: Any
    told: list = field(default_factory=list)

    def begin(self, training):
        self.told.append(training)
        return self.make(training)


class Diary(Static):
    def __init__(self, training):
        super().__init__(training.model, training.masks)
        self.lines = []

    def before_forward(self, step):
        self.lines.append(("before_forward", step))

    def after_backward(self, step):
        self.lines.append(("after_backward", step))

    def after_step(self, step):
        self.lines.append(("after_step", step))

    def finish(self):
        self.lines.append(("finish",))
        return super().finish()


def test_hooks_come_in_order_at_every_step():
    diaries = []
    pruner = Scripted(make=lambda training: diaries.append(Diary(training)) or diaries[-1])
    fit(network(), *problem(), CONFIG, seed=0, pruner=pruner)
    steps = [(hook, step) for step in range(9) for hook in ("before_forward", "after_backward", "after_step")]
    assert diaries[0].lines == [*steps, ("finish",)]
    assert pruner.told[0].steps == 9


def test_gradients_and_weights_are_what_the_hooks_say():
    net, seen = network(), {}

    class Looks(Dynamics):
        masks = Masks.dense(net)

        def before_forward(self, step):
            seen["grads before"] = [p.grad for p in net.parameters()]
            seen["before"] = net[0].weight.detach().clone()

        def after_backward(self, step):
            seen["grad"] = net[0].weight.grad.clone()
            seen["same"] = torch.equal(seen["before"], net[0].weight)

        def after_step(self, step):
            seen["moved"] = not torch.equal(seen["before"], net[0].weight)

    fit(net, *problem(), FitConfig(epochs=1, batch_size=40), seed=0, pruner=Scripted(make=lambda _: Looks()))
    assert seen["same"]
    assert seen["moved"]
    assert seen["grad"].any()


def test_hooks_that_a_dynamics_does_not_write_are_not_called(monkeypatch):
    def forbidden(self, step):
        raise AssertionError("called")

    quiet = Dynamics()
    quiet.masks = Masks.dense(network())
    for name in ("before_forward", "after_backward", "after_step"):
        monkeypatch.setattr(Dynamics, name, forbidden)
    fit(network(), *problem(), CONFIG, seed=0, pruner=Scripted(make=lambda _: quiet))


def test_a_pruner_is_told_the_parent_and_samples_to_score_on():
    net = network()
    masks = Progressive(rate=0.5).prune(net, Masks.dense(net))
    state = {"counter": torch.tensor(3)}
    pruner = Scripted(make=lambda training: Static(training.model, training.masks))
    x, y = problem()
    backwards = Masks(dict(reversed(list(masks.items()))))
    log = fit(net, x, y, CONFIG, seed=4, purpose=("level", 2), pruner=pruner, masks=backwards, state=state)
    (told,) = pruner.told
    assert told.model is net
    assert list(told.masks) == ["0.weight", "2.weight"], "in the order of the model, which storage does not keep"
    assert told.masks.digest() == masks.digest() == log.masks.digest()
    assert torch.equal(told.state["counter"], state["counter"])
    assert log.state == {}
    rows = [int((x == sample).all(1).nonzero()) for sample in told.batch[0]]
    assert sorted(rows) == list(range(40)), "all samples, each once, where there are fewer than 512"
    assert rows != sorted(rows)
    assert torch.equal(told.batch[1], y[rows])
    torch.testing.assert_close(told.loss(net, x, y), nn.functional.cross_entropy(net(x), y))
    draws = [torch.rand(2, generator=told.generator(*purpose)) for purpose in (("a",), ("a",), ("b",))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_at_most_512_samples_are_scored_on_and_other_seeds_draw_others():
    found = []
    for seed in (0, 0, 1):
        pruner = Scripted(make=lambda training: Static(training.model, training.masks))
        fit(network(), *problem(600), FitConfig(epochs=0), seed=seed, pruner=pruner)
        found.append(pruner.told[0].batch[0])
    assert found[0].shape == (512, 6)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_scoring_by_gradients_is_a_plain_loops_and_moves_nothing():
    net = network(nn.BatchNorm1d(8), nn.Dropout(0.5))
    before = copy.deepcopy(net.state_dict())
    scores = []

    def begin(training):
        scores.append(training.score(CRITERIA.make(f"{OWN}:Taylor")))
        again = training.score(CRITERIA.make(f"{OWN}:Taylor"))
        assert all(torch.equal(again[name], score) for name, score in scores[0].items())
        assert training.model.training
        assert all(p.grad is None for p in training.model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
        return Static(training.model, training.masks)

    pruner = Scripted(make=begin)
    fit(net, *problem(), FitConfig(epochs=0), seed=0, pruner=pruner)
    plain = network(nn.BatchNorm1d(8))

    def without_dropout(training):
        scores.append(training.score(CRITERIA.make(f"{OWN}:Taylor")))
        return Static(training.model, training.masks)

    fit(plain, *problem(), FitConfig(epochs=0), seed=0, pruner=Scripted(make=without_dropout))
    mine = network(nn.BatchNorm1d(8)).train()
    nn.functional.cross_entropy(mine(problem()[0]), problem()[1]).backward()
    for name, p in mine.named_parameters():
        torch.testing.assert_close(scores[1][name], (p * p.grad).abs().detach(), atol=1e-6, rtol=1e-4)


def test_a_gradient_criterion_prunes_in_fit_and_by_hand():
    settings = {"name": "progressive", "rate": 0.5, "criterion": {"name": f"{OWN}:Taylor", "power": 2.0}}
    pruner = PRUNERS.make(settings)
    net, (x, y) = network(), problem()
    masks = pruner.prune(net, Masks.dense(net), batch=(x, y), loss=lambda m, x, y: nn.functional.cross_entropy(m(x), y))
    assert fit(net, x, y, FitConfig(epochs=0), seed=0, pruner=pruner).masks.digest() == masks.digest()
    magnitude = Progressive(rate=0.5).prune(network(), Masks.dense(net))
    assert magnitude.digest() != masks.digest()
    with pytest.raises(InputError, match="batch, loss"):
        pruner.prune(net, Masks.dense(net))


def test_progressive_in_fit_is_a_round_by_hand_and_then_fixed_masks():
    chain, by_hand = network(), network()
    x, y = problem()
    log, masks = None, Masks.dense(by_hand)
    for level in range(1, 4):
        given = {} if log is None else {"masks": log.masks, "state": log.state}
        log = fit(chain, x, y, CONFIG, seed=0, purpose=(level,), pruner=Progressive(), **given)
        masks = Progressive().prune(by_hand, masks)
        fit(by_hand, x, y, CONFIG, seed=0, purpose=(level,), masks=masks)
        assert log.masks.digest() == masks.digest()
        assert all(torch.equal(a, b) for a, b in zip(chain.parameters(), by_hand.parameters(), strict=True))


def test_dense_is_training_without_a_pruner():
    nets = [network(), network()]
    logs = [fit(net, *problem(), CONFIG, seed=0, pruner=pruner) for net, pruner in zip(nets, (Dense(), None), strict=True)]
    assert logs[0].losses == logs[1].losses
    assert logs[0].masks.sparsity == logs[1].masks.sparsity == 0.0
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "isogrid's": lambda p: OptimizerConfig().build(list(p)),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "without a state": lambda p: torch.optim.SGD(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_forgets_weights_that_die_or_are_born_and_no_other(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    x, y = problem()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    before = Progressive(rate=0.5).prune(net, Masks.dense(net))
    after = Masks({key: mask.clone() for key, mask in before.items()})
    after["0.weight"][0] ^= True
    remembered = {p: {k: v.clone() for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)} for p in net.parameters()}
    forget(optimizer, net, before, after)
    for p in net.parameters():
        for key, old in remembered[p].items():
            new = optimizer.state[p][key]
            if p is net[0].weight and old.shape == p.shape:
                assert not new[0].any(), key
                assert torch.equal(new[1:], old[1:]), key
            else:
                assert torch.equal(new, old), key


def test_a_weight_that_comes_back_does_not_move_by_its_old_momentum():
    net = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    dead = Masks({"weight": torch.tensor([[False, True]])})
    dead.apply(net)
    forget(optimizer, net, Masks.dense(net), dead)
    forget(optimizer, net, dead, Masks.dense(net))
    net.weight.grad.zero_()
    optimizer.step()
    assert net.weight[0, 0] == 0
    assert net.weight[0, 1] != 0
