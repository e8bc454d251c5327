"""Networks as people have them, each a factory that a study takes by `nets.py:name`; small, for 8 x 8 digits unless said otherwise."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import relu


class ToImages(nn.Module):
    """[B, ...] as [B, C, H, W]."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


def tanh_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def sigmoid_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))


class ViewAfterConvolution(nn.Module):
    """As LeNet-5 is often written: `view` after the last convolution."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.out = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12 * 16, 10)

    def forward(self, x):
        x = relu(self.c2(relu(self.c1(x))))
        return self.out(x.view(x.size(0), -1))


class PreActivation(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.b1, self.c1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.b2, self.c2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.c2(relu(self.b2(self.c1(relu(self.b1(x))))))


def pre_activation_resnet():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), PreActivation(8), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def depthwise():
    def block(i, o, stride):
        return [
            nn.Conv2d(i, i, 3, stride, 1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU6(),
            nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6(),
        ]  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU6(), *block(8, 16, 1), *block(16, 24, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10)
    )


def group_norm_gelu():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.GELU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class SmallViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.encoder(tokens)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x):
        out, _ = self.cell(x.reshape(len(x), 8, 8))
        return self.head(out[:, -1])


def lstm():
    return Recurrent(nn.LSTM)


def gru():
    return Recurrent(nn.GRU)


def one_dimensional():
    return nn.Sequential(
        ToImages(1, 64), nn.Conv1d(1, 8, 5, 2), nn.ReLU(), nn.Conv1d(8, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(104, 10)
    )


def three_dimensional():
    return nn.Sequential(ToImages(1, 4, 4, 4), nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(64, 10))


class UNet(nn.Module):
    """Down, up through a transposed convolution, joined with the skip connection."""

    def __init__(self):
        super().__init__()
        self.inside, self.down = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 12, 3, 2, 1)
        self.up, self.joined = nn.ConvTranspose2d(12, 6, 2, 2), nn.Conv2d(12, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, x):
        skip = relu(self.inside(x))
        up = relu(self.up(relu(self.down(skip))))
        return self.head(relu(self.joined(torch.cat([skip, up], 1))).flatten(1))


class SharedWeights(nn.Module):
    """One layer that is passed three times."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(64, 24), nn.Linear(24, 24), nn.Linear(24, 10)

    def forward(self, x):
        x = relu(self.first(x.flatten(1)))
        for _ in range(3):
            x = relu(self.again(x))
        return self.last(x)


def one_logit():
    """For two classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))


class FlatLogit(nn.Module):
    """For two classes: a vector [B] of logits."""

    def __init__(self):
        super().__init__()
        self.net = one_logit()

    def forward(self, x):
        return self.net(x).squeeze(1)


def batch_norm_table():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


def weight_norm():
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 32)), nn.ReLU(), norm(nn.Linear(32, 10)))


class HalfInside(nn.Module):
    """bfloat16 inside, float32 outside."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.last(relu(self.first(x.flatten(1))))
        return x.float()


def lazy():
    return nn.Sequential(nn.LazyConv2d(6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


class HeadFirst(nn.Module):
    """The last layer is declared first."""

    def __init__(self):
        super().__init__()
        self.classifier, self.body = nn.Linear(16, 10), nn.Linear(64, 16)

    def forward(self, x):
        return self.classifier(relu(self.body(x.flatten(1))))
