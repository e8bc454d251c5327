"""The laws that every certificate must obey, as named checks that a user can run on a method of their own.

What belongs here: properties of any proved radius. What does not: how tight it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Final, Literal

import torch
from torch import Tensor, nn

from isogrid.certify import Certifier
from isogrid.core.norms import norm
from isogrid.core.random import generator
from isogrid.testing.bench import ROWS, network, randomness, samples, tiny_network
from isogrid.testing.exact import exact_distance
from isogrid.testing.law import Law, check, demand, laws

_CLOSE: Final = 1e-5
_POINTS: Final = 2000


@cache
def _tiny(norm_name: str, domain: Literal["box", "free"]) -> list[tuple[nn.Sequential, Tensor, Tensor, Tensor]]:
    """Networks that can be enumerated, in float64, with samples at the faces of the box too: (net, x, y, exact distances)."""
    found = []
    for seed, hidden in enumerate(((6,), (4, 4), (5, 3))):
        net = tiny_network(seed, inputs=2 + seed % 2, hidden=hidden)
        x = (torch.rand(5, 2 + seed % 2, dtype=torch.float64, generator=generator(seed, "law certificate")) * 1.2 - 0.1).clamp(0, 1)
        y = net(x).argmax(1)
        found.append((net, x, y, exact_distance(net, x, y, norm_name, domain=domain)))
    return found


def _below_the_truth(method: Certifier) -> None:
    for net, x, y, exact in _tiny(method.norm, method.domain):
        radius = method(net, x, y).radius
        above = torch.nonzero(radius > exact * (1 + 1e-9)).flatten().tolist()
        demand(not above, f"radii {radius[above].tolist()} exceed the exact distances {exact[above].tolist()}")
        demand(bool((radius[exact > 1e-3] > 0).all()), "nothing was proved of samples that are robust")


def _verdicts_are_true(method: Certifier) -> None:
    for net, x, y, exact in _tiny(method.norm, method.domain):
        for eps in (0.05, 10.0):
            said = method.verify(net, x, y, eps)
            demand(not bool((said.certified & (exact < eps * (1 - 1e-9))).any()), f"certified at {eps}: {exact[said.certified].tolist()}")
            demand(not bool((said.broken & (exact > eps * (1 + 1e-9))).any()), f"broken at {eps}: {exact[said.broken].tolist()}")
            z = net(said.x_adv)
            demand(bool((z.argmax(1) != y)[said.broken].all()), "a counterexample is classified as y")
            size = norm(method.norm).size(said.x_adv - x)
            demand(bool((size <= eps).all()), "a counterexample lies outside eps")


def _affine_is_exact(method: Certifier) -> None:
    for classes in (1, 4):
        layer = nn.Linear(12, classes).double()
        net = nn.Sequential(nn.Flatten(), layer)
        with torch.no_grad():
            for i, parameter in enumerate(net.parameters()):
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator(classes, "law affine", i)))
        x = torch.rand(8, 3, 4, dtype=torch.float64, generator=generator(0, "law affine samples"))
        z = nn.functional.pad(net(x), (1, 0)) if classes == 1 else net(x)
        y, weight = z.argmax(1), nn.functional.pad(layer.weight, (0, 0, 1, 0)) if classes == 1 else layer.weight.detach()
        truth = _affine_distance(z, weight, x, y, method)
        radius = method(net, x, y).radius
        finite = torch.isfinite(truth)
        demand(torch.equal(torch.isfinite(radius), finite), f"infinite radii differ: {radius.tolist()} against {truth.tolist()}")
        apart = (radius - truth)[finite].abs() / truth[finite]
        demand(bool((apart <= _CLOSE).all()), f"radii {radius.tolist()} of an affine model, whose distances are {truth.tolist()}")


def _affine_distance(z: Tensor, weight: Tensor, x: Tensor, y: Tensor, method: Certifier) -> Tensor:
    """The exact distances: by formula where the domain is free, by bisection of the greedy optimum (both norms) in the box."""
    found = torch.full((len(x),), math.inf, dtype=torch.float64)
    flat = x.flatten(1)
    for i in range(len(x)):
        for k in range(z.shape[1]):
            if k == y[i]:
                continue
            gap, a = z[i, y[i]] - z[i, k], weight[k] - weight[y[i]]
            if method.domain == "free":
                found[i] = torch.minimum(found[i], gap / (a.norm() if method.norm == "l2" else a.abs().sum()))
                continue
            room, size = torch.where(a > 0, 1 - flat[i], flat[i]), a.abs()
            if (size * room).sum() < gap:
                continue
            low, high = 0.0, 1e6  # the step in direction a, each element cut by the box: t a in l2, t in linf
            for _ in range(200):
                t = (low + high) / 2
                step = torch.minimum(size * t if method.norm == "l2" else torch.full_like(size, t), room)
                low, high = (t, high) if (size * step).sum() < gap else (low, t)
            step = torch.minimum(size * high if method.norm == "l2" else torch.full_like(size, high), room)
            found[i] = torch.minimum(found[i], step.norm() if method.norm == "l2" else step.max())
    return found


def _rows_alone(method: Certifier) -> None:
    model = network()
    x, y = samples(model)
    whole, close = method(model, x, y), getattr(method, "tolerance", 1e-6)  # what is sought in float32 ends elsewhere within it
    order = torch.randperm(ROWS, generator=generator(0, "law order"))
    for rows in (order, torch.arange(0, 7), torch.tensor([3])):
        alone = method(model, x[rows], y[rows]).radius
        demand(torch.allclose(alone, whole.radius[rows], rtol=close, atol=1e-12), f"rows {rows.tolist()} alone have other radii")


def _points_keep_their_class(method: Certifier) -> None:
    model = network()
    x, y = samples(model)
    found = method(model, x, y)
    wrong = model(x).argmax(1) != y
    demand(bool((found.radius[wrong] == 0).all()), "a misclassified sample has a radius")
    size = norm(method.norm)
    for i in torch.nonzero(found.radius > 0).flatten().tolist():
        stream = generator(0, "law points", i)
        delta = torch.randn(_POINTS, *x.shape[1:], dtype=torch.float64, generator=stream)
        delta[::2] = delta[::2].sign()
        radius = found.radius[i].clamp_max(1e3).expand(_POINTS)
        delta = delta / size.size(delta).view(-1, *[1] * (x.dim() - 1)) * radius.view(-1, *[1] * (x.dim() - 1)) * (1 - 1e-6)
        point = x[i] + delta
        point = (point.clamp(0, 1) if method.domain == "box" else point).to(x.dtype)
        demand(bool((model(point).argmax(1) == y[i]).all()), f"a point inside the ball of sample {i} has another class")


def _ties_prove_nothing(method: Certifier) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.arange(3)
    found = method(model, x, y)
    demand(bool((found.radius == 0).all()), "a tie has a radius")
    demand(bool(torch.isinf(found.upper).all()), "a tie counts as an adversarial example")
    for eps in (0.0, 1e-6):
        said = method.verify(model, x, y, eps)
        demand(not bool(said.certified.any()), f"a tie is certified at eps {eps:g}")
        demand(not bool(said.broken.any()), f"a tie is broken at eps {eps:g}")


def _leaves_model_alone(method: Certifier) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    x, y = samples(model.eval())
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clones, state = (x.clone(), y.clone()), randomness()
    method(model, x, y)
    demand([m.training for m in model] == [True, True, False, True, True, True], "a module's train / eval mode changed")
    demand(all(p.requires_grad and p.grad is None for p in model.parameters()), "a parameter's requires_grad or .grad changed")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    demand(not changed, f"the model's {changed} changed")
    demand(torch.equal(x, clones[0]) and torch.equal(y, clones[1]), "the caller's x or y was changed in place")
    demand(state == randomness(), "the global random state (torch, numpy or python) moved")
    demand(torch.is_grad_enabled(), "gradients were left switched off")


def _agrees_with_itself(method: Certifier) -> None:
    model = network()
    x, y = samples(model)
    found = method(model, x, y)
    eps = float(found.radius[found.radius > 0].median()) * (1 - 1e-3)
    said = method.verify(model, x, y, eps).certified
    share = 1 - 2 * float(getattr(method, "tolerance", 0.0))
    demand(bool(said[found.radius * share >= eps].all()), f"radii prove more than the verdict at {eps}")


CERTIFICATE_LAWS: Final[dict[str, Law[Certifier]]] = laws(
    ("below-the-truth", "no radius exceeds the exact distance of an enumerated network, and robust samples get one", _below_the_truth),
    ("verdicts-are-true", "certified is below the exact distance, broken above it, with a counterexample", _verdicts_are_true),
    ("affine-is-exact", "of an affine model the radius is the distance", _affine_is_exact),
    (
        "points-keep-their-class",
        "no sampled point inside a ball has another class; a misclassified sample has no ball",
        _points_keep_their_class,
    ),
    ("ties-prove-nothing", "a tie is certified at no radius, 0 included, and is no adversarial example", _ties_prove_nothing),
    ("rows-alone", "a sample's radius does not depend on its neighbours", _rows_alone),
    ("agrees-with-itself", "what the radius proves, the verdict says", _agrees_with_itself),
    ("leaves-model-alone", "mode, flags, gradients, weights, inputs and random state stay as they were", _leaves_model_alone),
)
"""Name -> law."""


def check_certificate(method: Certifier, names: Iterable[str] | None = None) -> None:
    """Check a method against the named laws (None: all) and raise one AssertionError that lists every broken one.

    >>> from isogrid.certify import CROWN
    >>> check_certificate(CROWN(norm="l2"), ["agrees-with-itself"])
    """
    check(method, CERTIFICATE_LAWS, names)
