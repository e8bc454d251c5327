"""Cascades and AutoAttack."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS, PGD, AutoAttack, DeepFool, Ensemble, config_of, make
from isogrid.attacks.driver.kinds import FixedBudget
from isogrid.core.errors import InputError
from isogrid.core.random import generator

QUICK = {"eps": 0.05, "steps": 20, "queries": 100}


@pytest.fixture(scope="module")
def binary() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Linear(12, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 12, generator=generator(1, "w")) * torch.logspace(-1, 1, 12))
        model.bias.copy_(-model.weight.sum(1) / 2)
    x = torch.rand(60, 12, generator=generator(4, "x")) * 0.6 + 0.2
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("thrifty", [True, False])
def test_autoattack_reaches_the_exact_linf_accuracy_of_a_linear_model(binary, thrifty):
    model, x, y = binary
    exact = FGS(eps=0.05)(model, x, y).robust
    assert 0 < exact.float().mean() < 1
    assert torch.equal(AutoAttack(**QUICK, thrifty=thrifty)(model, x, y).robust, exact)


def test_parts_are_the_standard_four_and_share_the_threat_model():
    attack = AutoAttack(eps=0.3, norm="l2")
    assert [part.name for part in attack.parts] == ["apgd-ce", "apgd-t", "fab", "square"]
    assert {(part.budget, part.threat, part.domain) for part in attack.parts} == {(0.3, attack.threat, "box")}


def test_later_attacks_see_only_the_survivors(binary):
    model, x, y = binary
    alone = PGD(eps=0.05)(model, x, y)
    both = Ensemble(attacks=(PGD(eps=0.05), PGD(eps=0.05, loss="margin")))(model, x, y)
    assert not (alone.success & ~both.success).any()
    assert (both.backwards[alone.success] == alone.backwards[alone.success]).all()
    assert (both.backwards[~alone.success] == 80).all()


def test_a_claim_out_of_the_budget_does_not_withhold_a_sample(binary):
    model, x, y = binary

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Cheat(FixedBudget):
        name = "cheat"
        norm = "linf"
        role = "weak"
        strength: ClassVar = {}

        def expected_gradients(self):
            return 1.0

        def search(self, problem):
            return 1 - problem.x

    alone, after = PGD(eps=0.05)(model, x, y), Ensemble(attacks=(Cheat(eps=0.05), PGD(eps=0.05)))(model, x, y)
    assert torch.equal(alone.success, after.success)


def test_configuration_round_trip():
    attack = Ensemble(attacks=(PGD(eps=0.05), FGS(eps=0.05)))
    assert make(config_of(attack)) == attack


@pytest.mark.parametrize(
    "attacks", [(), (DeepFool(),), (PGD(eps=0.1), PGD(eps=0.2)), (PGD(), PGD(norm="l2")), (PGD(domain="free"),)], ids=lambda a: str(len(a))
)
def test_an_ensemble_is_of_one_threat_model(attacks):
    with pytest.raises(InputError, match=r"attacks|eps"):
        Ensemble(attacks=attacks)
