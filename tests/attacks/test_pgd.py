"""PGD against closed forms, Foolbox and float64."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS, PGD
from isogrid.attacks.steps.losses import LOSSES, SLOPES
from isogrid.core.errors import InputError
from isogrid.core.random import generator


def linear(classes: int = 2, n: int = 12) -> nn.Module:
    # anisotropic weights: the optimal l2 and l_inf directions differ
    model = nn.Linear(n, classes)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, n, generator=generator(1, "w")) * torch.logspace(-1, 1, n))
        model.bias.copy_(-model.weight.sum(1) / 2)
    return model


def network(classes: int = 5) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, classes))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(2, i)))
        for layer, middle in ((model[1], torch.full((64,), 0.5)), (model[3], None)):  # every class somewhere in the box
            middle = torch.relu(model[1](torch.full((64,), 0.5))) if middle is None else middle
            layer.bias.copy_(torch.relu(layer.bias) - layer.weight @ middle)
    x = torch.rand(400, 1, 8, 8, generator=generator(3, "x"))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("eps", [0.01, 0.05, 0.1])
def test_on_a_binary_linear_model_pgd_reaches_the_exact_linf_accuracy(eps, early_stop):
    model = linear()
    x = torch.rand(300, 12, generator=generator(4, "x")) * 0.6 + 0.2
    with torch.no_grad():
        y = model(x).argmax(1)
    exact = FGS(eps=eps)(model, x, y).robust
    found = PGD(eps=eps, early_stop=early_stop)(model, x, y).robust
    assert 0 < exact.float().mean() < 1
    assert torch.equal(found, exact)


def test_on_a_binary_linear_model_pgd_reaches_the_exact_l2_accuracy():
    model = linear()
    x = torch.rand(300, 12, generator=generator(4, "x")) * 0.6 + 0.2
    with torch.no_grad():
        z = model(x)
        w = model.weight[1] - model.weight[0]
        distance = (z[:, 1] - z[:, 0]).abs() / w.norm()
    y = z.argmax(1)
    eps = distance.median().item()
    out = PGD(eps=eps, norm="l2", domain="free")(model, x, y)
    clear = (distance / eps - 1).abs() > 0.02
    assert torch.equal(out.robust[clear], (distance > eps)[clear])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_logits_scaled_by_100_give_the_accuracy_of_float64(norm, loss):
    model, x, y = network()
    attack = PGD(eps=0.02 if norm == "linf" else 0.15, norm=norm, loss=loss, steps=20)
    with torch.no_grad():
        model[-1].weight *= 100
        model[-1].bias *= 100
    truth = attack(model.double(), x.double(), y).robust.float().mean().item()
    model.float()
    assert 0.1 < truth < 0.9
    assert attack(model, x, y).robust.float().mean().item() == pytest.approx(truth, abs=0.005)


@pytest.mark.parametrize(("norm", "name", "eps"), [("linf", "LinfPGD", 0.02), ("l2", "L2PGD", 0.2)])
def test_accuracy_agrees_with_foolbox(norm, name, eps):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = getattr(foolbox.attacks, name)(rel_stepsize=0.05, steps=40, random_start=False)
        success = peer(foolbox.PyTorchModel(model.eval(), bounds=(0, 1)), x, y, epsilons=eps)[2]
    own = PGD(eps=eps, norm=norm, rel_step=0.05, steps=40, random_start=False, early_stop=False)(model, x, y)
    theirs = 1 - success.float().mean().item()
    assert 0.1 < theirs < 0.9
    assert own.robust.float().mean().item() == pytest.approx(theirs, abs=0.0026)  # one sample of 400


def test_without_early_stop_it_does_exactly_the_published_work():
    model, x, y = network()
    out = PGD(eps=0.02, early_stop=False)(model, x, y)
    assert (out.forwards == 40).all()
    assert (out.backwards == 40).all()


def test_early_stop_and_restarts_only_help():
    model, x, y = network()
    last = PGD(eps=0.02, early_stop=False)(model, x, y)
    stop = PGD(eps=0.02)(model, x, y)
    more = PGD(eps=0.02, restarts=4)(model, x, y)
    assert not (last.success & ~stop.success).any()
    assert not (stop.success & ~more.success).any()
    assert stop.backwards[stop.success].float().mean() < 20


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_when_finished_rows_leave_the_batch_changes_no_row(norm, monkeypatch):
    model, x, y = network()
    attack = PGD(eps=0.02 if norm == "linf" else 0.2, norm=norm, restarts=2)
    outs = []
    for share in (0.0, 1 / 16, 2.0):  # at once, in small groups, never
        monkeypatch.setattr("isogrid.attacks.pgd.IDLE_SHARE", share)
        outs.append(attack(model, x, y))
    at_once, groups, never = outs
    assert 0 < at_once.success.float().mean() < 1
    for out in (groups, never):
        sure = at_once.margin.abs() > 1e-5
        assert torch.equal(out.success[sure], at_once.success[sure])
        torch.testing.assert_close(out.x_adv[sure & at_once.success], at_once.x_adv[sure & at_once.success], rtol=0, atol=1e-4)
    assert at_once.backwards.sum() < groups.backwards.sum() < never.backwards.sum()
    assert groups.backwards.sum() < 1.1 * at_once.backwards.sum()


@pytest.mark.parametrize("loss", SLOPES)
def test_a_slope_is_the_gradient_of_its_loss(loss):
    z, y = torch.randn(20, 6, generator=generator(5, "z"), dtype=torch.float64, requires_grad=True), torch.arange(20) % 6
    (truth,) = torch.autograd.grad(LOSSES[loss](z, y).sum(), z)
    torch.testing.assert_close(SLOPES[loss](z.detach(), y), truth)


def test_seeds_repeat_and_differ():
    model, x, y = network()
    a, b, c = (PGD(eps=0.02)(model, x[:50], y[:50], seed=seed).x_adv for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("bad", [{"eps": -0.1}, {"steps": 0}, {"rel_step": -1.0}, {"norm": "l1"}, {"loss": "dlr"}, {"restarts": 0}])
def test_parameters_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        PGD(**bad)
