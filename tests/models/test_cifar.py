"""VGG-like and ResNet-32: the paper's counts, the published layers, forward passes against formulas written out here."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import build, open_model
from isogrid.models.cifar import MEAN, STD, BasicBlock
from isogrid.sparsity import Masks, live_outputs, prunable

SHAPE = (3, 32, 32)


def images(n=4, shape=SHAPE):
    return torch.rand(n, *shape, generator=generator(0, "images"))


def weights(model):
    return sum(w.numel() for w in prunable(model).values())


@pytest.mark.parametrize(("name", "count"), [("vgg-like", 14_977_728), ("resnet-32", 461_872)])
def test_weight_counts_of_the_paper(name, count):
    assert weights(build(name, SHAPE, 10)) == count


def vgg_count(width):
    sizes, before, total = [64, 64, 128, 128, 256, 256, 256] + [512] * 6, 3, 0
    for size in (round(size * width) for size in sizes):
        total, before = total + 9 * before * size, size
    hidden = round(512 * width)
    return total + before * hidden + hidden * 10


def resnet_count(width):
    a, b, c = (round(size * width) for size in (16, 32, 64))
    return 9 * (3 * a + 10 * a * a + a * b + 9 * b * b + b * c + 9 * c * c) + 10 * c


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.5])
def test_width_multiplies_every_number_of_channels(width):
    assert weights(build(f"vgg-like(width={width})", SHAPE, 10)) == vgg_count(width)
    assert weights(build(f"resnet-32( width = {width} )", SHAPE, 10)) == resnet_count(width)


def test_vgg_is_the_published_sequence():
    model = build("vgg-like", SHAPE, 10)
    kinds = [type(module).__name__ for module in model[1:]]
    two = ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    three = [*two[:4], *two]
    head = ["Flatten", "Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert kinds == [*two, *two, *three, *three, *three, *head]
    assert [module.p for module in model if isinstance(module, nn.Dropout)] == [0.3] + [0.4] * 7 + [0.5] * 2
    assert {module.kernel_size for module in model if isinstance(module, nn.Conv2d)} == {(3, 3)}
    assert {module.p for module in build("vgg-like(dropout=0)", SHAPE, 10) if isinstance(module, nn.Dropout)} == {0.0}


@pytest.mark.parametrize("name", ["vgg-like(width=0.25)", "resnet-32(width=0.25)"])
def test_inputs_are_standardised_inside(name):
    model, x = build(name, SHAPE, 10).eval(), images()
    standard, model[0] = (x - MEAN) / STD, nn.Identity()
    outside = model(standard)
    assert torch.equal(build(name, SHAPE, 10).eval()(x), outside)


def test_resnet_is_the_published_network_written_out():
    model = build("resnet-32(width=0.5)", SHAPE, 10)
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for k, value in enumerate((module.weight.data, module.bias.data, module.running_mean)):
            value.copy_(torch.rand(value.shape, generator=generator(i, "norm", k)))
    convolutions = iter([m.weight for m in model.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)])

    def layer(x, stride):
        norm = next(norms)
        z = F.conv2d(x, next(convolutions), stride=stride, padding=1)
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
        return (z - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None]

    x = images()
    h = layer((x - MEAN) / STD, 1).relu()
    for channels in (8, 16, 32):
        for block in range(5):
            stride = 2 if channels > 8 and block == 0 else 1
            z = layer(layer(h, stride).relu(), 1)
            shortcut = F.avg_pool2d(h, 1, stride)
            side = (channels - shortcut.shape[1]) // 2
            none = torch.zeros(len(x), side, *shortcut.shape[2:])
            h = (z + torch.cat([none, shortcut, none], 1)).relu()
    assert next(norms, None) is None
    torch.testing.assert_close(model.eval()(x), F.linear(h.mean((2, 3)), model[-1].weight, model[-1].bias), atol=1e-5, rtol=1e-4)


def test_a_shortcut_of_odd_growth_keeps_every_channel():
    block = BasicBlock(2, 5, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = images(2, (2, 6, 6))
    y = block(x)
    assert y.shape == (2, 5, 3, 3)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()


@pytest.mark.parametrize("name", ["vgg-like(width=0.125)", "resnet-32(width=0.25)"])
def test_a_dead_class_is_found_behind_batch_norm_and_shortcuts(name):
    model = build(name, SHAPE, 4)
    masks = Masks.dense(model)
    last = list(masks)[-1]
    masks[last][2] = False
    masks.apply(model)
    assert live_outputs(model.eval(), images()).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet-32(width=0)", "resnet-32 width: got 0; accepted: a number from 0.001"),
        ("resnet-32(width=wide)", "wide"),
        ("resnet-32(depth=3)", "depth"),
        ("resnet-32(width=1,width=2)", "once"),
        ("resnet-32(width)", "once"),
        ("resnet-32(width=1", "brackets"),
        ("resnet-32)", "accepted"),
        ("lenet-5(width=1)", "accepted: winners"),
        ("lenet-5(winners=0)", "a number from 1e-06 to 1"),
        ("linear(winners=0.5)", "torch.nn.ReLU"),
        ("vgg-like(dropout=3)", "a number from 0 to 2"),
    ],
)
def test_bad_settings_are_one_line(name, line):
    with pytest.raises(InputError) as caught:
        build(name, SHAPE, 10)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_part_of_a_built_in_name_everywhere():
    with pytest.raises(InputError, match="trained weights"):
        open_model("resnet-32(width=0.25)", images(), 10)
    with pytest.raises(InputError, match="images of shape"):
        build("vgg-like", (784,), 10)
