"""Checkpoints: whatever changes the outcome changes the key, what cannot be told apart is refused, and nothing is left behind."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import FGS, PGD, Attack, Ensemble, Transfer, Wrapped, minimise
from isogrid.attacks.driver.checkpoint import Stages
from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import open_model

X = torch.rand(60, 12, generator=generator(4, "x")) * 0.6 + 0.2


def linear(seed: int = 1) -> nn.Module:
    model = nn.Linear(12, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 12, generator=generator(seed, "w")))
        model.bias.copy_(-model.weight.sum(1) / 2)
    return model


class Scaled(nn.Module):
    """A network with a buffer that no state_dict holds, and plain attributes that no printed form shows."""

    def __init__(self, buffer: float = 1.0, shift: float = 0.0, loose: float = 0.0) -> None:
        super().__init__()
        self.inner, self.shift, self.loose = linear(), shift, torch.full((12,), loose)
        self.register_buffer("buffer", torch.tensor(buffer), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.buffer + self.shift + self.loose)


def stay(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x


def leap(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return 1 - x


def program(folder: Path, suffix: str, seed: int) -> nn.Module:
    path = folder / f"{seed}{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".pt2":
            torch.export.save(torch.export.export(linear(seed), (X,)), path)
        else:
            traced = torch.jit.trace(linear(seed).eval(), X)
            torch.jit.save(torch.jit.freeze(traced) if suffix == ".pt" else traced, str(path))
    return open_model(str(path), X, 2)


CHANGES = {
    "seed": lambda _: {"seed": 1},
    "eps": lambda _: {"attack": PGD(eps=0.06)},
    "attack": lambda _: {"attack": FGS(eps=0.05)},
    "samples": lambda _: {"x": X + 1e-3},
    "weights": lambda _: {"model": linear(2)},
    "buffer that is not persistent": lambda _: {"model": Scaled(buffer=9.0)},
    "attribute": lambda _: {"model": Scaled(shift=0.3)},
    "tensor that is not registered": lambda _: {"model": Scaled(loose=0.3)},
    "source of a transfer": lambda _: {"attack": Transfer(source=linear(2), attack=PGD(eps=0.05))},
    "source inside minimise": lambda _: {"attack": minimise(Transfer(source=linear(2), attack=FGS(eps=0.05)))},
    "source inside an ensemble": lambda _: {"attack": Ensemble(attacks=(Transfer(source=linear(2), attack=FGS(eps=0.05)),))},
    "function": lambda _: {"attack": Wrapped(function=leap)},
    "exported program": lambda folder: {"model": program(folder, ".pt2", 2)},
    "traced program": lambda folder: {"model": program(folder, ".ts", 2)},
    "frozen program": lambda folder: {"model": program(folder, ".pt", 2)},
}
BEFORE = {
    "buffer that is not persistent": lambda _: {"model": Scaled()},
    "attribute": lambda _: {"model": Scaled()},
    "tensor that is not registered": lambda _: {"model": Scaled()},
    "source of a transfer": lambda _: {"attack": Transfer(source=linear(), attack=PGD(eps=0.05))},
    "source inside minimise": lambda _: {"attack": minimise(Transfer(source=linear(), attack=FGS(eps=0.05)))},
    "source inside an ensemble": lambda _: {"attack": Ensemble(attacks=(Transfer(source=linear(), attack=FGS(eps=0.05)),))},
    "function": lambda _: {"attack": Wrapped(function=stay)},
    "exported program": lambda folder: {"model": program(folder, ".pt2", 1)},
    "traced program": lambda folder: {"model": program(folder, ".ts", 1)},
    "frozen program": lambda folder: {"model": program(folder, ".pt", 1)},
}
Y = (X @ (linear().weight[1] - linear().weight[0]) + linear().bias[1] - linear().bias[0] > 0).long().detach()


def run(folder: Path | None, *, attack: Attack | None = None, model: nn.Module | None = None, x: Tensor = X, seed: int = 0) -> Tensor:
    return (attack or PGD(eps=0.05))(model or linear(), x, Y, seed=seed, checkpoint=folder).x_adv


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_outcome_changes_the_key(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "checkpoint"
    before, after = BEFORE.get(change, lambda _: {})(tmp_path), CHANGES[change](tmp_path)
    run(folder, **before)
    run(folder, **before)
    assert len(list(folder.iterdir())) == 1, "the same run twice has one key"
    resumed = run(folder, **after)
    assert len(list(folder.iterdir())) == 2
    assert torch.equal(resumed, run(None, **after))


def test_a_model_built_anew_from_the_same_weights_is_the_same(tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path / "c", model=Scaled(), attack=Transfer(source=Scaled(shift=0.1), attack=FGS(eps=0.05)))
        run(tmp_path / "c", model=program(tmp_path, ".pt2", 1))
    assert len(list((tmp_path / "c").iterdir())) == 2


class Instance:
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("function", [lambda model, x, y: x, functools.partial(stay), Instance(), Instance().__call__])
def test_functions_without_a_name_of_their_own_are_refused(tmp_path: Path, function: object) -> None:
    """Another run would know them by their address only, which another function may have by then."""
    for attack in (Wrapped(function=function), Ensemble(attacks=(Wrapped(function=function, eps=0.1),))):
        with pytest.raises(InputError, match="checkpoint: got an attack with") as caught:
            run(tmp_path / "c", attack=attack)
        assert "\n" not in str(caught.value)
        run(None, attack=attack)
    assert not (tmp_path / "c").exists()


def test_stages_that_a_crash_left_behind_go_with_the_next_load(tmp_path: Path) -> None:
    attack = Ensemble(attacks=(PGD(eps=0.05), FGS(eps=0.05)))
    run(tmp_path, attack=attack)
    (file,) = tmp_path.iterdir()
    Stages(folder=file.with_suffix(".stages")).save(0, {"made": X})
    run(tmp_path, attack=attack)
    assert list(tmp_path.iterdir()) == [file]
