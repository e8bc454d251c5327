"""Cascades, AutoAttack and the checkpoint of the driver."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS, PGD, Attack, AutoAttack, DeepFool, Ensemble, config_of, make
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
    class Cheat(Attack):
        name = "cheat"
        eps: float = 0.05

        @property
        def budget(self):
            return self.eps

        @property
        def threat(self):
            return FGS().threat

        def search(self, problem):
            return 1 - problem.x

    alone, after = PGD(eps=0.05)(model, x, y), Ensemble(attacks=(Cheat(), PGD(eps=0.05)))(model, x, y)
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


def test_a_run_resumes_bit_for_bit_and_computes_only_what_is_missing(binary, tmp_path, monkeypatch):
    model, x, y = binary
    monkeypatch.setattr("isogrid.attacks.driver.subject.MAX_ROWS", 16)
    attack, calls = AutoAttack(**QUICK), []
    plain = attack(model, x, y, seed=3)
    first = attack(model, x, y, seed=3, checkpoint=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    whole = {path.name: path.read_bytes() for path in files}
    files[1].unlink()
    files[2].write_bytes(b"half a file")
    model.register_forward_hook(lambda *_: calls.append(1))
    second = attack(model, x, y, seed=3, checkpoint=tmp_path)
    resumed = len(calls)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    for f in dataclasses.fields(plain):
        a, b, c = (getattr(out, f.name) for out in (plain, first, second))
        assert (torch.equal(a, b) and torch.equal(a, c)) if isinstance(a, torch.Tensor) else a == b == c
    calls.clear()
    attack(model, x, y, seed=3)
    assert resumed < 0.8 * len(calls)


def test_an_interrupted_cascade_goes_on_with_the_attack_that_was_at_work(binary, tmp_path):
    model, x, y = binary
    broken, calls = [True], []

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Interrupted(Attack):
        name = "interrupted"
        eps: float = 0.05

        @property
        def budget(self):
            return self.eps

        @property
        def threat(self):
            return FGS().threat

        def search(self, problem):
            if broken[0]:
                raise KeyboardInterrupt
            return problem.x

    attack = Ensemble(attacks=(PGD(eps=0.05), PGD(eps=0.05, loss="margin"), Interrupted(), PGD(eps=0.05, restarts=2)))
    with pytest.raises(KeyboardInterrupt):
        attack(model, x, y, checkpoint=tmp_path)
    assert [sorted(file.name for file in folder.iterdir()) for folder in tmp_path.iterdir()] == [["0.safetensors", "1.safetensors"]]
    broken[0] = False
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    resumed = attack(model, x, y, checkpoint=tmp_path)
    spent = len(calls)
    calls.clear()
    plain = attack(model, x, y)
    hook.remove()
    assert spent <= len(calls) - 60  # two PGD-40s, less the rows that leave early
    for field in dataclasses.fields(plain):
        a, b = getattr(plain, field.name), getattr(resumed, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]  # the stages went with the batch
