"""HopSkipJump against closed forms on linear models, and what it promises: hard labels only, a query budget, independent rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import HopSkipJump, make
from isogrid.attacks.driver.base import Counts, Domain, Problem
from isogrid.attacks.hopskipjump import _direction, _Oracle
from isogrid.core.errors import InputError
from isogrid.core.norms import L2, NORMS
from isogrid.core.random import Streams, generator

N, INPUTS, CLASSES = 24, 12, 2


def linear(inputs: int = INPUTS) -> tuple[nn.Linear, Tensor, Tensor]:
    """A binary model with anisotropic weights, so that l2 and linf optima differ, and samples away from the box's faces."""
    g = generator(0, "hopskipjump test", inputs)
    model = nn.Linear(inputs, CLASSES)
    with torch.no_grad():
        model.weight.copy_(torch.randn(CLASSES, inputs, generator=g) * torch.rand(1, inputs, generator=g) ** 2)
        model.bias.copy_(-model.weight.sum(1) / 2)
    x = 0.5 + 0.3 * (torch.rand(N, inputs, generator=g) - 0.5)
    return model, x, model(x).argmax(1)


def exact(model: nn.Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    w = model.weight[1] - model.weight[0]
    return ((x @ w + model.bias[1] - model.bias[0]).abs() / NORMS[norm].dual_size(w[None])).detach()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_approaches_the_exact_distance(norm: str) -> None:
    model, x, y = linear()
    truth = exact(model, x, y, norm)
    few, many = (HopSkipJump(norm=norm, queries=q, domain="free")(model, x, y).distance / truth for q in (600, 4000))
    assert (many >= 1 - 1e-5).all()  # never below the optimum
    assert many.median() < 1.02
    assert many.max() < 1.06
    assert many.mean() < few.mean()


def test_boxed_distance_is_not_below_the_free_one() -> None:
    model, x, y = linear()
    boxed = HopSkipJump(queries=2000)(model, x, y)
    assert boxed.success.all()
    assert (boxed.distance >= exact(model, x, y, "l2") * (1 - 1e-5)).all()
    assert boxed.x_adv.min() >= 0
    assert boxed.x_adv.max() <= 1


@pytest.mark.parametrize("queries", [1, 13, 150, 1000])
def test_never_spends_more_than_its_queries(queries: int) -> None:
    model, x, y = linear()
    seen = 0

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal seen
        seen += len(output)

    hook = model.register_forward_hook(count)
    out = HopSkipJump(queries=queries)(model, x, y)
    hook.remove()
    assert int(out.forwards.max()) <= queries
    assert int(out.forwards.min()) > 0
    assert not out.backwards.any()
    assert seen > int(out.forwards.sum())  # the count is of queries, and padding is not one


def test_uses_nothing_but_predicted_classes() -> None:
    model, x, y = linear()

    class Decision(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(model(x).argmax(1), CLASSES).float()

    soft, hard = (HopSkipJump(queries=1500)(m, x, y) for m in (model, Decision()))
    assert torch.equal(soft.x_adv, hard.x_adv)


def test_rows_are_independent_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 64), nn.ReLU(), nn.Linear(64, 4))
    model[2].bias.data.zero_()
    _, x, _ = linear(300)  # wide enough for a matrix product to round differently at other heights
    y = model(x).argmax(1)
    attack, ids = HopSkipJump(queries=1200), torch.arange(50, 50 + N)
    whole = attack(model, x, y, ids=ids)
    assert whole.success.sum() > N / 2
    for rows in ([3], [0, 1], list(range(7, N))):
        part = attack(model, x[rows], y[rows], ids=ids[rows])
        assert torch.equal(part.x_adv, whole.x_adv[rows])
        assert torch.equal(part.forwards, whole.forwards[rows])


def test_the_direction_is_the_normal_of_the_boundary_even_off_it() -> None:
    """Off the boundary most answers agree; the baseline is what keeps their mean from adding noise."""
    model, x, y = linear()
    w = (model.weight[1] - model.weight[0]).detach()
    normal = w / w.norm() * torch.where(y == 0, 1.0, -1.0)[:, None]
    boundary = x + exact(model, x, y, "l2")[:, None] * normal
    delta = (boundary - x).norm(dim=1, keepdim=True) / INPUTS
    cosine = {}
    for offset in (0.0, 0.5):  # in units of delta, into the wrong class: at 0.5 nearly all answers are "misclassified"
        problem = Problem(
            model=model,
            x=x,
            y=y,
            domain=Domain(name="free"),
            norm=L2,
            budget=None,
            start=None,
            streams=Streams(seed=0, ids=torch.arange(N)),
            counts=Counts.zeros(N, x.device),
            rows=torch.arange(N),
            room=N,
            unit=torch.finfo(x.dtype).eps,
        )
        oracle = _Oracle(problem=problem, left=torch.full((N,), 10_000))
        found = _direction(oracle, boundary + offset * delta * normal, torch.arange(N), step=0, count=400)
        cosine[offset] = (found * normal).sum(1).mean().item()
    assert cosine[0.0] > 0.97
    assert cosine[0.5] > 0.92  # 0.77 without the baseline


def test_seed_decides() -> None:
    model, x, y = linear()
    a, b, c = (HopSkipJump(queries=400)(model, x, y, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.x_adv, b.x_adv)
    assert not torch.equal(a.x_adv, c.x_adv)


def test_a_constant_model_is_an_honest_failure() -> None:
    model = nn.Linear(INPUTS, 2)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    out = HopSkipJump(queries=500)(model, torch.rand(3, INPUTS), torch.zeros(3, dtype=torch.long))
    assert not out.success.any()
    assert torch.isinf(out.distance).all()
    assert int(out.forwards.max()) == HopSkipJump().trials


def test_a_given_start_is_used() -> None:
    class Corner(nn.Module):
        """Class 1 only in a corner that random noise does not find."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x)), x.amin(1) - 0.9], 1)

    x, y = torch.full((2, 40), 0.5), torch.zeros(2, dtype=torch.long)
    attack = HopSkipJump(norm="linf", queries=300)
    assert not attack(Corner(), x, y).success.any()
    start = torch.stack([torch.full((40,), 0.97), torch.full((40,), 0.2)])  # the second one is no adversarial point
    out = attack(Corner(), x, y, start=start)
    assert out.success.tolist() == [True, False]
    assert out.distance[0].item() == pytest.approx(0.4, rel=1e-3)


def test_convolution_shapes_and_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    out = HopSkipJump(queries=800)(model, x, y)
    assert out.x_adv.shape == x.shape
    assert out.x_adv.dtype == torch.float64
    assert (model(out.x_adv).argmax(1) != y)[out.success].all()


@pytest.mark.parametrize("bad", [{"queries": 0}, {"probes": 0}, {"trials": 1.5}, {"norm": "l1"}, {"steps": 3}, {"queries": "many"}])
def test_bad_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make({"name": "hopskipjump"} | bad)
