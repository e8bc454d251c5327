"""The two convolutional networks of the paper for CIFAR-10: VGG-like and ResNet-32, of any width. Not here: how they are initialised."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn

from isogrid.core.errors import InputError

MEAN, STD = 0.473, 0.251
"""Of all values of CIFAR-10's training set in [0, 1], over the three channels together."""
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RESNET = (16, 32, 64)


@final
class Normalise(nn.Module):
    """(x - MEAN) / STD: inputs are in [0, 1] outside, about standardised inside; one mean and deviation for every channel."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *S] in [0, 1] -> the same shape."""
        return (x - MEAN) / STD


def vgg_like(shape: tuple[int, ...], classes: int, width: float = 1.0, dropout: float = 1.0) -> nn.Module:
    """VGG with batch-norm and one hidden layer for 32x32 images (Zagoruyko 2015); 14,977,728 weights at 3x32x32 and width 1.

    3x3 convolutions 64-64-M-128-128-M-256x3-M-512x3-M-512x3-M, each followed by batch-norm and ReLU, then fc 512, batch-norm, ReLU, fc.
    `width` multiplies every number of channels and the 512. Dropout as published: 0.3 after the first convolution, 0.4 after every other
    one that no pooling follows, 0.5 before both fc layers, each times `dropout`. Max-pooling rounds up, so images of any size are taken.
    Raises InputError for samples that are no images. Source: torch.ch/blog/2015/07/30/cifar.html. Pitfall: the published rates are for
    hundreds of epochs; short trainings and narrow networks are better off with a smaller `dropout`.
    """
    channels, sides = _image("vgg-like", shape)
    layers: list[nn.Module] = [Normalise()]
    for block in VGG:
        for place, size in enumerate(block, 1):
            layers += [nn.Conv2d(channels, _wide(size, width), 3, padding=1, bias=False), nn.BatchNorm2d(_wide(size, width)), nn.ReLU()]
            rate = 0.3 if len(layers) == 4 else 0.4
            layers.append(nn.MaxPool2d(2, ceil_mode=True) if place == len(block) else nn.Dropout(rate * dropout))
            channels = _wide(size, width)
    area, hidden = math.prod(-(-side // 32) for side in sides), _wide(512, width)
    layers += [nn.Flatten(), nn.Dropout(0.5 * dropout), nn.Linear(channels * area, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5 * dropout), nn.Linear(hidden, classes))


def resnet_32(shape: tuple[int, ...], classes: int, width: float = 1.0) -> nn.Module:
    """ResNet-32 for 32x32 images (He 2016, section 4.2): 3 stages of 5 basic blocks of 16, 32 and 64 channels; 461,872 weights.

    A 3x3 convolution, the stages (the second and third begin with stride 2), global average pooling, fc; every convolution has batch-norm.
    Shortcuts have no parameters (option A): where a block changes the shape, every second pixel, and channels of zeros. `width` multiplies
    every number of channels. Raises InputError for samples that are no images.
    """
    channels, _ = _image("resnet-32", shape)
    first = _wide(RESNET[0], width)
    layers: list[nn.Module] = [Normalise(), nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    channels = first
    for stage, size in enumerate(RESNET):
        for block in range(5):
            layers.append(BasicBlock(channels, _wide(size, width), stride=2 if stage and not block else 1))
            channels = _wide(size, width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@final
class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), 3x3 convolutions, the shortcut without parameters (He 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] -> [B, outputs, H / stride, W / stride] (sizes rounded up)."""
        shortcut = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        z = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y: Tensor = self.relu2(z + shortcut)
        return y


def _image(name: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    if len(shape) != 3:
        raise InputError("model", f"{name} on samples of shape {shape}", "images of shape (channels, height, width), 32x32 as a rule")
    return shape[0], (shape[1], shape[2])


def _wide(size: int, width: float) -> int:
    return max(1, round(size * width))
