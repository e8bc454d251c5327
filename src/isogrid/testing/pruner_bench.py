"""What the pruner laws are tried on: two small networks, samples, and a training that can be looked into. The laws: pruner_laws.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from isogrid.core.random import generator
from isogrid.sparsity import Dynamics, Masks, Pruner, Training
from isogrid.training import FitConfig, FitLog, OptimizerConfig, fit

SAMPLES = 48
SHORT = FitConfig(epochs=2, batch_size=16, optimizer=OptimizerConfig(lr=0.05, weight_decay=1e-3))
NO_STEPS = FitConfig(epochs=0)


def models() -> list[nn.Module]:
    """A multi-layer perceptron and a convolutional network with normalisation and a shared weight; weights with ties and zeros."""
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    shared = nn.Conv2d(4, 4, 3, padding=1)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(4 * 16, 3))
    for m, model in enumerate((mlp, conv)):
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                values = torch.randn(parameter.shape, generator=generator(m, "pruner laws", i)) / math.sqrt(parameter[0].numel())
                parameter.copy_((values * 20).round() / 20 if i % 2 else values)
    return [mlp, conv]


class Parent(NamedTuple):
    """What a level goes on from, beside the weights."""

    masks: Masks | None = None
    state: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, log: FitLog) -> Parent:
        """What a training finished with."""
        return cls(log.masks, log.state)


DENSE = Parent()


def train(
    pruner: Pruner,
    model: nn.Module,
    parent: Parent = DENSE,
    config: FitConfig = SHORT,
    *,
    level: int = 1,
    on_epoch: Callable[[], None] | None = None,
) -> FitLog:
    """One level of `pruner` on made-up samples; `on_epoch` is called after each of its epochs."""
    draw = generator(0, "pruner laws", "data")
    x, y = torch.rand(SAMPLES, 1, 6, 6, generator=draw), torch.randint(0, 3, (SAMPLES,), generator=draw)
    look = None if on_epoch is None else lambda *_: on_epoch()
    first = next(m.state_dict() for m in models() if list(m.state_dict()) == list(model.state_dict()))
    return fit(
        model,
        x,
        y,
        config,
        seed=0,
        purpose=("law", level),
        pruner=pruner,
        masks=parent.masks,
        state=parent.state,
        initial=first,
        on_epoch=look,
    )


def levels(pruner: Pruner, model: nn.Module, count: int, config: FitConfig) -> Iterator[FitLog]:
    """The first `count` levels of a chain; of a method whose levels do not follow from each other, one."""
    parent = Parent()
    for level in range(1, (count if pruner.relation == "chain" else 1) + 1):
        log = train(pruner, model, parent, config, level=level)
        yield log
        parent = Parent.of(log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched(Pruner):
    """A pruner whose dynamics can be looked at while `fit` runs it."""

    name: ClassVar[str] = "watched"
    relation: ClassVar[Literal["chain", "targets"]] = "chain"

    inner: Pruner
    begun: list[Dynamics] = field(default_factory=list)

    def begin(self, training: Training) -> Dynamics:
        self.begun.append(self.inner.begin(training))
        return self.begun[-1]

    @property
    def masks(self) -> Masks:
        """Those in force now."""
        return self.begun[-1].masks


class Read(Mapping[str, Tensor]):
    """Tensors by name that remember which of them were looked at."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.seen.add(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def bits(model: nn.Module, log: FitLog) -> dict[str, Tensor]:
    """Copies of all that a level hands on: weights, masks, state."""
    parts: dict[str, Mapping[str, Tensor]] = {"weights": model.state_dict(), "masks": log.masks, "state": log.state}
    return {f"{part} {name}": value.detach().clone() for part, tensors in parts.items() for name, value in tensors.items()}


def differences(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """The names under which the two differ in a bit."""
    return sorted({*a} ^ {*b} | {name for name in {*a} & {*b} if not torch.equal(a[name], b[name])})
