"""C&W against the exact boxed distance of linear models, and against Foolbox."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks.carlini_wagner import PUBLISHED, CarliniWagner
from isogrid.attacks.driver.base import Domain
from isogrid.attacks.steps.penalty import _critical, _multiplier
from isogrid.core.errors import InputError
from isogrid.core.random import generator

Oracle = Callable[..., tuple[nn.Module, Tensor, Tensor, Tensor]]


def network() -> nn.Module:
    draw = generator(5, "test", "cw network")
    model = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 6))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / math.sqrt(parameter.shape[-1]) * 2
    return model


def samples(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    x = (torch.rand(n, 40, generator=generator(6, "test")) * 1.6 - 0.3).clamp(0, 1)  # many pixels at exactly 0 or 1
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("seed", range(2))
def test_within_one_per_cent_of_the_exact_distance_on_linear_models(linear_oracle: Oracle, seed: int, domain: str) -> None:
    model, x, y, exact = linear_oracle("l2", domain, seed)
    reachable = torch.isfinite(exact)
    out = CarliniWagner(converge=True, domain=domain)(model, x, y)  # type: ignore[arg-type]
    assert bool((out.success <= reachable).all())
    assert bool(out.success[reachable].all())
    ratio = out.distance[reachable].double() / exact[reachable]
    assert ratio.min() > 1 - 1e-4
    assert ratio.mean() < 1.01
    assert ratio.median() < 1.005


def test_as_published_it_has_the_authors_settings_and_is_near_the_exact_distance(linear_oracle: Oracle) -> None:
    published = CarliniWagner()
    assert {name: published.value(name) for name in PUBLISHED} == {"searches": 9, "steps": 10_000, "lr": 0.01, "c0": 1e-3}
    model, x, y, exact = linear_oracle("l2", "box", 0)
    reachable = torch.isfinite(exact)
    out = CarliniWagner(steps=400, lr=0.03)(model, x[:12], y[:12])
    assert bool((out.success <= reachable[:12]).all())
    ratio = out.distance[out.success].double() / exact[:12][out.success]
    assert len(ratio) >= 10
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < 1.02


def test_as_published_a_search_that_gets_nowhere_ends_after_a_tenth_of_its_steps_and_the_constant_grows_tenfold() -> None:
    """c is too small for any step of the first two searches to pay; with c0 ten times as large there is one such search less."""
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    model.bias = nn.Parameter(torch.tensor([4.0, -4.0]))
    x, y = torch.full((2, 4), 0.3), torch.zeros(2, dtype=torch.int64)
    small, large = (CarliniWagner(searches=searches, steps=100, lr=0.05, c0=c0)(model, x, y) for searches, c0 in ((6, 1e-3), (5, 1e-2)))
    torch.testing.assert_close(small.distance, large.distance, rtol=1e-3, atol=0)
    assert bool((small.forwards < 600).all())
    assert bool((small.forwards > large.forwards).all())


def test_pixels_at_the_faces_move() -> None:
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # every pixel on a face
    for attack in (CarliniWagner(converge=True), CarliniWagner(converge=True, polish=0, queries=0)):
        out = attack(model, x, torch.tensor([0]))
        assert bool(out.success.all())
        assert out.distance.item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("factor", [1e-3, 1e2, 1e4])
def test_the_scale_of_the_logits_changes_neither_distances_nor_effort(factor: float) -> None:
    model = network()
    x, y = samples(model, 32)
    before = CarliniWagner(converge=True)(model, x, y)
    with torch.no_grad():
        model[2].weight.mul_(factor)  # type: ignore[index, operator, union-attr]
        model[2].bias.mul_(factor)  # type: ignore[index, operator, union-attr]
    after = CarliniWagner(converge=True)(model, x, y)
    assert bool((after.success == before.success).all())
    assert after.distance[after.success].mean() == pytest.approx(before.distance[before.success].mean().item(), rel=1e-2)
    assert after.forwards.float().mean() == pytest.approx(before.forwards.float().mean().item(), rel=0.1)


def test_the_multiplier_is_the_critical_constant_of_a_linear_model() -> None:
    draw = generator(7, "test", "multiplier")
    w, gap = torch.randn(8, 30, generator=draw), torch.rand(8, generator=draw) + 0.1
    x = torch.full_like(w, 0.5)
    critical = _critical(gap, w, x, Domain(name="free"))
    delta = w * (gap / w.square().sum(1))[:, None]  # the exact optimum: it minimises ||delta||^2 - c <w, delta>
    torch.testing.assert_close(_multiplier(delta, w), critical)
    torch.testing.assert_close(2 * delta, critical[:, None] * w)


def test_a_small_first_constant_is_found_out_early_and_a_large_one_comes_down() -> None:
    model = network()
    x, y = samples(model, 32)
    runs = {c0: CarliniWagner(converge=True, c0=c0)(model, x, y) for c0 in (None, 1e-4, 1e3)}
    reference = runs.pop(None)
    for out in runs.values():
        assert out.success.float().mean() >= reference.success.float().mean() - 1e-6
        assert out.distance[out.success].mean() <= 1.05 * reference.distance[reference.success].mean()


def test_failures_are_infinite_and_a_flat_model_is_a_failure() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * 0 + torch.tensor([3.0, 1.0, 0.0])

    out = CarliniWagner(converge=True, searches=2, steps=10)(
        Flat(), torch.rand(4, 5, generator=generator(0, "t")), torch.zeros(4, dtype=torch.int64)
    )
    assert not bool(out.success.any())
    assert bool(torch.isinf(out.distance).all())
    assert bool(out.zero_gradient.all())


def test_confidence_is_kept() -> None:
    model = network()
    x, y = samples(model, 16)
    out = CarliniWagner(converge=True, kappa=0.5)(model, x, y)
    assert out.success.float().mean() > 0.9
    assert out.margin[out.success].max() <= -0.5 + 1e-4


def test_a_verdict_does_not_depend_on_neighbours() -> None:
    model = network()
    x, y = samples(model, 24)
    attack = CarliniWagner(converge=True, searches=4, steps=40)
    whole = attack(model, x, y)
    single = [attack(model, x[i : i + 1], y[i : i + 1]).distance.item() for i in range(0, 24, 6)]
    # Adam normalises its steps, so rounding in a pixel without a gradient is carried along
    torch.testing.assert_close(whole.distance[::6], torch.tensor(single), rtol=2e-3, atol=1e-4)


def test_not_weaker_than_foolbox() -> None:
    fb = pytest.importorskip("foolbox")
    model = network().eval()
    x, y = samples(model, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = fb.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=60, stepsize=0.1, initial_const=0.1)
        _, theirs, broken = attack(fb.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    ours = CarliniWagner(converge=True, searches=5, steps=60)(model, x, y)
    assert ours.success.float().mean() >= broken.float().mean() - 1e-6
    both = ours.success & broken
    assert both.float().mean() > 0.8
    assert ours.distance[both].mean() <= 1.01 * (theirs - x).norm(dim=1)[both].mean()


@pytest.mark.parametrize("bad", [{"searches": 0}, {"lr": 0.0}, {"c0": -1.0}, {"kappa": -0.1}, {"polish": -1}, {"steps": True}])
def test_parameters_are_verified(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        CarliniWagner(**bad)  # type: ignore[arg-type]


def test_a_margin_without_gradient_turns_to_the_nearest_class_that_has_one() -> None:
    """Label and runner-up are constant; of the other two classes the second is farther; without polish nothing repairs a wrong turn."""
    model, w = nn.Linear(8, 4), torch.tensor([1.5, 1.4, 1.3, 1.2, 0.0, 0.0, 0.0, 0.0])
    model.weight.data = torch.stack((0 * w, 0 * w, w, 0.7 * w.flip(0)))
    model.bias.data = torch.tensor([1.0, 0.9, -1.0, -1.0])
    x = torch.full((3, 8), 0.1) + 0.02 * torch.arange(3.0)[:, None]
    out = CarliniWagner(converge=True, polish=0, queries=0)(model, x, torch.zeros(3, dtype=torch.int64))
    exact = (2 - x @ w) / w.norm()
    assert bool(out.success.all())
    assert bool(out.zero_gradient.all()), "the first gradient was zero, and is reported"
    torch.testing.assert_close(out.distance, exact, rtol=0.1, atol=0)
