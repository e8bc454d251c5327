"""APGD: the paper's schedule, linear oracles, and that its short cuts change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.attacks import APGDCE, APGDDLR, APGDT, FGS, PGD
from isogrid.attacks.apgd import checkpoints
from isogrid.attacks.steps.losses import dlr, targeted_dlr, targeted_margin
from isogrid.core.errors import InputError
from isogrid.core.random import generator

KINDS = (APGDCE, APGDDLR, APGDT)


def network(classes: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, classes))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(2, i)))
        for layer, middle in ((model[1], torch.full((64,), 0.5)), (model[3], None)):  # every class somewhere in the box
            middle = torch.relu(model[1](torch.full((64,), 0.5))) if middle is None else middle
            layer.bias.copy_(torch.relu(layer.bias) - layer.weight @ middle)
    x = torch.rand(60, 1, 8, 8, generator=generator(3, "x"))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert all(b > a for steps in (1, 2, 5, 17) for a, b in zip(checkpoints(steps), checkpoints(steps)[1:], strict=False))


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_binary_linear_model_it_reaches_the_exact_linf_accuracy(kind):
    model = nn.Linear(12, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 12, generator=generator(1, "w")) * torch.logspace(-1, 1, 12))
        model.bias.copy_(-model.weight.sum(1) / 2)
    x = torch.rand(200, 12, generator=generator(4, "x")) * 0.6 + 0.2
    with torch.no_grad():
        y = model(x).argmax(1)
    exact = FGS(eps=0.05)(model, x, y).robust
    assert 0 < exact.float().mean() < 1
    assert torch.equal(kind(eps=0.05, steps=50)(model, x, y).robust, exact)


@pytest.mark.parametrize("classes", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_classes_and_not_weaker_than_pgd(kind, classes):
    model, x, y = network(classes)
    pgd = PGD(eps=0.02)(model, x, y).robust.float().mean().item()
    own = kind(eps=0.02, steps=50)(model, x, y).robust.float().mean().item()
    assert own <= pgd + 0.02
    assert own < 0.97


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_inside_ball_and_box(kind, norm):
    model, x, y = network(6)
    out = kind(eps=0.03 if norm == "linf" else 0.2, norm=norm, steps=20)(model, x, y)
    assert out.norm.size(out.x_adv - x).max() <= out.eps * (1 + 1e-5)
    assert out.x_adv.min() >= 0
    assert out.x_adv.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_samples_result_does_not_depend_on_its_neighbours(kind):
    model, x, y = network(6)
    attack = kind(eps=0.02, steps=30)
    whole = attack(model, x, y)
    rows = torch.tensor([5, 17, 44])
    some = attack(model, x[rows], y[rows], ids=rows)
    sure = whole.margin[rows].abs() > 1e-5
    assert torch.equal(whole.success[rows][sure], some.success[sure])
    torch.testing.assert_close(whole.x_adv[rows], some.x_adv, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_giving_up_hopeless_runs_changes_no_verdict_and_saves_work(kind):
    model, x, y = network(6)
    full, thrifty = kind(eps=0.01)(model, x, y), kind(eps=0.01, prospect=0.8)(model, x, y)
    assert 0.2 < full.robust.float().mean() < 0.98
    assert torch.equal(full.success, thrifty.success)
    assert thrifty.backwards.sum() < 0.8 * full.backwards.sum()


def test_dlr_by_hand():
    z, y = torch.tensor([[4.0, 1.0, 3.0, 0.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(dlr(z, y), torch.tensor([-(4 - 3) / (4 - 1), -(2 - 5) / (5 - 1)]))
    target = torch.tensor([1, 3])
    torch.testing.assert_close(targeted_dlr(target)(z, y), torch.tensor([-(4 - 1) / (4 - 0.5), -(2 - 1) / (5 - 0.5)]))
    torch.testing.assert_close(targeted_dlr(target[:1])(z[:1, :3], y[:1]), targeted_margin(target[:1])(z[:1], y[:1]))


def test_query_counts_cover_every_run_of_a_sample():
    model = nn.Linear(4, 5)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.arange(5.0))
    out = APGDT(eps=0.1, steps=10)(model, torch.rand(3, 4, generator=generator(0, "x")), torch.tensor([4, 4, 4]))
    assert (out.backwards == 4 * 10).all()
    assert not out.success.any()
    assert out.zero_gradient.all()


@pytest.mark.parametrize("bad", [{"eps": -1.0}, {"steps": 0}, {"norm": "l1"}, {"prospect": 2.0}, {"targets": 0}])
def test_parameters_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        APGDT(**bad)
