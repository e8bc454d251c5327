"""Transfer: candidates come from the source, verdicts from the target; the matrix agrees with attacks done one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import APGDCE, APGDT, FGS, PGD, Attack, AutoAttack, Ensemble, Square, Transfer, transfer_matrix
from isogrid.attacks.autoattack import exhaustive
from isogrid.attacks.steps.losses import LOSSES
from isogrid.core.errors import InputError
from isogrid.data import load
from isogrid.models import build
from isogrid.training import FitConfig, fit


def family(count: int = 3) -> tuple[list[nn.Module], Tensor, Tensor]:
    """Noisy copies of one network (so that candidates transfer in part) and samples that the first classifies correctly."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    models: list[nn.Module] = []
    for k in range(count):
        copy = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
        copy.load_state_dict({name: value + 0.05 * k * torch.randn_like(value) for name, value in base.state_dict().items()})
        models.append(copy)
    x = torch.rand(200, 16)
    return models, x, models[0](x).argmax(1)


def test_a_source_that_is_the_target_is_the_white_box_attack() -> None:
    models, x, y = family()
    white, same = PGD(eps=0.08)(models[0], x, y, seed=4), Transfer(source=models[0], attack=PGD(eps=0.08))(models[0], x, y, seed=4)
    assert torch.equal(white.success, same.success)
    torch.testing.assert_close(exhaustive(PGD(eps=0.08))(models[0], x, y, seed=4).x_adv, same.x_adv)
    assert same.eps == 0.08
    assert same.norm is white.norm


def test_candidates_of_another_model_are_verified_on_the_target() -> None:
    models, x, y = family()
    source, target = models[2], models[0]
    out = Transfer(source=source, attack=PGD(eps=0.08))(target, x, y)
    assert torch.equal(out.success, target(out.x_adv).argmax(1) != y)
    assert 0 < int(out.success.sum()) < int(PGD(eps=0.08)(target, x, y).success.sum())
    assert not out.backwards.any()  # the target's gradients are never asked for
    assert not out.zero_gradient.any()


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Two networks trained from different seeds on real digits, and test samples."""
    split = load("digits")
    models = [build("lenet-300-100", split.train.shape, 10, seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        fit(model, split.train.x, split.train.y, FitConfig(epochs=6), seed=seed)
    return models[0].eval(), models[1].eval(), split.test.x[:200], split.test.y[:200]


ITERATIVE = [
    PGD(eps=0.2),
    APGDCE(eps=0.2, steps=40),
    AutoAttack(eps=0.2, steps=10, queries=40, targets=2),
    Ensemble(attacks=(PGD(eps=0.2), FGS(eps=0.2))),
]


@pytest.mark.parametrize("attack", ITERATIVE, ids=lambda attack: attack.name)
def test_an_iterative_attack_transfers_at_least_as_well_as_one_step(
    attack: Attack, digits: tuple[nn.Module, nn.Module, Tensor, Tensor]
) -> None:
    """A search that stops at the source's boundary crosses no other: the target's figure would be a robustness that is not there."""
    source, target, x, y = digits
    step, many = (Transfer(source=source, attack=a)(target, x, y).robust.double().mean().item() for a in (FGS(eps=0.2), attack))
    assert many <= step + 0.02
    assert transfer_matrix([source, target], attack, x, y)[0, 1].item() == pytest.approx(many)


@pytest.mark.parametrize(
    ("attack", "climbs"),
    [
        (PGD(eps=0.08, restarts=2), "ce"),
        (PGD(eps=0.5, norm="l2", loss="margin"), "margin"),
        (APGDCE(eps=0.08, steps=30), "ce"),
        (APGDT(eps=0.08, steps=20), None),  # several losses a sample
        (Square(eps=0.1, queries=300), "margin"),
        (Square(eps=0.8, norm="l2", queries=300), "margin"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-{value.threat}" if value else "",
)
def test_without_early_exit_no_success_is_lost_and_the_loss_is_higher(
    attack: Attack, climbs: str | None, digits: tuple[nn.Module, nn.Module, Tensor, Tensor]
) -> None:
    model, _, x, y = digits
    first, last = (a(model, x[:60], y[:60]) for a in (attack, exhaustive(attack)))
    assert first.success.any()
    assert torch.equal(first.success, last.success)
    both = first.success
    assert (last.distance[both] <= attack.budget * (1 + 1e-5)).all()
    if climbs is not None:
        rise = LOSSES[climbs](model(last.x_adv), y[:60])[both] - LOSSES[climbs](model(first.x_adv), y[:60])[both]
        assert rise.min() > -1e-4
        assert rise.mean() > 0.01


def test_attacks_without_an_early_exit_are_their_own_exhaustive_form() -> None:
    assert exhaustive(FGS(eps=0.1)) == FGS(eps=0.1)
    assert exhaustive(exhaustive(PGD())) == exhaustive(PGD()) != PGD()


def test_models_are_left_alone() -> None:
    models, x, y = family()
    source, target = models[2].train(), models[0].train()
    Transfer(source=source, attack=FGS(eps=0.1))(target, x, y)
    for model in (source, target):
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_free_attack_needs_the_free_domain() -> None:
    models, _, _ = family()
    attack = FGS(eps=0.1, domain="free")
    with pytest.raises(InputError, match=r"domain: got box; accepted: free"):
        Transfer(source=models[0], attack=attack)
    assert Transfer(source=models[0], attack=attack, domain="free").budget == 0.1


def test_matrix_agrees_with_single_attacks() -> None:
    models, x, y = family()
    attack = PGD(eps=0.06)
    matrix = transfer_matrix(models, attack, x, y, seed=1)
    assert matrix.shape == (3, 3)
    assert matrix.dtype == torch.float64
    for s, source in enumerate(models):
        assert matrix[s, s].item() == pytest.approx(float(attack(source, x, y, seed=1).robust.double().mean()))
        for t, target in enumerate(models):
            one = Transfer(source=source, attack=attack)(target, x, y, seed=1)
            assert matrix[s, t].item() == pytest.approx(float(one.robust.double().mean()), abs=1e-9)
            assert matrix[t, t] <= matrix[s, t] + 0.03  # a model's own gradients are the worst for it


def test_matrix_attacks_each_level_once() -> None:
    models, x, y = family()
    passes = [0] * 3

    def counter(k: int) -> object:
        def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            passes[k] += output.requires_grad and len(output) == len(x)  # the batch rule looks at one sample

        return count

    hooks = [model.register_forward_hook(counter(k)) for k, model in enumerate(models)]
    transfer_matrix(models, FGS(eps=0.1), x, y)
    for hook in hooks:
        hook.remove()
    assert passes == [1, 1, 1]  # one gradient each, however many targets there are


def test_a_target_with_other_inputs_is_refused() -> None:
    models, x, y = family()
    with pytest.raises(Exception, match="forward"):
        transfer_matrix([*models, nn.Linear(5, 3)], FGS(eps=0.1), x, y)
