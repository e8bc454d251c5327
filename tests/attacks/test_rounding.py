"""Where rounding decides: ties, samples next to a boundary, coarse logits, other units of x, logits that dwarf the rest."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import ATTACKS, DDN, FAB, FGS, FMN, PGD, RFGS, CarliniWagner, DeepFool, SuperDeepFool
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.testing.bench import converging, network, samples

MINIMUM = [
    DeepFool(),
    DeepFool(domain="box"),
    SuperDeepFool(),
    CarliniWagner(converge=True),
    CarliniWagner(converge=True, domain="free"),
    DDN(converge=True),
    FMN(converge=True, norm="linf"),
    FAB(converge=True),
]
FIXED = [cls() for cls in ATTACKS.values() if cls().budget is not None and cls.name not in ("autoattack", "noise")]


def named(attack):
    return f"{attack.name}-{attack.domain}-{attack.threat.name}"


class Affine(nn.Module):
    """Logits x W^T + b in the type of W, from x stretched to the box (0, 1)."""

    def __init__(self, W: Tensor, b: Tensor, high: float = 1.0) -> None:
        super().__init__()
        self.W, self.b, self.high = nn.Parameter(W), nn.Parameter(b), high

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) / self.high).to(self.W.dtype) @ self.W.T + self.b


def affine(high=1.0, dtype=torch.float32, classes=3, inputs=20):
    W = torch.randn(classes, inputs, generator=generator(0, "rounding"))
    return Affine(W.to(dtype), (-0.5 * W.sum(1)).to(dtype), high)


def beside(model, step, n=24):
    """Samples [n, 20] in the model's box whose l_inf distance to their nearest class boundary is `step` boxes, and their labels."""
    W, b = model.W.detach().double(), model.b.detach().double()
    x = 0.3 + 0.4 * torch.rand(n, W.shape[1], generator=generator(0, "beside"), dtype=torch.float64)
    z = x @ W.T + b
    top = z.topk(2, 1).indices
    w, gap = W[top[:, 0]] - W[top[:, 1]], z.gather(1, top).diff(dim=1).squeeze(1).neg()
    x = x - ((gap - step * w.abs().sum(1)) / (w * w).sum(1))[:, None] * w
    return (x * model.high).float(), top[:, 0]


@pytest.mark.parametrize("high", [1.0, 255.0, 65535.0, 1e-3])
@pytest.mark.parametrize("attack", [FGS(), RFGS(), PGD(steps=10), *FIXED], ids=named)
def test_a_budget_means_the_same_in_every_unit_of_x(attack, high):
    model = affine(high)
    x, y = beside(model, 0.8 / 512)
    found = dataclasses.replace(attack, eps=high / 512)(model, x, y, box=(0.0, high))
    alike = dataclasses.replace(attack, eps=1 / 512)(affine(), (x.double() / high).float(), y)
    assert abs(int(found.success.sum()) - int(alike.success.sum())) <= 2
    assert bool((found.distance[found.success] <= high / 512 * (1 + 2e-3)).all())


@pytest.mark.parametrize("high", [255.0, 65535.0, 1e-3])
@pytest.mark.parametrize("attack", [*MINIMUM, DDN(), FMN()], ids=named)
def test_a_minimum_distance_follows_the_unit_of_x(attack, high):
    model = network()
    x, y = samples(model)

    class Stretched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x / high)

    one, other = attack(model, x, y), attack(Stretched(), x * high, y, box=(0.0, high))
    assert torch.equal(one.success, other.success)
    torch.testing.assert_close(other.distance[one.success] / high, one.distance[one.success], rtol=5e-2, atol=1e-5)


@pytest.mark.parametrize("attack", MINIMUM, ids=named)
def test_exact_ties_and_their_neighbours_are_broken_nearby(attack):
    torch.manual_seed(0)
    tied = nn.Sequential(nn.Linear(20, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    black = torch.zeros(2, 20)
    assert bool(attack(affine(), *beside(affine(), 1e-8)).distance.max() < 2e-3)
    model = affine()
    model.b.data.zero_()  # all logits of a black image are 0, exactly
    found = attack(model, black, torch.zeros(2, dtype=torch.int64))
    assert bool(found.success.all())
    assert found.distance.max() < 0.02
    assert not bool(attack(tied, black, torch.ones(2, dtype=torch.int64)).success.any()), (
        "class 0 is predicted at a tie: label 1 is an error"
    )


@pytest.mark.parametrize("attack", MINIMUM, ids=named)
@pytest.mark.parametrize("low", [-1e6, -1e9, -1e30])
def test_a_hugely_negative_logit_elsewhere_changes_nothing(attack, low):
    model = network()
    x, y = samples(model)

    class Masked(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.inner, self.value = model, value

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.inner(x)
            return torch.cat([z, torch.full_like(z[:, :2], self.value)], 1)

    one, other = attack(Masked(-50.0), x, y), attack(Masked(low), x, y)
    assert torch.equal(one.success, other.success)
    assert bool(torch.isfinite(other.distance[other.success]).all())
    torch.testing.assert_close(other.distance[one.success], one.distance[one.success], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("inside", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("attack", [converging(cls) for cls in ATTACKS.values() if cls.name != "autoattack"], ids=named)
def test_logits_of_another_type_than_x_are_attacked_all_the_same(attack, inside):
    if hasattr(attack, "queries"):
        attack = dataclasses.replace(attack, queries=60)
    model = affine(dtype=inside)
    x, y = beside(model, 0.02)
    right = model(x).argmax(1) == y  # so near the boundary a coarse type errs here and there
    found = attack(model, x, y)
    assert bool((found.correct == right).all())
    assert found.x_adv.dtype == found.distance.dtype == torch.float32
    if attack.name not in ("noise", "square", "hopskipjump"):
        assert found.success[right].float().mean() >= 0.9


@pytest.mark.parametrize("attack", [FGS(), PGD(steps=4), DDN(converge=True), DeepFool()], ids=named)
def test_half_precision_samples_are_refused_in_one_line(attack):
    model = affine(dtype=torch.float16)
    x, y = beside(model, 0.02)
    with pytest.raises(InputError, match=r"x: got torch.float16 .*accepted: float32 or float64"):
        attack(model, x.half(), y)


def test_a_logit_that_is_no_number_is_found_wherever_it_is():
    model = network()
    x, y = samples(model)

    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = model(x)
            return torch.where((x == x_bad).flatten(1).all(1)[:, None], math.nan, z)

    x_bad = x[11]
    with pytest.raises(ModelError, match=r"NaN or infinite logits for sample 11"):
        FGS()(Holes(), x, y)


def test_a_model_that_writes_into_its_input_is_refused_and_the_samples_stay():
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            return x.flatten(1)[:, :3]

    x, y = samples(network())
    before = x.clone()
    with pytest.raises(ModelError, match="writes into its input"):
        FGS()(Centred(), x, y % 3)
    assert torch.equal(x, before)


class Detached(nn.Module):
    """No graph at all."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].detach()


class OwnGraph(nn.Module):
    """A graph that begins at the module's own copy of the input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return x.detach().requires_grad_().flatten(1)[:, :3] * 1.0


@pytest.mark.parametrize("model", [Detached, OwnGraph])
@pytest.mark.parametrize(
    "attack", [a for a in map(converging, ATTACKS.values()) if not a.gradient_free and a.name != "autoattack"], ids=named
)
def test_a_model_without_a_gradient_to_its_input_is_named_as_such(attack, model):
    x, _ = samples(network())
    with pytest.raises(ModelError, match=r"no gradient with respect to the input.*gradient-free"):
        attack(model(), x, model()(x).argmax(1))


@pytest.mark.parametrize(
    "attack",
    [FGS(), PGD(steps=4), DDN(converge=True), CarliniWagner(converge=True, steps=5), DeepFool(domain="box"), FAB(converge=True, steps=3)],
    ids=named,
)
def test_what_the_caller_holds_may_need_a_gradient_or_forbid_it(attack):
    model = network()
    x, y = samples(model)
    expected = attack(model, x, y)
    asked = attack(model, x.clone().requires_grad_(), y.to(torch.uint8))
    assert not asked.x_adv.requires_grad
    assert not asked.distance.requires_grad
    assert torch.equal(asked.x_adv, expected.x_adv)
    with torch.inference_mode():
        inside = attack(model, x.clone(), y)
    assert torch.equal(inside.x_adv, expected.x_adv)


@pytest.mark.parametrize("budget", [torch.full((16,), -0.1), torch.full((16,), math.nan), torch.full((3,), 0.1), torch.full((16,), 1)])
def test_unusable_radii_are_refused(budget):
    x, y = samples(network())
    with pytest.raises(InputError, match=r"^budget: got"):
        FGS()(network(), x, y, budget=budget)


def test_unusable_starts_ids_and_boxes_are_refused():
    x, y = samples(network())
    for field, given in (("start", {"start": x[:3]}), ("ids", {"ids": torch.arange(3)}), ("box", {"box": (1.0, 0.0)})):
        with pytest.raises(InputError, match=f"^{field}: got"):
            PGD()(network(), x, y, **given)


WRONG = [
    (DeepFool, {"candidates": 0}, "candidates: got 0"),
    (DeepFool, {"candidates": 2.5}, "candidates: got 2.5"),
    (DeepFool, {"steps": 2.5}, "steps: got 2.5"),
    (SuperDeepFool, {"rounds": 1.5}, "rounds: got 1.5"),
    (SuperDeepFool, {"m": 0}, "m: got 0"),
    (CarliniWagner, {"steps": 10.5}, "steps: got 10.5"),
    (CarliniWagner, {"patience": 0}, "patience: got 0"),
    (CarliniWagner, {"lr": math.inf}, "lr: got inf"),
    (DDN, {"sharpness": math.inf}, "sharpness: got inf"),
    (DDN, {"steps": math.inf}, "steps: got inf"),
    (FMN, {"tolerance": math.nan}, "tolerance: got nan"),
    (FAB, {"eta": math.inf}, "eta: got inf"),
    (FAB, {"steps": True}, "steps: got True"),
]


@pytest.mark.parametrize(("cls", "values", "said"), WRONG)
def test_a_parameter_out_of_range_is_named_with_the_value_that_was_given(cls, values, said):
    with pytest.raises(InputError, match=f"^{said}; accepted: "):
        cls(**values)
