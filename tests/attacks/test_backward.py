"""Leaky backward passes: every form of a gate is opened on the way back, nothing else changes, and what dead units hid is found."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from isogrid.attacks import ATTACKS, DDN, FGS, PGD, AutoAttack, make
from isogrid.attacks.driver.backward import LEAST, Backward, exact_gradient
from isogrid.attacks.records import outcome_frame
from isogrid.audit.gradients import BlindGradients
from isogrid.audit.records import AttackRecord, CleanRecord, LevelInputs


def _in_place(function):
    return lambda x: function(x * 1.0)


FORMS = {
    "module": nn.ReLU(),
    "module in place": _in_place(nn.ReLU(inplace=True)),
    "functional": f.relu,
    "functional in place": _in_place(lambda x: f.relu(x, inplace=True)),
    "torch": torch.relu,
    "torch in place": _in_place(torch.relu_),
    "method": lambda x: x.relu(),
    "method in place": _in_place(lambda x: x.relu_()),
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": _in_place(lambda x: x.clamp_(min=0)),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: f.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum, turned": lambda x: torch.maximum(torch.zeros(()), x),
    "exported": torch.export.export(nn.Sequential(nn.ReLU()), (torch.ones(1, 4),)).module(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_relu_lets_the_slope_through(form):
    x = torch.tensor([[-2.0, -0.5, 0.5, 3.0]], requires_grad=True)
    weights = torch.tensor([[3.0, -5.0, 7.0, 2.0]])
    out = FORMS[form](x)
    backward = Backward(kind="leaky")
    for t in (0.0, 0.5):
        backward.at(t)
        slope = (1 - t) ** 3
        expected = weights * torch.tensor([[slope, slope, 1.0, 1.0]])
        assert torch.allclose(backward.gradient(out, x, weights, keep=True), expected), (form, t)
    assert backward.opened
    backward.at(1.0)
    assert torch.equal(backward.gradient(out, x, weights), weights * (x > 0))


@pytest.mark.parametrize(("form", "inside"), [(nn.ReLU6(), (0.0, 6.0)), (nn.Hardtanh(-1, 2), (-1.0, 2.0))])
def test_gates_with_two_sides_are_opened_on_both(form, inside):
    x = torch.tensor([[-3.0, 0.7, 9.0]], requires_grad=True)
    backward = Backward(kind="leaky")
    backward.at(0.5)
    gate = ((x > inside[0]) & (x < inside[1])).detach()
    assert torch.allclose(backward.gradient(form(x), x, torch.ones(1, 3)), torch.where(gate, 1.0, 0.125))


def test_what_is_no_gate_keeps_its_gradient():
    """Comparisons, masks and clamps that are the user's arithmetic."""
    x = torch.tensor([[-2.0, 0.5, 3.0]], requires_grad=True)
    for function in (
        lambda x: x.clamp(max=1.0),
        lambda x: torch.where(x.detach() > 1, x * 2, x * 3),
        lambda x: x.masked_fill(x.detach() < 1, 7.0),
        lambda x: x * (x.detach() > 0),
        lambda x: f.leaky_relu(x, 0.2),
        lambda x: f.gelu(x) + torch.tanh(x) + x.abs(),
        lambda x: f.max_pool1d(x, 2),
    ):
        out = function(x)
        assert torch.equal(
            Backward(kind="leaky").gradient(out, x, torch.ones_like(out), keep=True), exact_gradient(out, x, torch.ones_like(out))
        )


def test_an_exact_backward_pass_and_a_spent_slope_are_autograds_own():
    x = torch.randn(4, 5, requires_grad=True)
    out = torch.relu(x @ torch.randn(5, 3)).sum()
    spent = Backward(kind="leaky")
    spent.at(1 - (0.9 * LEAST) ** (1 / 3))
    assert spent.slope == 0
    assert torch.equal(spent.gradient(out, x, keep=True), exact_gradient(out, x, keep=True))
    assert torch.equal(Backward().gradient(out, x, keep=True), exact_gradient(out, x))


def test_an_exception_on_the_way_back_leaves_nothing_behind():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(_, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_, gradient: Tensor) -> Tensor:
            raise RuntimeError("on the way back")

    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="on the way back"):
        Backward(kind="leaky").gradient(Breaks.apply(torch.relu(x)).sum(), x)
    assert exact_gradient(torch.relu(x).sum(), x).tolist() == [0.0, 1.0]


class Hidden(nn.Module):
    """Class 0 in x near (0.5, 0.5); the way to class 1 leads through a unit that is dead there and alive a little further on."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return torch.stack([torch.full_like(x[:, 0], 0.1), 5 * torch.relu(x[:, 0] + x[:, 1] - 1.35)], 1)


HALF = torch.full((6, 1, 1, 2), 0.5), torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "fgs", "eps": 0.2},
        {"name": "pgd", "eps": 0.2, "steps": 20, "random_start": False},
        {"name": "apgd-ce", "eps": 0.2, "steps": 20},
        {"name": "apgd-t", "eps": 0.2, "steps": 20},
        {"name": "ddn", "steps": 40},
        {"name": "ddn", "converge": True},
        {"name": "fmn", "norm": "l2", "steps": 60},
    ],
)
def test_what_a_dead_unit_hides_is_found(config):
    blind = make(config)(Hidden(), *HALF)
    found = make(config | {"backward": "leaky"})(Hidden(), *HALF)
    assert blind.zero_gradient.all()
    assert found.zero_gradient.all()  # which speaks of the exact gradient
    assert found.success.all()
    assert (blind.opened, found.opened) == (None, True)
    assert (Hidden()(found.x_adv).argmax(1) == 1).all()


def test_the_law_of_every_attack_with_gradients():
    for name in ATTACKS:
        attack = make({"name": name})
        assert hasattr(attack, "backward") == (not attack.gradient_free), name


def test_where_there_is_no_gate_the_outcome_says_so_and_is_the_exact_attacks():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    for kind, settings in ((PGD, {"eps": 0.1}), (DDN, {"steps": 20})):
        exact, leaky = kind(**settings)(net, x, y), kind(**settings, backward="leaky")(net, x, y)
        assert leaky.opened is False
        assert torch.equal(leaky.x_adv, exact.x_adv)


def test_the_model_and_its_verdicts_are_untouched():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).train()
    before = io.BytesIO()
    torch.save(net.state_dict(), before)
    x, y = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    outcome = AutoAttack(eps=0.2, steps=5, queries=20, backward="leaky")(net, x, y)
    after = io.BytesIO()
    torch.save(net.state_dict(), after)
    assert before.getvalue() == after.getvalue()
    assert net.training
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())
    with torch.no_grad():
        assert torch.equal(net(outcome.x_adv).argmax(1), outcome.adversarial)
    assert outcome.opened


@pytest.mark.parametrize("bad", ["leeky", None, 0.1])
def test_another_word_is_refused(bad):
    with pytest.raises(ValueError, match="backward"):
        FGS(eps=0.1, backward=bad)


def _record(attack, outcome):
    frame = outcome_frame(outcome)
    return AttackRecord.of_columns(attack, attack.name, {name: frame[name] for name in frame.columns}, len(frame))


def test_the_audit_says_where_exact_gradients_are_blind():
    attacks = (PGD(eps=0.2, random_start=False), PGD(eps=0.2, random_start=False, backward="leaky"))
    clean = CleanRecord.of_logits(Hidden()(HALF[0]), HALF[1])
    records = tuple(_record(attack, attack(Hidden(), *HALF)) for attack in attacks)
    check = BlindGradients()
    both = LevelInputs(clean=clean, attacks=records)
    assert check.applies(both).judged
    (found,) = check.look(both)
    assert found.share == 1.0
    assert not check.applies(LevelInputs(clean=clean, attacks=records[:1])).judged
    seen = LevelInputs(clean=clean, attacks=(records[1], _record(attacks[0], attacks[1](Hidden(), *HALF))))
    assert list(check.look(seen)) == []
