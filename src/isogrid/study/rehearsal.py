"""One whole step of the real work in miniature, before anything is written: what would fail in a worker is refused here, in one line.

A network is built, trained on a batch and on the short last batch, pruned and trained on, stored and read back, and attacked. Not here: the
work itself.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from isogrid.attacks import FGS
from isogrid.core.errors import IsogridError, ModelError
from isogrid.core.files import load_tensors, save_tensors
from isogrid.data import Split
from isogrid.sparsity import PRUNERS, Masks, live_outputs
from isogrid.study.spec import PrunerSpec, TrainingSpec
from isogrid.training import fit

BATCH = 4


def rehearse(network: nn.Module, split: Split, training: TrainingSpec, pruner: PrunerSpec, *, given: bool = False) -> None:
    """Raises ModelError, naming the layer where one is to blame, and what training, pruning and attacks raise. `network` stays as it is.

    `given`: its weights are a file's, so that nobody knows what they were before training.
    """
    try:
        trained = copy.deepcopy(network)
    except Exception as error:  # parts of a network that cannot be copied may raise anything
        raise ModelError(f"model: it cannot be copied ({type(error).__name__}: {error})") from error
    with _told("it cannot be trained", trained):
        _train(trained, split, training, pruner, None if given else network)
    with _told("it cannot be stored and read back", trained):
        _store(trained, copy.deepcopy(network))
    with _told("its outputs cannot be followed", trained):
        live_outputs(trained, split.test.x[:2])
    with _told("it cannot be attacked", trained):
        FGS(eps=0.01 * (split.test.box[1] - split.test.box[0]))(trained, split.test.x[:2], split.test.y[:2], box=split.test.box)


def _train(network: nn.Module, split: Split, training: TrainingSpec, pruner: PrunerSpec, first: nn.Module | None) -> None:
    """The reference, then the first level: each on one batch, and on a last batch of one sample where the study will have such a one."""
    whole = min(training.batch_size, split.train.n)
    count = min(BATCH, whole) + (split.train.n % whole == 1)
    small = replace(training.fit(dense=True), epochs=1, batch_size=min(BATCH, whole), early_stop=None)
    x, y = split.train.x[:count], split.train.y[:count]
    log = fit(network, x, y, small, seed=0, purpose=("rehearsal", 0), masks=Masks.dense(network), box=split.train.box)
    if pruner.rounds:
        made = PRUNERS.make(pruner.at(1))
        initial = None if first is None else first.state_dict()
        fit(
            network,
            x,
            y,
            small,
            seed=0,
            purpose=("rehearsal", 1),
            pruner=made,
            masks=log.masks,
            state=log.state,
            initial=initial,
            box=split.train.box,
        )


def _store(network: nn.Module, fresh: nn.Module) -> None:
    state = network.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ModelError(f"its state holds more than tensors: {', '.join(odd)}; accepted: parameters and buffers")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_tensors(path, state)
        fresh.load_state_dict(load_tensors(path))


@contextlib.contextmanager
def _told(what: str, network: nn.Module) -> Iterator[None]:
    """Whatever the block raises as one line, with the innermost layer that was at work."""
    inside: list[str] = []
    names = {module: name for name, module in network.named_modules()}

    def enter(module: nn.Module, _: object) -> None:
        inside.append(names.get(module, ""))  # a copy of the network brings these hooks along

    def leave(*_: object) -> None:
        inside.pop()

    handles = [module.register_forward_pre_hook(enter) for module in names] + [module.register_forward_hook(leave) for module in names]
    try:
        yield
    except IsogridError:
        raise
    except Exception as error:  # a user's forward may raise anything
        layer = next((name for name in reversed(inside) if name), "")
        place = f" in layer {layer} ({type(network.get_submodule(layer)).__name__})" if layer else ""
        raise ModelError(f"model: {what}{place}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
    finally:
        for handle in handles:
            handle.remove()
