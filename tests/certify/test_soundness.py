"""Soundness at length: every registered certificate against attacks, sampled points, enumeration and a MIP, on random networks.

What belongs here: what the law suite asks of a few networks, asked of hundreds. What does not: how tight a certificate is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from isogrid import attacks
from isogrid.certify import CERTIFICATES, BranchAndBound
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator
from isogrid.testing import exact_distance, mip_distance, tiny_network

from .networks import inputs, networks, perturbed, randomised

pytestmark = pytest.mark.slow

SAMPLES, POINTS = 500, 10
ROUNDS = 17
"""Of the 12 networks of `networks`: 204 in all, 102 of them sparse; norm and domain in turn."""
FEW = {"crown": 30, "fast-lin": 30, "fast-lip": 30, "alpha-crown": 1, "branch-and-bound": 1}
"""Samples of a network that the dearer methods are asked about, the two dearest in every third round; the others: all."""
SEARCHED = 4
"""Samples of an enumerated network, or a MIP's, that the two dearest search; the others take all."""
CHEAPER = {"tolerance": 3e-2, "nodes": 200}
"""What a radius costs, not whether it holds."""
ATTACKS = {
    "l2": ({"name": "ddn"}, {"name": "ddn", "backward": "leaky"}),
    "linf": ({"name": "fmn", "norm": "linf"}, {"name": "fmn", "norm": "linf", "backward": "leaky"}),
}


def methods(norm, domain):
    """Every registered method, none of them at more than a search costs here."""
    for name, cls in CERTIFICATES.items():
        made = cls(norm=norm, domain=domain)
        yield name, replace(made, **{field: value for field, value in CHEAPER.items() if hasattr(made, field)})


def living(make, seed, x):
    """(net, y): the first of the networks make(seed), make(seed + 1), ... that tells the samples apart, its logits' means over x taken off.

    So boundaries run between the samples. A network that is constant, or has classes that tie, has nothing to compare.
    """
    for attempt in range(seed, seed + 100):
        net = make(attempt)
        last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            last.bias.sub_(net(x).mean(0))
            z = net(x)
        z = z if z.shape[1] > 1 else nn.functional.pad(z, (1, 0))
        top, y = z.topk(2).values, z.argmax(1)
        if float(y.bincount().max()) <= 0.8 * len(y) and float((top[:, 0] - top[:, 1]).quantile(0.1)) > 1e-3:
            return net, y
    raise AssertionError(f"no living network from seed {seed} on")


def attacked(net, x, y, norm, domain):
    """The distances [N] in float64 and the points of the closest adversarial examples found; inf and the sample where there is none."""
    best, points = torch.full((len(y),), torch.inf, dtype=torch.float64), x.clone()
    for config in ATTACKS[norm]:
        found = attacks.make(config | {"domain": domain})(net, x, y)
        distance = torch.where(found.success, norm_of(norm).size(found.x_adv.double() - x.double()), torch.inf)
        closer = distance < best
        best[closer], points[closer] = distance[closer], found.x_adv[closer]
    return best, points


def keep_their_class(net, x, y, radius, norm, domain, towards, seed):
    """POINTS per sample within the radii: random ones, one of them on the way to the attack's point. How many were looked at."""
    reach = radius.clamp_max(10.0) * (1 - 1e-6)
    points = perturbed(x, reach, norm, domain, POINTS, seed)
    step = towards.double() - x.double()
    size = norm_of(norm).size(step)
    share = torch.where(size > 0, reach / size.clamp_min(1e-300), 0.0).clamp_max(1)
    points[:, 0] = x.double() + step * share.view(-1, *[1] * (x.dim() - 1))
    z = net(points.flatten(0, 1).float())
    other = (z.argmax(1) if z.shape[1] > 1 else (z[:, 0] > 0).long()).view(len(x), POINTS) != y[:, None]
    assert not bool((other & (radius > 0)[:, None]).any())
    return other.numel()


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("name", list(networks()))
def test_no_certificate_exceeds_an_attack_and_points_in_its_ball_keep_their_class(name, seed):
    norm, domain = list(itertools.product(("l2", "linf"), ("box", "free")))[seed // 2 % 4]
    x = inputs(SAMPLES, seed)
    net, y = living(lambda draw: randomised(networks()[name], draw, 0.8 if seed % 2 else 0.0), 1000 * (seed + 1), x)
    distance, towards = attacked(net, x, y, norm, domain)
    assert float(torch.isfinite(distance).double().mean()) > 0.2, "hardly anything to compare with"
    best = torch.zeros(SAMPLES, dtype=torch.float64)
    for method, certify in methods(norm, domain):
        if FEW.get(method) == 1 and seed % 3:
            continue
        rows = slice(0, FEW.get(method, SAMPLES))
        found = certify(net, x[rows], y[rows])
        above = torch.nonzero(found.radius > distance[rows]).flatten().tolist()
        assert not above, f"{method}, {norm}, {domain}: {found.radius[above].tolist()} above {distance[above].tolist()}"
        best[rows] = torch.maximum(best[rows], found.radius)
    assert keep_their_class(net, x, y, best, norm, domain, towards, seed) == SAMPLES * POINTS  # 204 times 5,000: above 10^6


@pytest.mark.parametrize("seed", range(20))
def test_no_certificate_exceeds_the_truth_of_enumerated_networks(seed):
    norm, domain = list(itertools.product(("l2", "linf"), ("box", "free")))[seed % 4]
    size = 2 + seed // 10
    net = tiny_network(100 + seed, inputs=size, hidden=((6,), (4, 4), (5, 3), (8,), (3, 5))[seed % 5])
    if seed % 2:
        with torch.no_grad():
            net[3].weight.mul_(torch.rand(net[3].weight.shape, generator=generator(seed, "soundness")) < 0.5)
    x = (torch.rand(20, size, dtype=torch.float64, generator=generator(seed, "soundness samples")) * 1.2 - 0.1).clamp(0, 1)
    y = net(x).argmax(1)
    truth = exact_distance(net, x, y, norm, domain=domain)
    for method, certify in methods(norm, domain):
        rows = slice(0, SEARCHED if FEW.get(method) == 1 else None)
        found = certify(net, x[rows], y[rows])
        assert bool((found.radius <= truth[rows] * (1 + 1e-9)).all()), method
        assert bool((found.upper >= truth[rows] * (1 - 1e-9)).all()), method


def unrolled(net, shape):
    """Every convolution as the matrix that it is: what a MIP can read."""
    made, sizes = [nn.Flatten()], shape
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            eye = torch.eye(torch.Size(sizes).numel(), dtype=torch.float64).reshape(-1, *sizes)
            with torch.no_grad():
                double = layer.double()
                bias = double(torch.zeros(1, *sizes, dtype=torch.float64))
                dense = nn.Linear(len(eye), bias.numel(), dtype=torch.float64)
                dense.weight.copy_((double(eye) - bias).flatten(1).T)
                dense.bias.copy_(bias.flatten())
                layer.float()
            made, sizes = [*made, dense], bias.shape[1:]
        elif isinstance(layer, nn.ReLU):
            made.append(nn.ReLU())
        else:
            sizes = (torch.Size(sizes).numel(),)
    return nn.Sequential(*made)


def small(kind, seed, sparsity):
    """A perceptron or a convolutional network on inputs [1, 3, 4], dense or sparse."""
    layers = {
        "mlp": (nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)),
        "conv": (nn.Conv2d(1, 2, 2, stride=(1, 2)), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3)),
    }[kind]
    return randomised(nn.Sequential(*layers), seed, sparsity)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_mip_agrees_on_every_property_and_no_certificate_exceeds_it(kind, seed):
    """Twenty networks of ten samples: 200 properties, each at an eps where about half are robust, decided alike by both."""
    x = torch.rand(10, 1, 3, 4, generator=generator(seed, "soundness mip"))
    net, y = living(lambda draw: small(kind, draw, 0.6 if seed % 2 else 0.0), 100 * seed, x)
    truth = mip_distance(unrolled(net, (1, 3, 4)), x, y, eps=1.0)
    eps = float(truth[torch.isfinite(truth)].median()) * 1.01
    said = BranchAndBound().verify(net, x, y, eps)
    assert torch.equal(said.certified, truth > eps)
    assert torch.equal(said.broken, truth <= eps)
    for method, certify in methods("linf", "box"):
        rows = slice(0, SEARCHED if FEW.get(method) == 1 else None)
        found = certify(net, x[rows], y[rows])
        assert bool((found.radius <= truth[rows] * (1 + 1e-6) + 1e-8).all()), method
