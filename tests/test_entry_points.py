"""Whatever is handed to a public function outside studies, it works, or an error of isogrid says in one line what is accepted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid import attacks, data, models, sparsity, theory, training
from isogrid.attacks import ATTACKS, DDN, FGS, PGD
from isogrid.audit.model import examine_model
from isogrid.core.errors import IsogridError
from isogrid.core.random import generator
from isogrid.core.targets import load_target, source_digest

X = torch.rand(6, 4, generator=generator(0, "x"))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Raises(nn.Linear):
    """A forward pass that cannot be done."""

    def forward(self, x):
        raise KeyError("two\nlines")


class NoGradient(nn.Linear):
    """Logits without a gradient."""

    def forward(self, x):
        return super().forward(x).detach()


def net(kind: type[nn.Linear] = nn.Linear, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(4, 3, **settings)


with torch.inference_mode():
    BORN_IN_INFERENCE = net()

PLAIN: list[Any] = [
    None, True, 0, 1, -1, 3, 10**20, 0.5, -0.5, math.nan, math.inf, 1j, "", "x", "linear", "digits", "a:b", "net.py:f", b"x", [], [0],
    [0.5], ["a"], (), (0, 1), {}, {"name": "fgs"}, {1: 2}, {0, 1}, object(), int, len, lambda *_, **__: 1 / 0, Path("nowhere"), range(3),
    iter([0]), np.float32(0.1), np.int64(2), np.zeros(6), np.zeros((6, 4), dtype=np.float32), np.array([None]), FGS(eps=0.1),
    FGS, np.array(["a"]), torch.optim.SGD(net().parameters()), torch.float32, generator(0, "x"), torch.tensor(0.1), torch.tensor(2),
]  # fmt: skip
TYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
TENSORS: list[Any] = [
    *(torch.zeros(*shape) for shape in ((6,), (6, 4), (6, 5), (5, 4), (0, 4), (6, 0), (6, 1), (6, 2, 2), (5,))),
    *(torch.zeros(*shape, dtype=dtype) for dtype in TYPES for shape in ((6, 4), (6,), (6, 1))),
    *(torch.full((6, 4), value) for value in (math.nan, math.inf, 7.0, -0.1)),
    *(torch.full((6,), value) for value in (9, -1, 2**40, math.nan, 0.5)),
    *(torch.zeros(*shape).to_sparse() for shape in ((6, 4), (6,))),
    *(torch.zeros(*shape, device="meta") for shape in ((6, 4), (6,))),
]
MODELS: list[Any] = [
    nn.Flatten(), nn.Identity(), nn.Sequential(), nn.LazyLinear(3), nn.Linear(5, 3), nn.Linear(4, 1), nn.LSTM(4, 3), BORN_IN_INFERENCE,
    *(net(kind) for kind in (Raises, NoGradient)), *(net(dtype=dtype) for dtype in (torch.float64, torch.float16)), net(device="meta"),
]  # fmt: skip
JUNK = PLAIN + TENSORS + MODELS


def on_net(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with a fresh network of its own, which it may train, prune or spoil."""
    return lambda **given: call(**({"model": net()} | given))


def fields_of(cls: Any) -> dict[str, Any]:
    """Every field of a configuration with its default."""
    return {field.name: getattr(cls(), field.name) for field in dataclasses.fields(cls)}


def enforced(masks: Any, net: Any, optimizer: Any) -> None:
    with sparsity.enforce(masks, net, optimizer):
        pass


SAMPLES = {"x": X, "y": Y}
CALL = SAMPLES | {"model": None, "seed": 0, "ids": None, "start": None, "budget": None, "box": (0.0, 1.0)}
FIT = training.FitConfig(epochs=1)
SPARSE = net()
MASKS = sparsity.Masks.dense(SPARSE)
ENTRIES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "data.parse": (data.parse, {"text": "digits", "field": "data"}),
    "data.load": (data.load, {"name_or_path": "digits", "train": 50, "test": 20, "classes": (0, 1), "box": None, "seed": 0}),
    "data.Samples": (data.Samples, SAMPLES | {"classes": 3, "box": (0.0, 1.0)}),
    "models.build": (models.build, {"name": "linear", "shape": (4,), "classes": 3, "seed": 0}),
    "models.open_model": (models.open_model, {"name": "torch.nn:Identity", "x": X, "classes": 3, "weights": None, "seed": 0}),
    "models.load_weights": (on_net(models.load_weights), {"model": None, "path": "nowhere.pt"}),
    "models.source_digest": (models.source_digest, {"name": "linear"}),
    "core.load_target": (load_target, {"field": "target", "target": "math:sqrt"}),
    "core.source_digest": (source_digest, {"target": "math:sqrt"}),
    "attacks.make": (attacks.make, {"config": {"name": "fgs"}}),
    "attacks called": (on_net(FGS(eps=0.1)), CALL),
    "attacks called, PGD": (on_net(PGD(eps=0.1, norm="l2", steps=2)), CALL),
    "attacks called, DDN": (on_net(DDN(steps=3)), CALL),
    "attacks.minimise": (attacks.minimise, {"attack": FGS(eps=0.1)}),
    "attacks.transfer_matrix": (attacks.transfer_matrix, SAMPLES | {"models": [net()], "attack": FGS(eps=0.1), "box": (0.0, 1.0)}),
    "training.fit": (on_net(training.fit), SAMPLES | dict.fromkeys(("model", "pruner", "masks", "state")) | {"config": FIT, "seed": 0}),
    "training.FitConfig": (training.FitConfig, fields_of(training.FitConfig)),
    "training.OptimizerConfig": (training.OptimizerConfig, fields_of(training.OptimizerConfig)),
    "training.EarlyStop": (training.EarlyStop, fields_of(training.EarlyStop)),
    "sparsity.Progressive": (sparsity.Progressive, fields_of(sparsity.Progressive)),
    "sparsity.Masks": (sparsity.Masks, {"tensors": dict(MASKS)}),
    "sparsity.Masks.dense": (on_net(sparsity.Masks.dense), {"model": None}),
    "sparsity.Masks.apply": (on_net(MASKS.apply), {"model": None}),
    "sparsity.enforce": (enforced, {"net": SPARSE, "masks": MASKS, "optimizer": torch.optim.SGD(SPARSE.parameters(), lr=0.1)}),
    "sparsity.prunable": (on_net(sparsity.prunable), {"model": None}),
    "theory.linear_weights": (on_net(theory.linear_weights), {"model": None, "shape": (4,)}),
    "audit.examine_model": (on_net(examine_model), SAMPLES | {"model": None, "attacks": (), "seed": 0, "samples": 4, "eps": 0.1}),
    **{f"attacks.{name}": (cls, fields_of(cls)) for name, cls in ATTACKS.items()},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_anything_is_taken_or_refused_in_one_line(entry: str) -> None:
    """Every argument is replaced by everything once, then two at a time by chance."""
    function, usual = ENTRIES[entry]
    with contextlib.suppress(IsogridError):
        call(function, usual)
    for name in usual:
        for junk in JUNK:
            check(function, usual | {name: junk})

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(sorted(usual)), min_size=2, max_size=2).flatmap(values))
    def law(junk: dict[str, Any]) -> None:
        check(function, usual | junk)

    law()


def values(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(JUNK) for name in names})


def check(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    said = ""
    try:
        call(function, arguments)
    except IsogridError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    given = {name: value for name, value in arguments.items() if not (name == "model" and value is None)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has opinions on some of these
        function(**given)
