"""DeepFool and SuperDeepFool against closed forms on linear models with random anisotropic weights, and against Foolbox."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from isogrid.attacks.deepfool import DeepFool, SuperDeepFool
from isogrid.attacks.driver.base import Domain
from isogrid.attacks.steps.geometry import limits, reach, slope
from isogrid.core.errors import InputError
from isogrid.core.random import generator


def linear(classes: int = 5, size: int = 30, seed: int = 0) -> nn.Linear:
    draw = generator(seed, "test", "linear")
    model = nn.Linear(size, classes)
    scale = torch.rand(size, generator=draw).mul(4).exp()  # anisotropic: l2 and l_inf optima differ
    model.weight.data = torch.randn(classes, size, generator=draw) * scale
    model.bias.data = torch.randn(classes, generator=draw)
    return model


def network(seed: int = 0) -> nn.Module:
    draw = generator(seed, "test", "network")
    model = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 6))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / math.sqrt(parameter.shape[-1]) * 2
    return model


def samples(model: nn.Module, n: int, size: int, *, corners: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, size, generator=generator(1, "test", "x"))
    if corners:  # two thirds of the elements lie exactly on a face
        x = (x * 3 - 1).clamp(0, 1)
    with torch.no_grad():
        return x, model(x).argmax(1)


def exact_free(model: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z, w = model(x).detach(), model.weight.detach()
    gap = (z.gather(1, y[:, None]) - z) / (w[y][:, None] - w[None]).norm(dim=2)
    return gap.scatter(1, y[:, None], math.inf).amin(1)


def exact_boxed(model: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """min over classes of ||clip(x + lambda w) - x|| at the boundary, by bisection on lambda in float64."""
    w, z = model.weight.detach().double(), model(x).detach().double()
    x, best = x.double(), torch.full((len(x),), math.inf, dtype=torch.float64)
    for k in range(len(w)):
        normal = w[k] - w[y]
        need = z.gather(1, y[:, None]).squeeze(1) - z[:, k]
        low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 1e6, dtype=torch.float64)

        def gained(step: torch.Tensor, normal: torch.Tensor = normal) -> torch.Tensor:
            return (normal * ((x + step[:, None] * normal).clamp(0, 1) - x)).sum(1)

        possible = (gained(high) >= need) & (y != k)
        for _ in range(100):
            middle = (low + high) / 2
            enough = gained(middle) >= need
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        size = ((x + high[:, None] * normal).clamp(0, 1) - x).norm(dim=1)
        best = torch.where(possible, torch.minimum(best, size), best)
    return best


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_free_deepfool_is_exact_on_linear_models(seed: int, overshoot: float) -> None:
    model = linear(seed=seed)
    x, y = samples(model, 64, 30)
    out = DeepFool(overshoot=overshoot, candidates=None)(model, x, y)
    assert bool(out.success.all())
    torch.testing.assert_close(out.distance, exact_free(model, x, y) * (1 + overshoot), rtol=1e-4, atol=0)


@pytest.mark.parametrize("attack", [DeepFool(domain="box", candidates=None, overshoot=1e-3), SuperDeepFool(candidates=None)])
def test_boxed_walks_never_beat_the_boxed_optimum_and_come_near(attack: DeepFool | SuperDeepFool) -> None:
    model = linear()
    x, y = samples(model, 64, 30, corners=True)
    out, exact = attack(model, x, y), exact_boxed(model, x, y)
    reachable = torch.isfinite(exact)
    assert bool((out.success == reachable).all())
    ratio = out.distance[reachable].double() / exact[reachable]
    assert ratio.min() > 1 - 1e-4
    # the class is chosen by its first linear estimate, so that single samples may pay for another face than the best
    assert ratio.median() < 1.005
    assert ratio.mean() < 1.05


def test_reach_is_the_shortest_boxed_move() -> None:
    draw = generator(2, "test", "reach")
    x, w = torch.rand(40, 12, generator=draw, dtype=torch.float64), torch.randn(40, 12, generator=draw, dtype=torch.float64)
    most = (w * (torch.where(w > 0, 1.0, 0.0) - x)).sum(1)
    gain = most * torch.rand(40, generator=draw, dtype=torch.float64)
    z = reach(x, w, gain, Domain())
    assert bool(((z >= 0) & (z <= 1)).all())
    torch.testing.assert_close((w * (z - x)).sum(1), gain, rtol=1e-3, atol=1e-9)
    # optimality: no random point of the box that gains as much is closer
    for _ in range(200):
        other = reach(torch.rand(40, 12, generator=draw, dtype=torch.float64), w, torch.full((40,), 1e-9, dtype=torch.float64), Domain())
        enough = (w * (other - x)).sum(1) >= gain
        assert bool(((other - x).norm(dim=1) >= (z - x).norm(dim=1) - 1e-9)[enough].all())
    assert torch.equal(reach(x, torch.zeros_like(w), gain, Domain()), x)
    far = reach(x, w, 2 * most, Domain())
    torch.testing.assert_close((w * (far - x)).sum(1), most)


def test_slope_counts_only_the_elements_that_can_move() -> None:
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    w = torch.tensor([[3.0, -7.0, -4.0, 11.0, -12.0]])  # the second and the fourth are pushed against their faces
    assert slope(w, limits(x, Domain())).item() == pytest.approx(13.0)
    assert slope(w, limits(x, Domain(name="free"))).item() == pytest.approx(w.norm().item())


def test_tiny_gradients_do_not_underflow() -> None:
    model = linear()
    x, y = samples(model, 8, 30)
    model.weight.data *= 1e-25
    model.bias.data *= 1e-25
    out = DeepFool(candidates=None)(model, x, y)
    torch.testing.assert_close(out.distance.double(), exact_free(model.double(), x.double(), y) * 1.02, rtol=1e-3, atol=0)


class _Flat(nn.Module):
    """Logits that do not depend on x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * 0 + torch.tensor([3.0, 1.0, 0.0])


@pytest.mark.parametrize("attack", [DeepFool(), DeepFool(domain="box"), SuperDeepFool(), SuperDeepFool(m=1, n=2)])
def test_zero_gradients_are_reported_as_failures(attack: DeepFool | SuperDeepFool) -> None:
    x = torch.rand(5, 4, generator=generator(0, "test"))
    out = attack(_Flat(), x, torch.zeros(5, dtype=torch.int64))
    assert not bool(out.success.any())
    assert bool(torch.isinf(out.distance).all())
    assert bool(out.zero_gradient.all())


def test_a_class_out_of_reach_in_the_box_is_a_failure() -> None:
    model = linear(classes=2)
    x, y = samples(model, 16, 30)
    model.bias.data[0] += 1e6
    out = DeepFool(domain="box")(model, x, torch.zeros_like(y))
    assert not bool(out.success.any())
    assert bool(torch.isinf(out.distance).all())


@pytest.mark.parametrize("attack", [DeepFool(domain="box"), DeepFool(), SuperDeepFool(), SuperDeepFool(m=1, n=1)])
def test_a_verdict_does_not_depend_on_neighbours(attack: DeepFool | SuperDeepFool) -> None:
    model = network()
    x, y = samples(model, 48, 40, corners=True)
    whole = attack(model, x, y)
    single = [attack(model, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i])).distance.item() for i in range(0, 48, 6)]
    torch.testing.assert_close(whole.distance[::6], torch.tensor(single), rtol=1e-4, atol=1e-5)


def test_boxed_deepfool_does_not_stall_and_dead_candidates_fall_back_to_all_classes() -> None:
    model = network(3)
    x, y = samples(model, 200, 40, corners=True)
    top, every = DeepFool(domain="box")(model, x, y), DeepFool(domain="box", candidates=None)(model, x, y)
    assert every.success.float().mean() > 0.95
    assert top.success.float().mean() >= every.success.float().mean() - 1e-6
    dead = linear(classes=4)
    dead.weight.data[1:3] = dead.weight.data[0]  # the two highest rivals move with class 0: no direction reaches them
    dead.bias.data = torch.tensor([30.0, 29.9, 29.8, 0.0])
    x, _ = samples(dead, 32, 30)
    y = dead(x).argmax(1)
    own = y == 0
    out = DeepFool(candidates=2)(dead, x[own], y[own])
    assert bool(out.success.all())


def test_not_weaker_than_foolbox() -> None:
    fb = pytest.importorskip("foolbox")
    model = network(1).eval()
    x, y = samples(model, 128, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        _, theirs, broken = fb.attacks.L2DeepFoolAttack(steps=50, candidates=None, overshoot=0.02)(wrapped, x, y, epsilons=None)
    ours = DeepFool(domain="box", candidates=None)(model, x, y)
    assert ours.success.float().mean() >= broken.float().mean() - 1e-6
    both = ours.success & broken
    assert both.float().mean() > 0.8
    assert ours.distance[both].mean() <= 1.01 * (theirs - x).norm(dim=1)[both].mean()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"candidates": True}, {"parts": 0}])
def test_parameters_are_verified(bad: dict[str, int]) -> None:
    with pytest.raises(InputError):
        DeepFool(**bad)


def test_in_the_free_domain_a_negative_gain_moves_back_to_the_plane():
    """SuperDeepFool's projection x0 + <w, x - x0> / ||w||^2 w, on whichever side of x0 the plane lies."""
    x, w = torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    there = reach(x, w, torch.tensor([-5.0, 5.0]), Domain(name="free"))
    assert torch.allclose(there, torch.tensor([[-0.1, -0.3], [1.1, 1.3]]))
    assert torch.equal(reach(x, w, torch.tensor([-5.0, 0.0]), Domain()), x)
