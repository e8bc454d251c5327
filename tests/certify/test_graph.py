"""Reading a model, and bounds of every node: by agreement with torch and by enclosure of sampled points."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.certify import CERTIFICATES, CROWN, read_graph
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, backward, margin_rows
from isogrid.core.errors import InputError, ModelError
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator

from .networks import inputs, networks, perturbed

NAMES = list(networks())


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_the_model(name):
    net = networks()[name].double()
    graph = read_graph(net, inputs().double())
    x = torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=generator(0, "far points")) * 3
    assert torch.allclose(graph(x)[:, -3:], net(x) if not graph.single else nn.functional.pad(net(x), (1, 0)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("name", NAMES)
def test_every_bound_holds_of_sampled_points(name, sparsity, norm, domain):
    net, x = networks(sparsity)[name], inputs()
    graph = read_graph(net, x)
    bounder = Bounder(graph=graph, norm=norm_of(norm))
    y = graph(x.double()).argmax(1)
    for scale in (0.0, 0.05, 0.5):
        radius = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64) * scale * (4 if norm == "l2" else 1)
        low, high = (0.0, 1.0) if domain == "box" else (-torch.inf, torch.inf)
        ball = Ball(x=x.double(), radius=radius, norm=norm_of(norm), low=low, high=high)
        points = perturbed(x, radius, norm, domain, 300)
        values = graph.values(points.flatten(0, 1))
        for refine, slopes in (("intervals", "adaptive"), ("lines", "adaptive"), ("lines", "parallel")):
            found = bounder.sweep(ball, refine, slopes)
            for node, value, below, above in zip(graph.nodes, values, found.low, found.high, strict=True):
                seen = value.reshape(len(x), -1, *node.shape)
                assert bool((seen >= below[:, None]).all()), (node.name, refine, scale)
                assert bool((seen <= above[:, None]).all()), (node.name, refine, scale)
            rows = margin_rows(graph, y)
            margins = torch.einsum("bkc,bpc->bpk", rows, values[-1].reshape(len(x), 300, -1))
            for relax in (found.relax, found.stop):
                form = backward(found, {len(graph.nodes) - 1: rows}, relax)
                assert bool((form.lowest(ball)[:, None] <= margins).all()), (refine, scale)
                within = radius[:, None] <= form.critical(ball)  # where the critical radius covers the ball no margin may be negative
                assert bool((margins.amin(1)[within] >= 0).all())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deployed_rounding_stays_within_the_bounds_of_a_point(norm):
    """At radius 0 the bounds are what float32 may give, in any order of summation: permuted weights, single rows, float32 accumulation."""
    for name, net in networks().items():
        x = inputs(16)
        graph = read_graph(net, x)
        ball = Ball(x=x.double(), radius=torch.zeros(16, dtype=torch.float64), norm=norm_of(norm))
        found = Bounder(graph=graph, norm=norm_of(norm)).sweep(ball, "lines")
        for z in (net(x), torch.cat([net(row[None]) for row in x])):
            assert bool((z.double() >= found.low[-1]).all()), name
            assert bool((z.double() <= found.high[-1]).all()), name
        width = (found.high[-1] - found.low[-1]).amax()
        assert float(width) < 1e-3, name


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 3)

    def forward(self, x):
        z = self.inner(x.flatten(1))
        return torch.softmax(z, 1) * z


class Mixed(nn.Module):
    """A sample's logits depend on its neighbours."""

    def forward(self, x):
        z = x.flatten(1)[:, :3]
        return z - z.mean(0, keepdim=True)


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] if x.sum() > 0 else x.flatten(1)[:, 3:6]


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 3).bfloat16()

    def forward(self, x):
        return self.inner(x.flatten(1).bfloat16()).float()


class Writes(nn.Module):
    def forward(self, x):
        h = x.flatten(1)[:, :3] - 0.5
        seen = h.view(-1, 3)
        return h.relu_() + seen


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Attention(), r"node softmax \(aten.softmax.int\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 3), nn.GELU()), r"node gelu .* in module 2"),
        (Mixed(), "mixes the samples|is not supported"),
        (Branching(), "branches that depend on values"),
        (Half(), "a cast to torch.bfloat16"),
        (nn.Sequential(nn.Conv2d(2, 3, 1)), "samples of shape"),
        (Writes(), "used elsewhere"),
    ],
    ids=["softmax", "gelu", "mixed", "branching", "half", "maps", "writes"],
)
def test_what_is_not_supported_is_named(net, said):
    with pytest.raises(ModelError, match=said):
        read_graph(net.eval(), inputs())


def test_a_model_that_is_not_its_graph_is_refused():
    class Liar(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :3]
            return z if torch.compiler.is_compiling() else z + 1e-3

    with pytest.raises(ModelError, match="read wrongly"):
        read_graph(Liar(), inputs())


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize(("setting", "value"), [("norm", "l1"), ("domain", "sphere"), ("tolerance", 0.0)])
def test_bad_settings_are_refused(name, setting, value):
    with pytest.raises(InputError, match=setting):
        CERTIFICATES.make({"name": name, setting: value})


def test_bad_samples_are_refused():
    net, x = networks()["mlp"], inputs()
    y = net(x).argmax(1)
    with pytest.raises(InputError, match="values in"):
        CROWN()(net, x * 3, y)
    with pytest.raises(InputError, match="upper"):
        CROWN()(net, x, y, upper=torch.tensor([1.0]))
    with pytest.raises(InputError, match="eps"):
        CROWN().verify(net, x, y, eps=float("nan"))
    with pytest.raises(InputError, match="labels"):
        CROWN()(net, x, y + 3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [1e-30, 1e-12, 1e6, 1e30])
def test_very_small_and_very_large_eps(eps, norm):
    net, x = networks()["mlp"], inputs()
    y = net(x).argmax(1)
    free = CROWN(norm=norm, domain="free").verify(net, x, y, eps)
    boxed = CROWN(norm=norm).verify(net, x, y, eps)
    assert bool(free.certified.all()) == (eps < 1)
    assert bool((boxed.certified >= free.certified).all())
