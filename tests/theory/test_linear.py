"""Linear classifiers: closed forms against bisection, against attacks in closed form and by search, and bounds by enclosure."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.attacks import FGS
from isogrid.attacks.deepfool import DeepFool
from isogrid.core.errors import InputError
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator
from isogrid.theory import box_distance, fgs_assumption, free_distance, linear_theory, linear_weights

problems = st.builds(
    dict,
    seed=st.integers(0, 2**31),
    classes=st.sampled_from([2, 2, 3, 5]),
    n=st.integers(2, 12),
    sparsity=st.sampled_from([0.0, 0.5, 0.8]),
)


def problem(seed, classes, n, sparsity):
    """An anisotropic problem (weights over two orders of magnitude) with unbalanced classes and some wrong labels."""
    random = generator(seed, "linear problem")

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    W = draw(classes, n) * torch.exp(1.2 * draw(1, n))
    W = W * (torch.rand(classes, n, generator=random) >= sparsity)
    x = torch.rand(60, n, generator=random, dtype=torch.float64)
    b = draw(classes) * 0.3 - W @ x.mean(0)
    y = (x @ W.T + b).argmax(1)
    wrong = torch.rand(60, generator=random) < 0.15
    y = torch.where(wrong, torch.randint(classes, (60,), generator=random), y)
    return W, b, x, y


def bisected(W, b, x, y, norm, box):
    """The boxed distance by bisection over clip(x - lambda * w) or clip(x - t * sign(w)), one sample and one class at a time."""
    result = []
    for point, label in zip(x, y, strict=True):
        z = W @ point + b
        if z.argmax() != label:
            result.append(0.0)
            continue
        best = math.inf
        for k in range(len(W)):
            w = W[label] - W[k]
            if k == label:
                continue

            def moved(t, w=w):
                return (point - t * (w if norm == "l2" else w.sign())).clamp(*box)  # noqa: B023

            def gap(t, w=w, k=k):
                return float(w @ moved(t) + b[label] - b[k])  # noqa: B023

            low, high = 0.0, 1e9
            if gap(high) > 1e-12:
                continue
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if gap(middle) > 0 else (low, middle)
            best = min(best, float(norm_of(norm).size((moved(high) - point)[None])))
        result.append(best)
    return torch.tensor(result, dtype=torch.float64)


@settings(deadline=None, max_examples=15)
@given(problems)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_boxed_distance_equals_bisection(norm, values):
    W, b, x, y = problem(**values)
    x, y = x[:12], y[:12]
    exact, reference = box_distance(W, b, x, y, norm), bisected(W, b, x, y, norm, (0.0, 1.0))
    assert torch.equal(torch.isinf(exact), torch.isinf(reference))
    finite = torch.isfinite(reference)
    assert torch.allclose(exact[finite], reference[finite], rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(problems)
def test_free_distance_is_reached_and_is_minimal(values):
    """The step to the boundary of length d flips the prediction at d * (1 + 1e-9) for some class, and no ray does below d."""
    W, b, x, y = problem(**values)
    correct = (x @ W.T + b).argmax(1) == y
    for name in ("l2", "linf"):
        norm = norm_of(name)
        d = free_distance(W, b, x, y, name)
        assert bool((d[~correct] == 0).all())
        reached = torch.zeros_like(correct)
        for k in range(len(W)):
            away = norm.steepest(W[k] - W[y])
            for share, may in ((1 + 1e-7, True), (1 - 1e-7, False)):
                flipped = ((x + share * d[:, None].nan_to_num(posinf=0.0) * away) @ W.T + b).argmax(1) != y
                if may:
                    reached |= flipped
                else:
                    assert not bool((flipped & correct).any())
        assert bool(reached[correct & torch.isfinite(d) & (d > 1e-6)].all())
        assert bool((box_distance(W, b, x, y, name) >= d * (1 - 1e-9)).all())
        wide = box_distance(W, b, x, y, name, (-1e9, 1e9))
        assert torch.allclose(wide[torch.isfinite(d)], d[torch.isfinite(d)], rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(problems, st.floats(0.01, 0.5))
def test_bounds_are_never_crossed(values, eps):
    W, b, x, y = problem(**values)
    theory = linear_theory(W, b, x, y, eps=[eps])
    exact = theory.r_2("free")
    binary = len(W) == 2
    distance = theory.distance["l2", "free"]
    if binary:
        if math.isfinite(theory.bound_r_2):
            assert theory.bound_r_2 == pytest.approx(exact, rel=1e-9, abs=1e-12)
        assert theory.r_inf_fgs["free", eps] == theory.r_inf_optimal["free", eps]
    else:
        assert float(distance.nan_to_num(posinf=0.0).mean()) <= theory.bound_r_2 * (1 + 1e-9)
    for domain, norm in (("free", "linf"), ("box", "linf")):
        optimal = theory.r_inf_optimal[domain, eps]
        assert optimal <= theory.bound_r_inf[domain, eps] + 1e-9
        assert optimal == pytest.approx(float((theory.distance[norm, domain] > eps).double().mean()), abs=1e-9)
        # FGS may correct errors, so it is compared over the samples that were right
        assert theory.r_inf_fgs[domain, eps] >= optimal - 1e-12
    if bool(theory.assumption[eps].all()):
        assert theory.r_inf_fgs["free", eps] <= theory.bound_r_inf["free", eps] + 1e-9
    assert bool((theory.ratio <= theory.nonzeros.double().sqrt() + 1e-9).all())


@settings(deadline=None, max_examples=15)
@given(problems)
def test_equals_the_drivers_own_deepfool(values):
    """Verified free-domain DeepFool over all classes, divided by 1 + overshoot, is the closed form; FGS is the exact r_inf."""
    W, b, x, y = problem(**values)
    layer = nn.utils.skip_init(nn.Linear, *W.T.shape, dtype=torch.float64)
    layer.weight.data.copy_(W)
    layer.bias.data.copy_(b)
    theory = linear_theory(W, b, x, y, eps=[0.1])
    outcome = DeepFool(domain="free", overshoot=0.02, candidates=None)(layer, x, y)
    expected = theory.distance["l2", "free"]
    assert torch.equal(torch.isfinite(outcome.distance), torch.isfinite(expected))
    found = outcome.distance / 1.02
    known = torch.isfinite(expected) & (expected > 1e-9)
    assert torch.allclose(found[known], expected[known], rtol=1e-4)
    for domain in ("free", "box"):
        fgs = FGS(eps=0.1, domain=domain)(layer, x, y)
        sure = fgs.margin.abs() > 1e-9
        assert abs(float(fgs.robust.double().mean()) - theory.r_inf_fgs[domain, 0.1]) <= float((~sure).double().mean())


def test_equality_with_unbalanced_classes_and_unequal_accuracies():
    """The special case (balanced, equal accuracies) gives another value here: the general priors matter."""
    W, b, x, y = problem(3, 2, 6, 0.0)
    keep = (y == 1) | (torch.arange(len(y)) < 20)
    x, y = x[keep], y[keep]
    theory = linear_theory(W, b, x, y, eps=[0.1])
    w, c = W[1] - W[0], b[1] - b[0]
    sign = y * 2.0 - 1
    correct = ((x @ w + c > 0).long() == y).double()
    by_hand = float((correct * sign * (x @ w + c)).mean() / w.norm())
    assert theory.bound_r_2 == pytest.approx(by_hand, rel=1e-12)
    means = [x[(y == k) & (correct > 0)].mean(0) for k in (0, 1)]
    special = float(correct.mean() * (w @ (means[1] - means[0])) / (2 * w.norm()))
    assert special != pytest.approx(by_hand, rel=1e-3)


def test_assumption_is_measured_false_where_it_fails():
    """Three classes in a plane: FGS goes for the nearest rival with a step whose sign moves the wrong coordinate."""
    found = {True: 0, False: 0}
    for seed in range(60):
        W, b, x, y = problem(seed, 5, 3, 0.5)
        theory = linear_theory(W, b, x, y, eps=[0.05, 0.2])
        for eps, verdict in theory.assumption.items():
            assert torch.equal(verdict, fgs_assumption(W, b, x, y, eps))
            found[bool(verdict.all())] += 1
    assert found[True] > 0
    assert found[False] > 0


def test_rows_carry_every_quantity():
    W, b, x, y = problem(0, 3, 5, 0.0)
    rows = linear_theory(W, b, x, y, eps=[0.1, 0.2]).rows()
    metrics = {row.metric for row in rows}
    assert {"bound_r_2", "bound_r_inf", "r_inf_optimal", "r_2_optimal", "assumption_share"} <= metrics
    assert len({(*row[:3], repr(row.eps)) for row in rows}) == len(rows)
    assert "r_2_equality" in {row.metric for row in linear_theory(W[:2], b[:2], x, y.clamp_max(1), eps=[0.1]).rows()}


@pytest.mark.parametrize("outputs", [1, 4])
def test_linear_weights_of_affine_models(outputs):
    shape = (2, 3, 3)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, outputs))
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    extracted = linear_weights(model, shape)
    assert extracted is not None
    W, b = extracted
    x = torch.rand(5, *shape)
    with torch.no_grad():
        z = model.eval()(x).double()
    z = nn.functional.pad(z, (1, 0)) if outputs == 1 else z
    assert W.shape == (max(outputs, 2), 18)
    assert torch.allclose(x.double().flatten(1) @ W.T + b, z, atol=1e-5)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_linear_weights_refuses_nonlinear_models():
    class Far(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), (x.sum(1) - 300).relu()], 1)

    assert linear_weights(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)) is None
    assert linear_weights(Far(), (3,)) is None  # affine in the unit box, not beyond


def test_unusable_arguments_are_refused():
    W, b, x, y = problem(0, 3, 5, 0.0)
    for bad in ((W[:, :4], b, x, y), (W, b[:2], x, y), (W[:1], b[:1], x, y * 0), (W, b, x, y + 3), (W, b, x[:0], y[:0])):
        with pytest.raises(InputError):
            linear_theory(*bad, eps=[0.1])
    with pytest.raises(InputError):
        linear_theory(W, b, x, y, eps=[-0.1])


def test_a_model_without_weights_has_no_finite_distance():
    W, _, x, y = problem(0, 2, 4, 0.0)
    theory = linear_theory(W * 0, torch.tensor([1.0, 0.0], dtype=torch.float64), x, y * 0, eps=[0.1])
    assert math.isnan(theory.bound_r_2)
    assert math.isnan(theory.r_2("free"))
    assert bool(torch.isinf(theory.distance["linf", "box"]).all())
    assert theory.r_inf_optimal["box", 0.1] == 1.0
