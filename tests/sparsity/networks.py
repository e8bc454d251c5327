"""Small classifiers of many kinds, as people write them: {name: (factory, sample shape)}, each with a layer `head` of 4 classes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 4


class Net(nn.Module):
    """`body`, then the head."""

    def __init__(self, body, features, then=None):
        super().__init__()
        self.head = nn.Linear(features, CLASSES)  # registered first: its place says nothing
        self.body, self.then = body, then

    def forward(self, x):
        h = self.body(x)
        return self.head(self.then(h) if self.then is not None else h)


class Own(nn.Module):
    """A body that is a function of itself and x."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def mlp(activation):
    return lambda: Net(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), activation, nn.Linear(12, 8), activation), 8)


def conv(*middle, features=8 * 4):
    return lambda: Net(nn.Sequential(nn.Conv2d(1, 8, 3), *middle, nn.ReLU(), nn.Flatten()), features)


def ones_column(h):
    return torch.cat([h, torch.ones(len(h), 1)], 1)


def gated(m, x):
    h = m.a(x.flatten(1))
    h = h - h.mean(1, keepdim=True)
    h = h / (h.var(1, keepdim=True) + 1e-5).sqrt()
    return h * torch.sigmoid(m.b(h)) + h.clamp(min=0)


def loop(m, x):
    state = torch.zeros(len(x), 8)
    outputs = torch.empty(len(x), 4, 8)
    for t, part in enumerate(x[:, 0].unbind(1)):
        state = m.cell(part, state)
        outputs[:, t] = state
    return outputs.mean(1)


def in_place(m, x):
    h = m.a(x.flatten(1))
    h += 1
    h[:, 0] = h[:, 1] * 2
    return h.relu_()


def attention(m, x):
    h = m.attention(x[:, 0], x[:, 0], x[:, 0], need_weights=m.weights)[0]
    return m.norm(h + x[:, 0]).mean(1)


def own_attention(m, x):
    q, k, v = m.qkv(x[:, 0]).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v).flatten(1)


def half(dtype):
    def function(m, x):
        return m.net(x.flatten(1).to(dtype)).float()

    return lambda: Net(Own(function, net=nn.Sequential(nn.Linear(16, 8), nn.ReLU()).to(dtype)), 8)


def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.net(x.flatten(1)).float()


def residual(m, x):
    h = torch.relu(m.a(x))
    return (h + m.c(torch.relu(m.b(h)))).mean((2, 3))


IMAGE, SEQUENCE = (1, 4, 4), (1, 4, 8)
NETWORKS = {
    "tanh": (mlp(nn.Tanh()), IMAGE),
    "sigmoid": (mlp(nn.Sigmoid()), IMAGE),
    "relu6": (mlp(nn.ReLU6()), IMAGE),
    "gelu": (mlp(nn.GELU()), IMAGE),
    "silu": (mlp(nn.SiLU()), IMAGE),
    "softsign": (mlp(nn.Softsign()), IMAGE),
    "dropout": (mlp(nn.Dropout(0.5)), IMAGE),
    "layer norm": (lambda: Net(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU()), 8), IMAGE),
    "group norm": (conv(nn.GroupNorm(2, 8)), IMAGE),
    "instance norm": (conv(nn.InstanceNorm2d(8)), IMAGE),
    "batch norm": (conv(nn.BatchNorm2d(8)), IMAGE),
    "batch norm without statistics": (conv(nn.BatchNorm2d(8, track_running_stats=False)), IMAGE),
    "batch norm on a table": (
        lambda: Net(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, track_running_stats=False)), 8),
        IMAGE,
    ),
    "max pool": (conv(nn.MaxPool2d(2), features=8), IMAGE),
    "average pool": (conv(nn.AdaptiveAvgPool2d(1), features=8), IMAGE),
    "strided and dilated": (
        lambda: Net(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 2, dilation=1, groups=2), nn.Flatten()), 6),
        IMAGE,
    ),
    "transposed": (lambda: Net(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 2, 2, 2), nn.ReLU(), nn.Flatten()), 32), IMAGE),
    "residual": (lambda: Net(Own(residual, a=nn.Conv2d(1, 8, 3, padding=1), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 8, 1)), 8), IMAGE),
    "own arithmetic": (lambda: Net(Own(gated, a=nn.Linear(16, 8), b=nn.Linear(8, 8)), 8), IMAGE),
    "in place": (lambda: Net(Own(in_place, a=nn.Linear(16, 8)), 8), IMAGE),
    "a constant column": (lambda: Net(nn.Sequential(nn.Flatten(), nn.Linear(16, 8)), 9, ones_column), IMAGE),
    "LSTM": (lambda: Net(Own(lambda m, x: m.r(x[:, 0])[0][:, -1], r=nn.LSTM(8, 6, 2, batch_first=True)), 6), SEQUENCE),
    "GRU": (lambda: Net(Own(lambda m, x: m.r(x[:, 0])[1][0], r=nn.GRU(8, 6, batch_first=True)), 6), SEQUENCE),
    "RNN of both directions": (
        lambda: Net(Own(lambda m, x: m.r(x[:, 0])[0].mean(1), r=nn.RNN(8, 3, bidirectional=True, batch_first=True)), 6),
        SEQUENCE,
    ),
    "own loop over a cell": (lambda: Net(Own(loop, cell=nn.GRUCell(8, 8)), 8), SEQUENCE),
    "attention": (
        lambda: Net(Own(attention, attention=nn.MultiheadAttention(8, 2, batch_first=True), norm=nn.LayerNorm(8), weights=True), 8),
        SEQUENCE,
    ),
    "attention without weights": (
        lambda: Net(Own(attention, attention=nn.MultiheadAttention(8, 2, batch_first=True), norm=nn.LayerNorm(8), weights=False), 8),
        SEQUENCE,
    ),
    "own attention": (lambda: Net(Own(own_attention, qkv=nn.Linear(8, 24)), 32), SEQUENCE),
    "encoder layer": (
        lambda: Net(Own(lambda m, x: m.e(x[:, 0]).mean(1), e=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), 8),
        SEQUENCE,
    ),
    "float16 inside": (half(torch.float16), IMAGE),
    "bfloat16 inside": (half(torch.bfloat16), IMAGE),
    "autocast": (lambda: Net(Own(autocast, net=nn.Sequential(nn.Linear(16, 8), nn.ReLU())), 8), IMAGE),
    "float64 inside": (half(torch.float64), IMAGE),
    "1-D convolution": (lambda: Net(Own(lambda m, x: m.c(x[:, 0]).amax(2), c=nn.Conv1d(4, 8, 3)), 8), SEQUENCE),
    "3-D convolution": (lambda: Net(Own(lambda m, x: m.c(x[:, None]).flatten(1), c=nn.Conv3d(1, 2, (1, 2, 2))), 18), IMAGE),
    "spectral norm": (
        lambda: Net(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8)), nn.ReLU()), 8),
        IMAGE,
    ),
    "weight norm": (lambda: Net(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)), nn.ReLU()), 8), IMAGE),
}


def build(name, seed=0):
    """The network in eval mode, its weights and two batches of samples from `seed`."""
    factory, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = factory().eval()
        return net, torch.rand(8, *shape)
