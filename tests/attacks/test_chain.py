"""The chain: never weaker than its attacks alone, nothing asked twice, cold unless told otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.attacks import APGDT, DDN, FGS, PGD, RFGS, DeepFool, attack_levels
from isogrid.core.errors import InputError
from isogrid.core.random import generator


def network(seed: int, width: int = 16) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(seed, "net", i)))
    return net


def problem() -> tuple[list[nn.Module], torch.Tensor, torch.Tensor]:
    models = [network(0), network(1), network(2)]
    x = torch.rand(64, 8, generator=generator(0, "x"))
    y = models[0](x).argmax(1)
    y[::9] = (y[::9] + 1) % 4
    return models, x, y


def test_each_verdict_is_at_least_that_of_the_attack_alone_and_verified():
    models, x, y = problem()
    attacks = [FGS(eps=0.1), PGD(eps=0.1, steps=10), DeepFool(domain="box"), DDN()]
    for model, outcomes in zip(models, attack_levels(models, attacks, x, y), strict=True):
        for attack, outcome in zip(attacks, outcomes, strict=True):
            alone = attack(model, x, y)
            assert (outcome.success >= alone.success).all()
            if attack.budget is not None:
                assert (outcome.distance[outcome.success] <= attack.budget + 1e-6).all()
            turned = model(outcome.x_adv).argmax(1) != y
            assert turned[outcome.success].all()
            moved = attack.threat.size(outcome.x_adv - x)
            assert torch.allclose(moved[outcome.success], outcome.distance[outcome.success], atol=1e-6)
            assert (outcome.distance[~outcome.correct] == 0).all()
            assert torch.isinf(outcome.distance[outcome.failed]).all()


def test_a_sample_that_a_cheap_attack_broke_is_not_asked_again():
    models, x, y = problem()
    for fgs, pgd in attack_levels(models, [FGS(eps=0.2), PGD(eps=0.2, steps=10)], x, y):
        assert fgs.success.any()
        assert (pgd.forwards[fgs.success] == 0).all()
        assert (pgd.backwards[fgs.success] == 0).all()
        assert (pgd.forwards[fgs.failed] > 0).all()


def test_min_norm_attacks_and_the_first_attack_are_what_they_are_alone():
    models, x, y = problem()
    for model, (fgs, deepfool) in zip(models, attack_levels(models, [FGS(eps=0.1), DeepFool()], x, y), strict=True):
        assert torch.equal(fgs.distance, FGS(eps=0.1)(model, x, y).distance)
        assert torch.equal(deepfool.distance, DeepFool()(model, x, y).distance)


def test_a_short_minimum_norm_example_settles_a_budget_of_its_norm_only():
    models, x, y = problem()
    [[ddn, inside, other]] = attack_levels(models[:1], [DDN(), PGD(eps=0.5, norm="l2", steps=5), PGD(eps=0.01, steps=5)], x, y)
    settled = ddn.success & (ddn.distance <= 0.5)
    assert settled.any()
    assert inside.success[settled].all()
    assert (inside.forwards[settled] == 0).all()
    assert (other.forwards[ddn.success] > 0).all()


def test_warm_starts_change_later_levels_only_and_never_weaken_them():
    models, x, y = problem()
    attacks = [PGD(eps=0.1, steps=2)]
    cold, warm = attack_levels(models, attacks, x, y), attack_levels(models, attacks, x, y, warm=True)
    assert torch.equal(cold[0][0].x_adv, warm[0][0].x_adv)
    assert all((w[0].success >= c[0].success).all() for c, w in zip(cold, warm, strict=True))


class Wavy(nn.Module):
    """Class 1 where the wave is high: a step along the gradient overshoots into the right class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wave = torch.sin(12 * x.sum(1))
        return torch.stack([-wave, wave], 1)


@pytest.mark.parametrize("warm", [False, True])
def test_what_an_attack_corrected_by_accident_is_not_inherited(warm):
    model, x = Wavy(), torch.rand(80, 3, generator=generator(0, "wave"))
    y = (torch.arange(80) % 2).long()  # about half of the labels are wrong
    attacks = [FGS(eps=0.09), PGD(eps=0.09, steps=5), RFGS(eps=0.09), PGD(eps=0.02, steps=5)]
    chained = attack_levels([model, model], attacks, x, y, warm=warm)[-1]
    assert warm or (chained[0].robust & ~chained[0].correct).any(), "FGS corrects no misclassified sample here"
    for attack, outcome in zip(attacks, chained, strict=True):
        alone, wrong = attack(model, x, y), ~outcome.correct
        assert not (outcome.robust & ~alone.robust).any()
        assert torch.equal(outcome.robust, model(outcome.x_adv).argmax(1) == y)
        torch.testing.assert_close(outcome.margin, model(outcome.x_adv).gather(1, y[:, None]).squeeze(1) * 2)
        if not attack.moves_misclassified:
            assert torch.equal(outcome.x_adv[wrong], x[wrong])


def test_warm_starts_are_not_submitted_where_every_sample_is_attacked_anyway():
    models, x, y = problem()
    rows = []
    for model in models:
        model.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    attack_levels(models, [DDN()], x, y)
    cold = sum(rows)
    rows.clear()
    attack_levels(models, [DDN()], x, y, warm=True)
    assert sum(rows) == cold


def test_nothing_to_do_is_refused():
    _, x, y = problem()
    with pytest.raises(InputError, match="chain"):
        attack_levels([], [FGS()], x, y)


def test_a_thrifty_chain_asks_less_of_what_nothing_breaks_and_agrees_here():
    models, x, y = problem()
    attacks = [FGS(eps=0.02), APGDT(eps=0.02, steps=50)]
    plain, thrifty = attack_levels(models, attacks, x, y), attack_levels(models, attacks, x, y, thrifty=True)
    for (_, a), (_, b) in zip(plain, thrifty, strict=True):
        assert torch.equal(a.success, b.success)
        assert b.forwards[b.failed].sum() < a.forwards[a.failed].sum()


def test_all_attacks_on_a_level_share_one_clean_pass():
    models, x, y = problem()
    rows = []
    models[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    attacks = [FGS(eps=0.1), FGS(eps=0.2), FGS(eps=0.3)]
    attack_levels(models[:1], attacks, x, y)
    together, shared = sum(rows), len(x) + 8 + 1  # the clean pass, the probe of its logits, the probe of the batch rule
    rows.clear()
    for attack in attacks:
        attack(models[0], x, y)
    assert together <= sum(rows) - 2 * shared
