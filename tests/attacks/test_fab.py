from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from isogrid.attacks.ddn import DDN
from isogrid.attacks.driver.base import Domain
from isogrid.attacks.fab import FAB
from isogrid.attacks.fmn import FMN
from isogrid.attacks.steps.projections import Planes, capped_root
from isogrid.core.errors import InputError
from isogrid.core.norms import NORMS


def _least_l2(x, a, gap):
    """scipy's solution of min ||d|| subject to <a, d> = gap, x + d in the box."""
    plane = {"type": "eq", "fun": lambda d: a @ d - gap, "jac": lambda d: a}
    start = gap * a / (a @ a)
    sides = list(zip(-x, 1 - x, strict=True))
    found = minimize(lambda d: d @ d, start, jac=lambda d: 2 * d, method="SLSQP", tol=1e-14, bounds=sides, constraints=plane)
    assert found.success
    return float(np.sqrt(found.fun))


def _least_linf(x, a, gap):
    """The linear programme min s subject to -s <= d <= s, <a, d> = gap, x + d in the box."""
    n, eye, ones = len(a), np.eye(len(a)), np.ones((len(a), 1))
    within = np.block([[eye, -ones], [-eye, -ones]])
    sides = [*zip(-x, 1 - x, strict=True), (0, None)]
    found = linprog(np.r_[np.zeros(n), 1], A_ub=within, b_ub=np.zeros(2 * n), A_eq=np.r_[a, 0][None], b_eq=[gap], bounds=sides)
    assert found.success
    return found.fun


def _planes(n: int = 7, rows: int = 24):
    draw = torch.Generator().manual_seed(1)
    x = (1.4 * torch.rand(rows, n, generator=draw, dtype=torch.float64) - 0.2).clamp(0, 1)
    w = torch.randn(rows, n, generator=draw, dtype=torch.float64) * 10 ** torch.linspace(-2, 1, n, dtype=torch.float64)
    share = 0.9 * torch.rand(rows, generator=draw, dtype=torch.float64)
    side = torch.where(torch.arange(rows) % 2 == 0, 1.0, -1.0).double()
    toward = w * side[:, None]
    most = (toward * (torch.where(toward > 0, 1.0, 0.0) - x)).sum(1)
    return x, w, share * most * side, most * side


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_a_projection_is_on_the_plane_in_the_box_minimal_and_idempotent(name):
    x, w, gap, _ = _planes()
    norm, planes = NORMS[name], Planes.of(w, NORMS[name], Domain())
    z = planes.nearest(x, gap)
    assert (z == z.clamp(0, 1)).all()
    torch.testing.assert_close((w * (z - x)).sum(1), gap, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(planes.nearest(z, torch.zeros_like(gap)), z)
    for b in range(len(x)):
        a = w[b].numpy()
        best = _least_l2(x[b].numpy(), a, gap[b].item()) if name == "l2" else _least_linf(x[b].numpy(), a, gap[b].item())
        assert norm.size((z - x)[b : b + 1]).item() == pytest.approx(best, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_projections_in_the_free_domain_and_out_of_reach(name):
    x, w, gap, most = _planes()
    norm = NORMS[name]
    z = Planes.of(w, norm, Domain(name="free")).nearest(x, gap)
    torch.testing.assert_close((w * (z - x)).sum(1), gap)
    torch.testing.assert_close(norm.size(z - x), gap.abs() / norm.dual_size(w))
    vertex = Planes.of(w, norm, Domain()).nearest(x, 2 * most)
    assert (vertex == torch.where(w * most[:, None] > 0, 1.0, 0.0)).all()
    assert (Planes.of(0 * w, norm, Domain()).nearest(x, gap) == x).all()
    tiny = Planes.of(w.float() * 1e-30, norm, Domain()).nearest(x.float(), gap.float() * 1e-30)
    torch.testing.assert_close(tiny, Planes.of(w, norm, Domain()).nearest(x, gap).float(), atol=1e-4, rtol=1e-3)


def test_the_l2_projection_is_non_expansive():
    x, w, _, _ = _planes()
    planes, level = Planes.of(w, NORMS["l2"], Domain()), (w * 0.5).sum(1)  # every plane holds the centre of the box
    other = x.flip(0)
    a, b = (planes.nearest(p, level - (w * p).sum(1)) for p in (x, other))
    assert ((a - b).norm(dim=1) <= (x - other).norm(dim=1) + 1e-9).all()


def test_capped_root_solves_its_equation():
    draw = torch.Generator().manual_seed(2)
    rate, cap = (torch.rand(50, 30, generator=draw, dtype=torch.float64) for _ in range(2))
    rate[:, :5], cap[:, 3:9] = 0, 0
    target = torch.rand(50, generator=draw, dtype=torch.float64) * torch.where(rate > 0, cap, 0).sum(1)
    t = capped_root(rate, cap, target)
    torch.testing.assert_close(torch.minimum(rate * t[:, None], cap).sum(1), target)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_reaches_the_exact_distance_on_linear_models(linear_oracle, norm, domain):
    model, x, y, exact = linear_oracle(norm, domain)
    out = FAB(converge=True, norm=norm, domain=domain)(model, x, y)
    assert out.success.tolist() == torch.isfinite(exact).tolist()
    ratio = out.distance.double() / exact
    assert (out.distance.double() >= exact * (1 - 1e-5) - 1e-6).all()
    assert ratio.max() < 1.01


@pytest.mark.parametrize(("norm", "peer"), [("l2", DDN(converge=True)), ("linf", FMN(converge=True, norm="linf"))])
def test_is_as_near_as_the_untargeted_attacks(small_net, norm, peer):
    model, x, y = small_net
    x, y = x[:24], y[:24]
    out = FAB(converge=True, norm=norm)(model, x, y)
    assert out.success.all()
    assert out.distance.mean() <= peer(model, x, y).distance.mean() * 1.005
    full = FAB(norm=norm, steps=60)(model, x[:12], y[:12])
    assert out.distance[:12].mean() <= full.distance.mean() * 1.003
    assert (full.backwards == 60 * 9).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_verdict_is_that_of_the_distance_and_costs_less(small_net, norm):
    model, x, y = small_net
    x, y = x[:24], y[:24]
    free = FAB(converge=True, norm=norm)(model, x, y)
    eps = free.distance.median().item()
    out = FAB(converge=True, norm=norm, eps=eps)(model, x, y)
    clear = (free.distance / eps - 1).abs() > 0.01
    assert (out.success == (free.distance <= eps))[clear].all()
    assert (out.distance[out.success] <= eps * (1 + 1e-5) + 1e-6).all()
    assert out.forwards[out.success].sum() < 0.5 * free.forwards[out.success].sum()


def test_restarts_never_hurt_and_are_seeded(small_net):
    model, x, y = small_net
    x, y = x[:10], y[:10]
    one, more, again = (
        FAB(converge=True, targets=3)(model, x, y),
        FAB(converge=True, targets=3, restarts=2)(model, x, y),
        FAB(converge=True, targets=3, restarts=2)(model, x, y),
    )
    assert (more.distance <= one.distance + 1e-4).all()
    assert (more.x_adv == again.x_adv).all()


def test_rows_do_not_see_each_other(small_net):
    model, x, y = small_net
    attack = FAB(converge=True, norm="linf", targets=4, restarts=2)
    whole, part = attack(model, x[:10], y[:10]), attack(model, x[5:9], y[5:9], ids=torch.arange(5, 9))
    torch.testing.assert_close(part.distance, whole.distance[5:9], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_constant_model_fails_honestly_at_once(norm):
    model = nn.Linear(5, 3)
    nn.init.zeros_(model.weight)
    model.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    out = FAB(converge=True, norm=norm)(model, torch.rand(4, 5), torch.zeros(4, dtype=torch.long))
    assert not out.success.any()
    assert torch.isinf(out.distance).all()
    assert (out.backwards == 2).all()  # one gradient a target says that there is none


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"eps": -1.0}, {"targets": 0}, {"eta": 0.9}, {"norm": "l1"}, {"restarts": 1.5}])
def test_parameters_are_verified(wrong):
    with pytest.raises(InputError):
        FAB(**wrong)
