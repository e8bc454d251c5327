"""The built-in networks by their names, and their seeded initialisation; those for CIFAR-10 are in `cifar.py`. Not here: users' models."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError, one_of
from isogrid.core.random import generator
from isogrid.models.cifar import resnet_32, vgg_like
from isogrid.models.winners import k_winners

Factory = Callable[..., nn.Module]


@final
class BinaryLinear(nn.Module):
    r"""A linear classifier of two classes, z = w . x + b, given as the logits (0, z) [B, 2].

    The cross-entropy of (0, z) is the softplus loss: log(1 + exp(z)) for class 0 and log(1 + exp(-z)) for class 1.

    >>> model = BinaryLinear(3)
    >>> model(torch.zeros(5, 3)).shape, model(torch.zeros(5, 3))[:, 0].abs().max().item()
    (torch.Size([5, 2]), 0.0)
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *S] -> logits (0, z) [B, 2]."""
        return nn.functional.pad(self.fc(x.flatten(1)), (1, 0))


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Softmax regression; for two classes the binary model with the softplus loss."""
    inputs = math.prod(shape)
    return BinaryLinear(inputs) if classes == 2 else nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def lenet_300_100(shape: tuple[int, ...], classes: int) -> nn.Module:
    """LeNet-300-100 (LeCun 1998): two hidden ReLU layers; 266,200 weights at 784 inputs and 10 classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))


def lenet_5(shape: tuple[int, ...], classes: int) -> nn.Module:
    """LeNet-5 as in Caffe: conv 20@5x5, max-pool 2, conv 50@5x5, max-pool 2, fc 500, ReLU, fc; 430,500 weights at 1x28x28.

    Pitfall: there is NO ReLU after the convolutions. Raises InputError for samples that are no images.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise InputError("model", f"lenet-5 on samples of shape {shape}", "images of shape (channels, height, width), 16x16 or larger")
    channels, height, width = shape
    area = math.prod(((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * area, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


MODELS: dict[str, tuple[Factory, str]] = {
    "linear": (linear, "softmax regression; two classes: one output with the softplus loss"),
    "lenet-300-100": (lenet_300_100, "ReLU network with hidden layers of 300 and 100"),
    "lenet-5": (lenet_5, "the convolutional LeNet-5 as in Caffe (no ReLU after its convolutions)"),
    "vgg-like": (
        vgg_like,
        "13 convolutions with batch-norm for 32x32 images; narrower or with less dropout as vgg-like(width=0.25,dropout=0.5)",
    ),
    "resnet-32": (resnet_32, "15 residual blocks with batch-norm for 32x32 images; narrower as resnet-32(width=0.25)"),
}
"""The registry: name -> (factory of sample shape and number of classes, one line). Other parameters of a factory are settings, numbers that
stand in brackets behind the name; so is `winners`, for every network: the share of units that `k_winners` leaves of each ReLU's."""
RANGES = {"dropout": (0.0, 2.0), "winners": (1e-6, 1.0)}
"""What settings accept, both ends included; any other is a factor from 0.001 to 100."""


def is_built_in(name: object) -> bool:
    """Whether a name is that of a network of MODELS, with settings in brackets or without.

    >>> is_built_in("resnet-32(width=0.25)"), is_built_in("resnet-18")
    (True, False)
    """
    return isinstance(name, str) and name.partition("(")[0].strip() in MODELS


def _settings(name: str) -> tuple[Factory, dict[str, float]]:
    """The factory of a name and the settings in its brackets; raises InputError where they are none."""
    found = re.fullmatch(r"([^()]*)(?:\((.*)\))?", name.strip())
    if found is None:
        raise InputError("model", name, "a name with settings in brackets, as resnet-32(width=0.25)")
    base, inside = found[1].strip(), found[2] or ""
    factory = MODELS[base][0]
    accepted = [*(one for one in inspect.signature(factory).parameters if one not in ("shape", "classes")), "winners"]
    settings: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in inside.split(","))):
        key, sign, text = (piece.strip() for piece in part.partition("="))
        if key not in accepted or not sign or key in settings:
            raise one_of(f"model {base}", key, accepted) if key not in accepted else InputError("model", name, f"{key}=NUMBER, once")
        try:
            settings[key] = float(text)
        except ValueError:
            settings[key] = math.nan
        least, most = RANGES.get(key, (1e-3, 100.0))
        if not least <= settings[key] <= most:
            raise InputError(f"model {base} {key}", text, f"a number from {least:g} to {most:g}")
    return factory, settings


def build(name: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A network of MODELS with weights that depend on `seed` alone; the global random state is neither read nor moved.

    Inputs are in [0, 1]; weights and biases are uniform on +-1/sqrt(fan_in), as PyTorch's own layers have them. Raises InputError
    where the network cannot take samples of `shape`.
    """
    factory, settings = _settings(name)
    winners = settings.pop("winners", None)
    with torch.device("meta"):  # PyTorch's own initialisers would move the global random state
        model = factory(tuple(shape), classes, **settings)
    _initialise(model, seed)
    return model if winners is None else k_winners(model, winners)


def _initialise(model: nn.Module, seed: int) -> None:
    """Give every layer weights in memory, from a generator of its own, named by its place in the model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            random = generator(seed, "init", name)
            bound = 1 / math.sqrt(module.weight[0].numel())
            for kind, parameter in list(module.named_parameters(recurse=False)):  # the weight, then the bias
                drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=random)
                setattr(module, kind, nn.Parameter(drawn))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()  # ones and zeros: it draws nothing
        elif any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
            raise TypeError(f"no initialisation for {type(module).__name__} ({name})")
