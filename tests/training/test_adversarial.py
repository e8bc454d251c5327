"""Robust objectives: linear models know the inner maximum in closed form; of the attack within, nothing else may be left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import Streams, generator, isolated
from isogrid.models.zoo import BinaryLinear
from isogrid.sparsity import Dense, Masks, Progressive, Static
from isogrid.training import OBJECTIVES, FitConfig, OptimizerConfig, fit
from isogrid.training.objectives import TRADES, FastTraining, PGDTraining, divergence_slope

WIDE, UNIT = (-50.0, 50.0), (0.0, 1.0)
ROBUST = {
    "pgd-at": PGDTraining(eps=0.2, steps=3),
    "pgd-at in l2": PGDTraining(eps=0.5, steps=3, norm="l2"),
    "fast-at": FastTraining(eps=0.2),
    "trades": TRADES(eps=0.2, steps=3),
    "trades in l2": TRADES(eps=0.5, steps=3, norm="l2"),
}


def samples(n=24, shape=(5,), classes=2):
    draw = generator(0, "samples")
    return torch.rand(n, *shape, generator=draw), torch.randint(0, classes, (n,), generator=draw)


def streams(n=24, seed=0):
    return Streams(seed=seed, ids=torch.arange(n))


def linear(scale=1.0):
    """z = w . x + b with weights of very different sizes and both signs."""
    net = BinaryLinear(5)
    with torch.no_grad():
        net.fc.weight.copy_(scale * torch.tensor([[3.0, -1.0, 0.2, -0.05, 0.7]]))
        net.fc.bias.fill_(scale * -0.8)
    return net


def network():
    """Batch-norm in both forms and dropout."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)),
    )
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            value = torch.randn(p.shape, generator=generator(0, "network", i))
            p.copy_(value / p[0].numel() ** 0.5 if p.dim() > 1 else 1 + 0.1 * value)
    return net.train()


def moved(objective, net, x, y, seed=0, box=UNIT):
    """The perturbed samples."""
    if isinstance(objective, FastTraining):
        objective = PGDTraining(eps=objective.eps, steps=1, rel_step=objective.rel_step)
    labels = () if isinstance(objective, TRADES) else (y,)
    return objective.perturbed(net, x, *labels, streams(len(x), seed), box)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("norm", "random_start"), [("linf", True), ("linf", False), ("l2", False)])
def test_the_inner_maximum_of_a_linear_model_is_its_closed_form(norm, random_start, scale):
    net, (x, y) = linear(scale), samples()
    objective = PGDTraining(eps=0.3, norm=norm, steps=5, random_start=random_start)
    w = net.fc.weight.detach()
    size = w.abs().sum() if norm == "linf" else w.norm()
    gap = (2 * y - 1) * net(x)[:, 1]
    expected = softplus(0.3 * size - gap).mean()
    torch.testing.assert_close(objective.loss(net, x, y, streams(), WIDE), expected, rtol=1e-5, atol=1e-6)


def test_in_a_box_each_element_goes_as_far_as_the_box_lets_it():
    net, (x, y) = linear(), samples()
    found = moved(PGDTraining(eps=0.3, steps=5), net, x, y)
    expected = (x - 0.3 * (2 * y - 1)[:, None] * net.fc.weight.detach().sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected)


def test_the_fast_step_is_its_formula():
    net, (x, y) = linear(), samples()
    start = moved(PGDTraining(eps=0.3, steps=1, rel_step=1e-30), net, x, y)
    assert 0.05 < (start - x).abs().mean() < 0.2
    climbed = start - 1.25 * 0.3 * (2 * y - 1)[:, None] * net.fc.weight.detach().sign()
    expected = torch.minimum(torch.maximum(climbed, x - 0.3), x + 0.3).clamp(0, 1)
    loss = FastTraining(eps=0.3).loss(net, x, y, streams(), UNIT)
    torch.testing.assert_close(loss, cross_entropy(net(expected), y))


def test_trades_climbs_to_an_end_of_the_ball_and_is_its_formula_there():
    net, (x, y) = linear(), samples()
    objective = TRADES(eps=0.3, beta=2.0)
    found = moved(objective, net, x, y, box=WIDE)
    ends = [x + sign * 0.3 * net.fc.weight.detach().sign() for sign in (-1, 1)]
    nearer = torch.stack([(found - end).abs().amax(1) for end in ends]).amin(0)
    assert nearer.max() < 1e-6
    p, q = (net(points)[:, 1].double().sigmoid() for points in (x, found))
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = cross_entropy(net(x), y).double() + 2 * divergence.mean()
    torch.testing.assert_close(objective.loss(net, x, y, streams(), WIDE).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gap", [0.0, 5.0, 40.0, 300.0])
def test_the_slope_of_the_divergence_has_the_right_direction_however_sure_the_model_is(gap):
    draw = generator(0, "slope")
    z, moved = torch.randn(64, 5, generator=draw), torch.randn(64, 5, generator=draw)
    z[:, 0], moved[:, 0] = z[:, 0] + gap, moved[:, 0] + gap
    slope = divergence_slope(moved, torch.log_softmax(z, 1)).double()
    exact = torch.softmax(moved.double(), 1) - torch.softmax(z.double(), 1)
    own = z.argmax(1, keepdim=True)
    exact = exact.scatter(1, own, 0.0)
    exact = exact.scatter(1, own, -exact.sum(1, keepdim=True))
    exact /= exact.abs().amax(1, keepdim=True)
    assert torch.isfinite(slope).all()
    torch.testing.assert_close(slope / slope.abs().amax(1, keepdim=True), exact, rtol=0, atol=3e-4 if gap > 50 else 1e-4)


def test_the_slope_of_the_divergence_is_its_gradient():
    draw = generator(1, "slope")
    z, q = (torch.randn(16, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    q.requires_grad_()
    nn.functional.kl_div(torch.log_softmax(q, 1), torch.log_softmax(z, 1), reduction="sum", log_target=True).backward()
    slope = divergence_slope(q.detach(), torch.log_softmax(z, 1))
    factor = slope.norm(dim=1, keepdim=True) / q.grad.norm(dim=1, keepdim=True)
    torch.testing.assert_close(slope, factor * q.grad)


@pytest.mark.parametrize("name", ROBUST)
def test_perturbed_samples_lie_in_ball_and_box_and_are_harder(name):
    objective, net, (x, y) = ROBUST[name], network(), samples(shape=(1, 6, 6), classes=3)
    found = moved(objective, net, x, y)
    delta = (found - x).flatten(1)
    size = delta.norm(dim=1) if "l2" in name else delta.abs().amax(1)
    assert size.max() <= objective.eps * (1 + 1e-5)
    assert found.min() >= 0
    assert found.max() <= 1
    assert size.min() > objective.eps / 3
    net.eval()
    noise = torch.randn(x.shape, generator=generator(0, "noise")).sign() * objective.eps / (36**0.5 if "l2" in name else 1)
    climbed, random = (net(points).log_softmax(1) for points in (found, (x + noise).clamp(0, 1)))
    if isinstance(objective, TRADES):
        clean = net(x).log_softmax(1)
        climbed, random = (((clean - other) * clean.exp()).sum(1) for other in (climbed, random))
    else:
        climbed, random = (-other.gather(1, y[:, None]) for other in (climbed, random))
    assert climbed.mean() > 2 * random.mean() if isinstance(objective, TRADES) else climbed.mean() > random.mean() + 0.05


@pytest.mark.parametrize("name", ROBUST)
def test_a_sample_is_perturbed_alike_in_every_batch(name):
    objective, net, (x, y) = ROBUST[name], network().double(), samples(shape=(1, 6, 6), classes=3)
    x = x.double()  # the divergence starts where it is flat, and its direction there is mostly rounding in single precision
    whole = moved(objective, net, x, y)
    assert not torch.equal(whole, moved(objective, net, x, y, seed=1))
    for rows in (torch.arange(5), torch.tensor([7])):
        if isinstance(objective, TRADES):
            part = objective.perturbed(net, x[rows], streams().take(rows), UNIT)
        elif isinstance(objective, PGDTraining):
            part = objective.perturbed(net, x[rows], y[rows], streams().take(rows), UNIT)
        else:
            continue  # it is PGD's
        assert (part - whole[rows]).abs().amax() < 1e-8


@pytest.mark.parametrize("name", ROBUST)
def test_only_the_passes_of_the_loss_leave_a_trace(name):
    objective, net, (x, y) = ROBUST[name], network(), samples(shape=(1, 6, 6), classes=3)
    net[5].eval()  # a layer that the user holds fixed
    net[0].bias.requires_grad_(False)
    by_hand = copy.deepcopy(net)
    points = moved(objective, copy.deepcopy(net), x, y)
    with isolated(0, "dropout"):
        loss = objective.loss(net, x, y, streams(), UNIT)
        drawn = torch.rand(3)
    with isolated(0, "dropout"):
        expected = [by_hand(part) for part in ((x, points) if isinstance(objective, TRADES) else (points,))]
        assert torch.equal(drawn, torch.rand(3)), "the attack within drew from the global random state"
    assert [m.training for m in net.modules()] == [m.training for m in by_hand.modules()]
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), by_hand.buffers(), strict=True))
    assert int(net[1].num_batches_tracked) == len(expected)
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in by_hand.parameters()]
    assert all(p.grad is None for p in net.parameters())
    if len(expected) == 1:
        assert torch.equal(loss, cross_entropy(expected[0], y))


def trained(objective, seed=0, box=UNIT, x=None):
    net, (own, y) = network(), samples(shape=(1, 6, 6), classes=3)
    config = FitConfig(epochs=2, batch_size=7, objective=objective, optimizer=OptimizerConfig(lr=0.05))
    log = fit(net, own if x is None else x, y, config, seed=seed, box=box)
    return torch.cat([t.detach().double().flatten() for t in net.state_dict().values()]), log


@pytest.mark.parametrize(
    "config", [{"name": name, "eps": 0} for name in ("pgd-at", "fast-at", "trades")] + [{"name": "trades", "eps": 0.2, "beta": 0}]
)
def test_without_a_budget_or_a_weight_it_is_natural_training_bit_for_bit(config):
    assert torch.equal(trained(config)[0], trained("natural")[0])


@pytest.mark.parametrize("name", ["pgd-at", "fast-at", "trades"])
def test_all_randomness_is_the_seeds(name):
    config = {"name": name, "eps": 0.2}
    torch.manual_seed(1)
    first, log = trained(config)
    torch.manual_seed(2)
    assert torch.equal(first, trained(config)[0])
    assert not torch.equal(first, trained(config, seed=1)[0])
    assert log.losses[0] > trained("natural")[1].losses[0]


def test_samples_outside_the_box_are_refused_where_they_would_be_moved_into_it():
    x = samples(shape=(1, 6, 6))[0] * 4 - 2
    trained("natural", x=x)
    trained({"name": "pgd-at", "eps": 0.2}, x=x, box=(-2, 2))
    with pytest.raises(InputError, match=r"values in \[0, 1\]"):
        trained({"name": "pgd-at", "eps": 0.2}, x=x)


def test_robust_magnitude_pruning_is_progressive_pruning_of_robust_weights_under_a_robust_loss():
    (x, y), seen = samples(shape=(1, 6, 6), classes=3), []
    for objective in ("natural", {"name": "pgd-at", "eps": 0.2, "steps": 3}):
        net = network()
        config = FitConfig(epochs=3, batch_size=8, objective=objective, optimizer=OptimizerConfig(lr=0.05))
        dense = fit(net, x, y, config, seed=0)
        expected = Progressive(rate=0.7).prune(net, dense.masks)
        log = fit(net, x, y, config, seed=0, purpose=(1,), pruner=Progressive(rate=0.7), masks=dense.masks)
        assert log.masks.digest() == expected.digest() == Masks.of_zeros(net).digest()
        seen.append(log.masks.digest())
    assert seen[0] != seen[1]


def test_a_pruner_scores_on_the_robust_loss_and_twice_on_the_same_perturbations(monkeypatch):
    losses = []

    def begin(self, training):
        scored = [training.loss(training.model.eval(), *training.batch) for _ in range(2)]
        losses.append([float(loss.detach()) for loss in scored])
        return Static(training.model, training.masks)

    monkeypatch.setattr(Dense, "begin", begin)
    net, (x, y) = network(), samples(shape=(1, 6, 6), classes=3)
    for objective in ("natural", {"name": "pgd-at", "eps": 0.2, "steps": 3}):
        fit(net, x, y, FitConfig(epochs=0, objective=objective), seed=0, pruner=Dense())
    (natural, again), (robust, repeated) = losses
    assert natural == again
    assert robust == repeated > natural + 0.05


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("pgd-at", r"objective pgd-at\.eps: got nothing; accepted: a value"),
        ({"name": "pgd-at", "eps": -1}, "eps: got -1; accepted: a finite number >= 0"),
        ({"name": "pgd-at", "eps": 0.1, "steps": 0}, "steps: got 0; accepted: an integer >= 1"),
        ({"name": "pgd-at", "eps": 0.1, "norm": "l1"}, "norm: got l1"),
        ({"name": "pgd-at", "eps": 0.1, "random_start": 1}, "random_start: got 1; accepted: true or false"),
        ({"name": "pgd-at", "eps": True}, "eps: got True"),
        ({"name": "trades", "eps": 0.1, "beta": float("nan")}, "beta: got nan; accepted: a finite number >= 0"),
        ({"name": "fast-at", "eps": 0.1, "rel_step": 0}, "rel_step: got 0"),
        ({"name": "fast-at", "eps": 0.1, "norm": "l2"}, "objective fast-at: got norm"),
    ],
)
def test_settings_that_are_none_are_refused_in_one_line(config, said):
    with pytest.raises(InputError, match=said):
        FitConfig(objective=config)


def test_forecasts_know_the_passes_of_a_step():
    configs = ["natural", {"name": "pgd-at", "eps": 0.1, "steps": 7}, {"name": "fast-at", "eps": 0.1}, "own.py:Anything"]
    assert [FitConfig(objective=config).passes for config in configs] == [1, 8, 2, 1]
    assert all(OBJECTIVES.make(FitConfig(objective=config).objective).passes > 1 for config in configs[1:3])


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: x.detach().requires_grad_()])
def test_a_model_without_a_gradient_to_its_input_is_named_as_such(cut):
    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(cut(x))

    x, y = samples()
    with pytest.raises(ModelError, match="no gradient with respect to the input, which adversarial training needs"):
        fit(Cut(5, 2), x, y, FitConfig(epochs=1, objective={"name": "pgd-at", "eps": 0.1}), seed=0, pruner=Dense())
