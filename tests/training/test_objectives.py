"""Objectives and penalties, built in and of a user's own: what they add, what they draw, and that they leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isogrid.attacks.driver.subject import frozen
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.core.targets import load_target
from isogrid.sparsity import Dense, Static, activation_sparsity, prunable
from isogrid.training import OBJECTIVES, PENALTIES, FitConfig, OptimizerConfig, fit

OWN = Path(__file__).with_name("own.py")
PLAIN = OptimizerConfig(lr=0.1, momentum=0.0, nesterov=False)


def problem(n=64):
    g = generator(0, "problem")
    x = torch.rand(n, 6, generator=g)
    return x, (x @ torch.randn(6, 3, generator=g)).argmax(1)


def network():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=generator(1, "init", i)))
    return net


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def train(seed=0, epochs=2, **settings):
    net = network()
    log = fit(net, *problem(), FitConfig(epochs=epochs, batch_size=16, **({"optimizer": PLAIN} | settings)), seed=seed)
    return net, log


def test_an_objective_of_ones_own_has_parameters_and_draws_per_seed_sample_and_step():
    seen = load_target("objective", f"{OWN}:Noisy").seen
    del seen[:]
    config = {"name": f"{OWN}:Noisy", "sigma": 0.3}
    nets = [train(seed, objective=config)[0] for seed in (0, 0, 1)]
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    assert not torch.equal(flat(nets[0]), flat(nets[2]))
    assert not torch.equal(flat(nets[0]), flat(train(objective=f"{OWN}:Noisy")[0])), "sigma has no effect"
    first = seen[:8]  # two epochs of four steps
    assert all(torch.equal(a, b) and torch.equal(n, m) for (a, n), (b, m) in zip(first, seen[8:16], strict=True))
    drawn = {}
    for epoch in (first[:4], first[4:]):
        ids = torch.cat([ids for ids, _ in epoch])
        assert torch.equal(ids.sort().values, torch.arange(64)), "an epoch names every sample once"
        noise = torch.cat([noise for _, noise in epoch])[ids.argsort()]
        drawn[len(drawn)] = noise
        assert len(noise.flatten().unique()) == noise.numel()
    assert not (drawn[0] == drawn[1]).any(), "two steps draw the same for a sample"


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_the_l2_penalty_is_weight_decay_on_the_weights(schedule):
    found = []
    for weight_decay, penalty in ((0.05, None), (0.0, {"name": "l2-weights", "weight": 0.05})):
        net = network()
        for name, p in net.named_parameters():
            p.requires_grad_(name.endswith("weight"))  # decay acts on biases, too, where they are trained
        optimizer = OptimizerConfig(lr=0.1, momentum=0.0, nesterov=False, weight_decay=weight_decay)
        fit(net, *problem(), FitConfig(epochs=2, batch_size=16, optimizer=optimizer, schedule=schedule, penalty=penalty), seed=0)
        found.append(flat(net))
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], flat(network()))


def test_the_l1_penalty_is_its_formula_in_loss_and_gradient():
    net = network()
    x, y = problem(16)
    config = FitConfig(epochs=1, batch_size=16, optimizer=PLAIN, schedule="constant", penalty={"name": "l1-weights", "weight": 0.02})
    expected = network()
    size = sum(w.detach().abs().sum() for w in prunable(expected).values())
    loss = nn.functional.cross_entropy(expected(x), y)
    loss.backward()
    with torch.no_grad():
        for name, p in expected.named_parameters():
            p -= 0.1 * (p.grad + (0.02 * p.sign() if name.endswith("weight") else 0.0))
    log = fit(net, x, y, config, seed=0)
    assert log.losses[0] == pytest.approx(float(loss.detach() + 0.02 * size), rel=1e-6)
    torch.testing.assert_close(flat(net), flat(expected))


def test_a_penalty_of_ones_own_watches_activations_and_leaves_no_hook():
    strong = {"name": f"{OWN}:Activations", "weight": 3.0}
    plain, less = train(epochs=20)[0], train(epochs=20, penalty=strong)[0]
    x, _ = problem()
    assert less[1](less[0](x)).mean() < 0.3 * plain[1](plain[0](x)).mean()
    assert not any(m._forward_hooks for m in less.modules())


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_of_weight_0_changes_nothing(name):
    assert torch.equal(flat(train()[0]), flat(train(penalty={"name": name, "weight": 0})[0]))


class Forms(nn.Module):
    """The same network with a ReLU as a method, in place, and a second one after it."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        hidden = torch.relu_(self.body[0](x))
        return self.body[2](hidden.clamp(min=0).mul_(2.0) / 2)


@pytest.mark.parametrize(("module", "times"), [(network, 1), (Forms, 2)])
@pytest.mark.parametrize("objective", ["natural", {"name": "pgd-at", "eps": 0, "steps": 2}, {"name": "trades", "eps": 1e-12, "steps": 2}])
def test_the_l1_penalty_of_activations_is_its_formula_in_loss_and_gradient(objective, module, times):
    x, y = problem(16)
    net, expected = module(), network()
    config = FitConfig(
        epochs=1,
        batch_size=16,
        optimizer=PLAIN,
        schedule="constant",
        objective=objective,
        penalty={"name": "l1-activations", "weight": 0.02 / times},
    )
    size = expected[1](expected[0](x)).abs().sum(1).mean()
    loss = nn.functional.cross_entropy(expected(x), y) + 0.02 * size
    loss.backward()
    with torch.no_grad():
        for p in expected.parameters():
            p -= 0.1 * p.grad
    log = fit(net, x, y, config, seed=0)
    assert log.losses[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(flat(net), flat(expected))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_l1_penalty_of_activations_makes_them_sparse():
    x, _ = problem()
    plain, sparse = (train(epochs=20, penalty=p)[0] for p in (None, {"name": "l1-activations", "weight": 0.1}))
    assert activation_sparsity(sparse, x).total > activation_sparsity(plain, x).total + 0.1


def test_passes_of_the_model_beside_the_loss_are_not_penalised():
    net, (x, _) = network().train(), problem(8)
    with PENALTIES.make({"name": "l1-activations", "weight": 1.0}).on(net) as extra:
        with torch.no_grad():
            net(x)  # as when statistics are gathered
        with frozen(net):
            net(x.clone().requires_grad_())  # as in an attack
        net(x[:4])
        expected = net[1](net[0](x[:4])).sum(1).mean()
        torch.testing.assert_close(extra(), expected)


def test_a_pruner_that_scores_in_eval_mode_sees_the_penalty(monkeypatch):
    found = []

    def begin(self, training):
        x, _ = training.batch
        found.append(training.loss(training.model.eval(), *training.batch) - training.model[1](training.model[0](x)).sum(1).mean())
        return Static(training.model, training.masks)

    monkeypatch.setattr(Dense, "begin", begin)
    for penalty in ({"name": "l1-activations", "weight": 1.0}, {"name": "l1-weights", "weight": 0.0}):
        fit(network(), *problem(), FitConfig(epochs=0, penalty=penalty), seed=0, pruner=Dense())
    hidden = network()[:2](problem()[0]).sum(1).mean()
    torch.testing.assert_close(found[0], found[1] + hidden)


def test_a_network_without_a_relu_has_no_activations_to_penalise():
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match="penalty l1-activations: the model has no ReLU"):
        fit(net, *problem(), FitConfig(epochs=1, penalty={"name": "l1-activations", "weight": 0.1}), seed=0)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("weight", [-1, float("nan"), "much", None, True])
def test_a_weight_that_is_none_is_refused(name, weight):
    with pytest.raises(InputError, match=r"penalty\.weight"):
        FitConfig(penalty={"name": name, "weight": weight})


def test_a_penalty_needs_a_weight_and_an_objective_a_name():
    with pytest.raises(InputError, match=r"penalty l1-weights\.weight: got nothing"):
        FitConfig(penalty="l1-weights")
    with pytest.raises(InputError, match="did you mean natural"):
        FitConfig(objective="natral")
    with pytest.raises(InputError, match="objective natural: got eps"):
        FitConfig(objective={"name": "natural", "eps": 0.1})
    assert set(OBJECTIVES) == {"natural", "pgd-at", "fast-at", "trades"}
