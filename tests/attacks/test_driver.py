"""The driver against attacks that lie, cheat and misbehave: nothing that an attack says is believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS
from isogrid.attacks.driver.base import Domain, batch_rows, log_odds, margin
from isogrid.attacks.driver.kinds import EitherKind
from isogrid.attacks.driver.subject import MAX_ROWS
from isogrid.core.errors import InputError
from isogrid.core.random import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted(EitherKind):
    """Returns whatever `script(problem)` returns."""

    name: ClassVar[str] = "scripted"
    role: ClassVar[str] = "strong"
    strength: ClassVar[dict[str, int]] = {}
    script: Callable = None

    @property
    def norm(self):
        return "l2" if self.eps is None else "linf"

    def expected_gradients(self):
        return 1.0

    def search(self, problem):
        return self.script(problem)


@pytest.fixture
def model():
    """Class 1 where the mean exceeds 1/2."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4))
        layer.bias.copy_(torch.tensor([2.0, -2.0]))
    return layer


X = torch.tensor([[0.6] * 4, [0.4] * 4, [0.7] * 4])
Y = torch.tensor([1, 0, 0])  # the last one is misclassified from the start


def run(model, script, **options):
    return Scripted(script=script, **options)(model, X, Y)


def honest_failure(out):
    assert out.success.tolist() == [False] * 3
    assert out.distance.tolist() == [math.inf, math.inf, 0.0]
    assert out.failed.tolist() == [True, True, False]
    assert out.robust.tolist() == [True, True, False], "what is no adversarial example must not lower r_inf"
    assert bool(torch.isfinite(out.x_adv).all())


@pytest.mark.parametrize("eps", [None, 0.3])
def test_the_clean_image_is_no_success(model, eps):
    honest_failure(run(model, lambda p: p.x, eps=eps))


@pytest.mark.parametrize("eps", [None, 0.3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_candidates_that_are_not_finite_are_no_success(model, value, eps):
    honest_failure(run(model, lambda p: torch.full_like(p.x, value), eps=eps))
    honest_failure(run(model, lambda p: torch.full_like(p.x, value), eps=eps, domain="free"))


@pytest.mark.parametrize("eps", [None, 0.3])
def test_one_bad_element_spoils_its_own_row_only(model, eps):
    def script(p):
        x = 1 - p.x
        x[0, 2] = math.nan
        return x

    out = run(model, script, eps=eps)
    assert out.success.tolist() == [False, True, False]
    assert out.robust.tolist() == [True, False, False]


def test_exceeding_eps_is_no_success(model):
    for eps in (0.1, 0.199, 0.2 * (1 - 1e-4)):
        honest_failure(run(model, lambda p: 1 - p.x, eps=eps))
    out = run(model, lambda p: 1 - p.x, eps=0.2 + 1e-7)
    assert out.success.tolist() == [True, True, False]


def test_a_budget_per_row_is_held_per_row(model):
    out = Scripted(script=lambda p: 1 - p.x, eps=0.3)(model, X, Y, budget=torch.tensor([0.1, 0.3, 0.3]))
    assert out.success.tolist() == [False, True, False]


def test_leaving_the_box_is_clipped_and_measured_after(model):
    out = run(model, lambda p: torch.where(p.y[:, None] == 1, -5.0, 7.0).expand_as(p.x))
    assert out.x_adv.min() >= 0
    assert out.x_adv.max() <= 1
    assert torch.allclose(out.distance, torch.tensor([1.2, 1.2, 0.0]))
    free = run(model, lambda p: torch.where(p.y[:, None] == 1, -5.0, 7.0).expand_as(p.x), domain="free")
    assert torch.allclose(free.distance, torch.tensor([11.2, 13.2, 0.0]))


def test_clipping_that_undoes_the_success_is_seen(model):
    """Outside the box the point is adversarial, its clipped self is not."""

    def script(p):
        return p.x + torch.where(p.y == 1, -1.0, 1.0)[:, None] * torch.tensor([3.0, 0.0, 0.0, 0.0])

    out = run(model, lambda p: script(p).clamp(-9, 9))
    moved = (out.x_adv - X).abs().sum(1)
    for row in range(2):
        assert bool(out.success[row]) == bool(model(out.x_adv)[row].argmax() != Y[row])
        assert moved[row] <= 0.6 + 1e-6


def test_an_all_zero_image_is_measured_in_full(model):
    out = run(model, lambda p: torch.zeros_like(p.x))
    assert out.success.tolist() == [True, False, False]
    assert torch.allclose(out.distance, torch.tensor([1.2, math.inf, 0.0]))


def test_writing_into_the_samples_changes_nothing_for_the_caller(model):
    def script(p):
        p.x.zero_()
        return p.x + 0.0

    for n in (2, 3):  # with and without a misclassified row
        x = X[:n].clone()
        out = Scripted(script=script)(model, x, Y[:n])
        assert torch.equal(x, X[:n]), "the caller's samples were overwritten"
        assert out.distance[0] > 1, "a distance was measured from overwritten samples"


def test_misclassified_rows_are_not_handed_over(model):
    seen = []
    run(model, lambda p: (seen.append(p.y.tolist()), p.x)[1])
    assert seen == [[1, 0]]


def test_a_wrong_shape_is_refused(model):
    with pytest.raises(RuntimeError):
        run(model, lambda p: p.x[:, :2])


def test_infinite_logits_at_the_candidate_are_no_success(model):
    class Fragile(nn.Module):
        def forward(self, x):
            return torch.where((x < 0.1).any(1, keepdim=True), math.nan, model(x))

    out = Scripted(script=lambda p: torch.zeros_like(p.x))(Fragile(), X, Y)
    honest_failure(out)


def test_an_exception_restores_the_model(model):
    model.train()

    def script(p):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        run(model, script)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_rounding_at_the_boundary_is_nudged_never_invented(model):
    """A candidate a rounding error short of the boundary counts, at its true, longer distance; one 1 % short does not."""
    boundary = 0.5 * torch.ones(2, 4)
    out = run(model, lambda p: p.x + (boundary - p.x) * (1 - 1e-6))
    assert out.success.tolist() == [True, True, False]
    assert bool((out.distance[:2] >= 0.2 * (1 - 1e-6)).all())
    assert bool((out.distance[:2] <= 0.2 * 1.002).all())
    honest_failure(run(model, lambda p: p.x + (boundary - p.x) * 0.99))


def test_queries_are_counted_per_row(model):
    def script(p):
        p.logits(p.x)
        part = torch.tensor([1])
        p.gradient(p.x[part], margin, part)
        list(p.boundaries(p.x[part], torch.tensor([[1]]), part)[2])
        p.take(torch.tensor([False, True])).logits(p.x[1:])
        return p.x

    out = run(model, script)
    assert out.forwards.tolist() == [1, 4, 0]
    assert out.backwards.tolist() == [0, 2, 0]


def test_batches_cover_every_row_once_and_report_progress():
    model = nn.Linear(3, 2)
    x = torch.rand(2 * MAX_ROWS + 5, 3, generator=generator(0, "many"))
    done = []
    out = FGS(eps=0.1)(model, x, torch.zeros(len(x), dtype=torch.long), on_batch=done.append)
    assert done == [MAX_ROWS, 2 * MAX_ROWS, len(x)]
    assert len(out.success) == len(x)


def test_the_batch_rule_depends_on_model_and_shape_only():
    wide = nn.Sequential(nn.Linear(10, 200_000), nn.ReLU(), nn.Linear(200_000, 2))
    few, many = (batch_rows(wide, torch.zeros(n, 10), 8) for n in (1, 50))
    assert few == many < MAX_ROWS
    assert batch_rows(nn.Linear(10, 2), torch.zeros(1, 10), 8) == MAX_ROWS


def test_log_odds_is_a_monotone_form_of_the_cross_entropy():
    z = torch.randn(50, 5, generator=generator(0, "logits"), dtype=torch.float64) * 4
    y = torch.arange(50) % 5
    assert torch.allclose(nn.functional.softplus(log_odds(z, y)), nn.functional.cross_entropy(z, y, reduction="none"))
    assert torch.equal(margin(z, y) > 0, z.argmax(1) == y)


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_domain_needs_limits(limits):
    with pytest.raises(InputError):
        Domain(low=limits[0], high=limits[1])


def test_a_prediction_that_changes_without_a_perturbation_is_no_success(model):
    class Turncoat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.sign = model, 1.0

        def forward(self, x):
            return self.sign * self.inner(x)

    turncoat = Turncoat()

    def script(p):
        turncoat.sign = -1.0
        return p.x

    for eps in (None, 0.3):
        turncoat.sign = 1.0
        out = run(turncoat, script, eps=eps)
        assert out.success.tolist() == [False] * 3
        assert out.distance.tolist() == [math.inf, math.inf, 0.0]
