"""Reading a model, and bounds of every node: by agreement with torch and by enclosure of sampled points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.certify import CERTIFICATES, CROWN, read_graph, strongest
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


class Forward(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x.flatten(1)[:, :3] @ torch.eye(3)


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
        (Forward(lambda x: x.flatten(1)[:, :3] - x.mean()), "node mean .* mixes the samples"),
        (Forward(lambda x: x.flatten(1)[:, :3].flip(0)), "node flip .* mixes the samples"),
        (Forward(lambda x: x.flatten(1)[:, :3].roll(1, 0)), "node roll .* mixes the samples"),
        (Forward(lambda x: x.flatten(1)[:, :3] + 1e-7 * torch.randn(3)), "node randn .* random"),
        (Forward(lambda x: torch.func.vmap(torch.relu)(x.flatten(1)[:, :3])), "no tensor operation"),
        (Forward(autocast), "a mode of its own"),
        (Forward(lambda x: nn.functional.leaky_relu(x.flatten(1)[:, :3], math.nan)), "node leaky_relu .* not finite"),
        (Forward(lambda x: x.flatten(1)[:, :3].clamp_min(0) - math.inf), "not finite"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, nn.Module) else str(given)[:20],
)
def test_what_is_not_supported_is_named(net, said):
    with pytest.raises(ModelError, match=said):
        read_graph(net.eval(), inputs())


def test_reading_a_model_leaves_torch_as_it_is():
    with pytest.raises(ModelError):
        read_graph(Forward(lambda x: torch.func.vmap(lambda v: v.relu())(x.flatten(1)[:, :3])), inputs())
    torch.randn(2)  # inside a vmap that was left open it would raise


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
    with pytest.raises(InputError, match="box"):
        CROWN()(net, x, y, box=(-1e300, 1e300))
    for field, call in (
        ("x", lambda: CROWN()(net, x.numpy(), y)),
        ("y", lambda: CROWN()(net, x, y.tolist())),
        ("y", lambda: CROWN()(net, x, None)),
        ("y", lambda: CROWN()(net, x, y[:, None])),
        ("model", lambda: CROWN()(None, x, y)),
        ("upper", lambda: CROWN()(net, x, y, upper=[1.0] * len(y))),
        ("upper", lambda: CROWN()(net, x, y, upper=torch.full((len(y),), math.nan))),
        ("eps", lambda: CROWN().verify(net, x, y, "0.1")),
        ("eps", lambda: CROWN().verify(net, x, y, True)),
        ("x_adv", lambda: CROWN().verify(net, x, y, 0.1, x_adv=x[1:])),
        ("x_adv", lambda: CROWN().verify(net, x, y, 0.1, x_adv=x.numpy())),
        ("certificates", lambda: strongest([])),
    ):
        with pytest.raises(InputError) as raised:
            call()
        assert raised.value.field == field


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_labels_of_any_integer_type(dtype):
    net, x = networks()["mlp"], inputs(2)
    y = net(x).argmax(1)
    for name in CERTIFICATES:
        method = CERTIFICATES.make({"name": name})
        assert torch.equal(method.verify(net, x, y.to(dtype), 0.05).certified, method.verify(net, x, y, 0.05).certified)


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


class Underflow(nn.Module):
    """(1 - h + 2 h, 0) for h = relu(4 x - 2), but in float32 the second h is 0."""

    def __init__(self):
        super().__init__()
        self.hidden = linear([[4.0, 0.0]], [-2.0])
        self.tiny = nn.Sequential(linear([[1e-30]]), linear([[2e-20]]), linear([[1e25]]), linear([[1e25]]))

    def forward(self, x):
        h = torch.relu(self.hidden(x))
        z = 1 - h + self.tiny(h)
        return torch.cat([z, z * 0], 1)


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("domain", ["box", "free"])
def test_what_float32_cannot_hold_is_not_certified(name, norm, domain):
    """Exact arithmetic keeps the class everywhere; the deployed network overflows, or loses a term, and gives another."""
    method, y = CERTIFICATES.make({"name": name, "norm": norm, "domain": domain}), torch.tensor([0])
    overflow = nn.Sequential(linear([[3e38, 3e38]], [0.0]), nn.ReLU(), linear([[-1e-38], [0.0]], [7.0, 0.0]))
    unread = nn.Sequential(linear([[1.0, 1.0], [3e38, 3e38]], [0.0, 0.0]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0]))
    cases = (overflow, [0.4, 0.4], [0.9, 0.9]), (unread, [0.4, 0.4], [0.9, 0.9]), (Underflow(), [0.3, 0.4], [1.0, 0.4])
    for net, x, worse in cases:
        x, worse = torch.tensor([x]), torch.tensor([worse])
        assert net(x).argmax() == 0
        assert not net(worse)[0, 0] > 0
        distance = torch.linalg.vector_norm(worse - x, ord=2 if norm == "l2" else math.inf).item()
        assert method(net, x, y).radius.item() < distance
        assert not method.verify(net, x, y, distance * 1.01).certified.item()


def test_deep_networks_whose_intervals_leave_float32_are_certified():
    """Intervals grow with every layer, beyond all numbers of float32; lines show that the values do not."""
    random, layers = generator(0, "deep"), [nn.Flatten()]
    for _ in range(115):
        layer = nn.Linear(32, 32)
        layer.weight.data, _ = torch.linalg.qr(torch.randn(32, 32, generator=random))
        layer.bias.data = torch.ones(32)
        layers += [layer, nn.ReLU()]
    net, x = nn.Sequential(*layers, linear(torch.eye(3, 32).tolist())), inputs(1)
    ball = Ball(x=x.double(), radius=torch.full((1,), 0.1, dtype=torch.float64), norm=norm_of("linf"))
    bounder = Bounder(graph=read_graph(net, x), norm=norm_of("linf"))
    assert not bool(bounder.sweep(ball, "intervals").in_range())
    assert bool(CROWN(norm="linf").verify(net, x, net(x).argmax(1), 0.1).certified)
