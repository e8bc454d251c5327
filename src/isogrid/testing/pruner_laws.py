"""The laws that every pruner must obey, as named checks that a user can run on a pruner of their own.

What belongs here: what any training under a pruner must leave true. What does not: which weights are the right ones to remove.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from isogrid.core.files import load_tensors, save_tensors
from isogrid.sparsity import Masks, Pruner, prunable, row_axes
from isogrid.testing.law import Law, check, demand, laws
from isogrid.testing.pruner_bench import NO_STEPS, SHORT, Parent, Read, Watched, bits, differences, levels, models, train
from isogrid.training import OptimizerConfig

_ROUNDS: Final = 30
_OPTIMIZERS: Final = {
    "SGD with momentum": OptimizerConfig(lr=0.05, nesterov=False, weight_decay=1e-2),
    "SGD with Nesterov momentum": OptimizerConfig(lr=0.05, weight_decay=1e-2),
    "Adam": OptimizerConfig(name="adam", lr=1e-2, weight_decay=1e-2),
    "AdamW": OptimizerConfig(name="adamw", lr=1e-2, weight_decay=1e-1),
}


def _fits(pruner: Pruner) -> None:
    for model in models():
        for log in levels(pruner, model, 3, NO_STEPS):
            demand(set(log.masks) == set(prunable(model)), f"masks for {sorted(log.masks)}, prunable are {sorted(prunable(model))}")
            log.masks.check(model)


def _revived(model: nn.Module, masks: Masks) -> list[str]:
    """The parameters of which a dead weight is not exactly zero."""
    return [name for name, weight in prunable(model).items() if name in masks and bool(weight[~masks[name]].any())]


def _dead_are_zero(pruner: Pruner) -> None:
    for title, optimizer in _OPTIMIZERS.items():
        for model in models():
            watched = Watched(inner=pruner)

            seen: set[str] = set()

            def look(*_: object, model: nn.Module = model, watched: Watched = watched, seen: set[str] = seen) -> None:
                seen.update(_revived(model, watched.masks) if watched.begun else [])

            handle = model.register_forward_pre_hook(look)
            log = train(watched, model, config=dataclasses.replace(SHORT, optimizer=optimizer), on_epoch=look)
            handle.remove()
            demand(not seen, f"with {title}, dead weights of {sorted(seen)} are not zero in a forward pass or after a step")
            revived = _revived(model, log.masks)
            demand(not revived, f"with {title}, dead weights of {revived} are not zero in what is stored")


def _finishes_as_it_was(pruner: Pruner) -> None:
    for model in models():
        watched = Watched(inner=pruner)
        last: dict[str, Tensor] = {}

        def keep(model: nn.Module = model, watched: Watched = watched, last: dict[str, Tensor] = last) -> None:
            masks = {f"masks {name}": mask.clone() for name, mask in watched.masks.items()}
            last.update(masks | {f"weights {name}": weight.detach().clone() for name, weight in model.named_parameters()})

        log = train(watched, model, on_epoch=keep)
        found = bits(model, log)
        changed = [name for name, value in last.items() if name not in found or not torch.equal(found[name], value)]
        demand(not changed, f"after the last step, finishing changed the {', '.join(changed)}")


def _reaches_its_target(pruner: Pruner) -> None:
    wanted = getattr(pruner, "sparsity", None)
    if not pruner.exact or not isinstance(wanted, float):
        return
    for model in models():
        masks = train(pruner, model).masks
        off = abs(masks.kept - (1 - wanted) * masks.total)
        demand(off <= 1, f"sparsity {wanted} was asked for, and {masks.kept} of {masks.total} weights are left")


def _monotone(pruner: Pruner) -> None:
    if not pruner.monotone:
        return
    for model in models():
        watched = Watched(inner=pruner)
        seen = [Masks.dense(model)]
        handle = model.register_forward_pre_hook(
            lambda *_, watched=watched, seen=seen: seen.append(watched.masks) if watched.begun else None
        )
        parent = Parent()
        for level in range(1, _ROUNDS + 1 if pruner.relation == "chain" else 2):
            log = train(watched, model, parent, SHORT if level < 3 else NO_STEPS, level=level)
            seen.append(log.masks)
            parent = Parent.of(log)
        handle.remove()
        for before, after in pairwise(seen):
            back = [name for name in before if bool((after[name] & ~before[name]).any())]
            demand(not back, f"weights of {back} came back")


def _keeps_zeros(pruner: Pruner) -> None:
    if pruner.relation == "chain" and not pruner.monotone:  # what its levels go on from may come back
        return
    for model in models():
        weights = prunable(model)
        given = Masks({name: (torch.arange(w.numel()) % 3 > 0).view(w.shape) for name, w in weights.items()})
        watched, back = Watched(inner=pruner), set[str]()

        def look(*_: object, watched: Watched = watched, given: Masks = given, back: set[str] = back) -> None:
            if watched.begun:
                back.update(name for name, mask in watched.masks.items() if bool((mask & ~given[name]).any()))

        handle = model.register_forward_pre_hook(look)
        log = train(watched, model, Parent(given), on_epoch=look)
        handle.remove()
        back.update(name for name, mask in log.masks.items() if bool((mask & ~given[name]).any()))
        demand(not back, f"weights of {sorted(back)} that were dead in the network that it began with live")


def _keeps_classes(pruner: Pruner) -> None:
    for model in models():
        *_, log = levels(pruner, model, _ROUNDS, NO_STEPS)
        empty = [name for name, mask in log.masks.items() if not bool(mask.any())]
        demand(not empty, f"{empty} have no weight left")
        for name, axis in row_axes(model).items():
            lost = torch.nonzero(~log.masks[name].movedim(axis, 0).flatten(1).any(1)).flatten().tolist()
            demand(not lost, f"the classes {lost} have no weight left in {name}")


def _leaves_alone(pruner: Pruner) -> None:
    for model in models():
        first = train(pruner, model)
        given = {name: value.clone() for name, value in (*first.masks.items(), *first.state.items())}
        keys = list(model.state_dict())

        def look(model: nn.Module = model, keys: list[str] = keys) -> None:
            demand(list(model.state_dict()) == keys, "the state_dict's keys are others during the training")
            copied = copy.deepcopy(model).state_dict()
            demand(not differences(copied, model.state_dict()), "copy.deepcopy of the model gives other weights")

        train(pruner, model, Parent.of(first), level=2, on_epoch=look)
        demand(list(model.state_dict()) == keys, "the state_dict's keys changed")
        demand(all(p.requires_grad and p.grad is None for p in model.parameters()), "a parameter's requires_grad or .grad changed")
        hooks = [name for name, m in model.named_modules() if m._forward_pre_hooks or m._forward_hooks or m._backward_hooks]
        demand(not hooks, f"hooks are left on the modules {hooks}")
        changed = [name for name, value in (*first.masks.items(), *first.state.items()) if not torch.equal(value, given[name])]
        demand(not changed, f"the masks or the state given were changed in place: {changed}")


def _repeatable(pruner: Pruner) -> None:
    for index in range(2):
        found = []
        for disturbed in (False, True):

            def elsewhere(index: int = index, disturbed: bool = disturbed) -> None:
                if disturbed:
                    train(copy.deepcopy(pruner), models()[1 - index], level=9)

            model = models()[index]
            found.append(bits(model, train(pruner, model, on_epoch=elsewhere)))
        changed = differences(*found)
        demand(not changed, f"a training of another network in between changes the {', '.join(changed)}")


def _resumes(pruner: Pruner) -> None:
    if pruner.relation != "chain":
        return
    for index in range(2):
        model = models()[index]
        first = train(pruner, model)
        stored, again = {"weights": model.state_dict(), "masks": first.masks, "state": first.state}, models()[index]
        with tempfile.TemporaryDirectory() as folder:
            for name, tensors in stored.items():
                save_tensors(Path(folder, name), tensors)
            weights, masks, state = (load_tensors(Path(folder, name)) for name in stored)
        here = bits(model, train(pruner, model, Parent.of(first), level=2))
        train(copy.deepcopy(pruner), models()[1 - index], level=9)  # what is kept outside the state is that of another network now
        read = Read(state)
        again.load_state_dict(weights)
        there = bits(again, train(copy.deepcopy(pruner), again, Parent(Masks(masks), read), level=2))
        changed = differences(here, there)
        demand(not changed, f"through a file, the second level has other {', '.join(changed)}")
        demand(read.seen >= set(state), f"the state {sorted(set(state) - read.seen)} is handed on, and the next level does not read it")
        if pruner.remembers:
            forgetful = models()[index]
            forgetful.load_state_dict(weights)
            without = bits(forgetful, train(pruner, forgetful, Parent(Masks(masks)), level=2))
            demand(
                bool(differences(here, without)),
                "the values of dead weights are promised to the next level, and it is the same without a state",
            )


PRUNER_LAWS: Final[dict[str, Law[Pruner]]] = laws(
    ("fits", "the masks cover exactly the prunable weights, in their shapes", _fits),
    ("dead_are_zero", "dead weights are exactly zero in every forward pass and in what is stored, under any optimizer", _dead_are_zero),
    ("finishes_as_it_was", "the masks and weights that it finishes with are those of the last step", _finishes_as_it_was),
    ("reaches_its_target", "where a sparsity is asked for and it is promised, it is reached to one weight", _reaches_its_target),
    ("monotone", "where it is promised, a removed weight never comes back", _monotone),
    ("keeps_zeros", "what is dead in the network that it prunes on stays dead, unless levels hand on dead weights' values", _keeps_zeros),
    ("keeps_classes", "every layer keeps a weight, and the last layer one per class, however many rounds", _keeps_classes),
    ("leaves_alone", "the model stays a plain module that can be copied, and the masks and the state given are untouched", _leaves_alone),
    ("repeatable", "equal arguments give equal bits, whatever else the process trains", _repeatable),
    ("resumes", "the next level is the same, bit for bit, through a file", _resumes),
)


def check_pruner(pruner: Pruner, laws: Iterable[str] | None = None) -> None:
    """Run the laws (all, or those named) on a pruner; raise one AssertionError that lists every law that it breaks, and how.

    >>> from isogrid.sparsity import Progressive
    >>> check_pruner(Progressive(rate=0.5))
    """
    check(pruner, PRUNER_LAWS, laws)
