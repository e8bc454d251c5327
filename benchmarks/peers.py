"""Adapters to other attack libraries: each gives (model, x, y) -> x_adv; a peer that cannot be imported is named with its reason.

Nothing of a peer is replaced or stubbed. adv-lib's attack package imports torchvision (for a perceptual metric that none of these attacks
use); where torchvision is missing, the attack's own module is imported without running its package's __init__.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PeerAttack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class MissingError(Exception):
    """A peer that does not import here."""


def peer(name: str) -> Any:
    """Import a peer's module; raises MissingError with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:  # whatever a foreign import raises is reported as its reason
        raise MissingError(f"{name.split('.')[0]}: {type(error).__name__}: {error}") from None


def advlib(module: str) -> Any:
    """A module of adv_lib.attacks, with or without torchvision."""
    if importlib.util.find_spec("adv_lib") is None:
        raise MissingError("adv_lib: not installed")
    if importlib.util.find_spec("torchvision") is None and "adv_lib.attacks" not in sys.modules:
        root = Path(str(peer("adv_lib").__file__)).parent / "attacks"
        package = types.ModuleType("adv_lib.attacks")
        package.__path__ = [str(root)]
        sys.modules["adv_lib.attacks"] = package
    return peer(f"adv_lib.attacks.{module}")


def foolbox(make: Callable[[Any], Any], bounds: tuple[float, float] = (0.0, 1.0)) -> PeerAttack:
    """A Foolbox minimisation attack, `make(foolbox.attacks)`, run without an epsilon."""
    fb = peer("foolbox")
    attack = make(fb.attacks)

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = fb.PyTorchModel(model, bounds=bounds, device=x.device)
            _, found, _ = attack(wrapped, x, y, epsilons=None)
        return found

    return run


def torchattacks(make: Callable[[Any, nn.Module], Any]) -> PeerAttack:
    """A torchattacks object, `make(torchattacks, model)`."""
    library = peer("torchattacks")

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = make(library, model)(x, y)
        return found

    return run


def art(make: Callable[[Any, Any], Any], batch: int = 128) -> PeerAttack:
    """An ART evasion attack, `make(art.attacks.evasion, classifier)`; `batch` is recommended by no one but keeps it fast."""
    evasion = peer("art.attacks.evasion")
    classifiers = peer("art.estimators.classification")

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        wrapped = classifiers.PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        labels = nn.functional.one_hot(y, classes).numpy()
        return torch.from_numpy(make(evasion, wrapped).generate(x.numpy(), labels)).to(x)

    return run
