"""The law suite over every registered pruner, and over pruners built to break each law."""

from __future__ import annotations

import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.sparsity import PRUNERS, Dense, Masks, Progressive, Pruner, prunable
from isogrid.testing import PRUNER_LAWS, check_pruner


@pytest.mark.parametrize("law", PRUNER_LAWS)
@pytest.mark.parametrize("name", PRUNERS)
def test_law(name, law):
    check_pruner(PRUNERS[name](), [law])


@pytest.mark.parametrize("law", PRUNER_LAWS)
@pytest.mark.parametrize("rate", [0.05, 0.9])
def test_law_at_other_rates(rate, law):
    check_pruner(Progressive(rate=rate), [law])


class Broken(Pruner):
    name = "broken"

    def __init__(self, script):
        self.script = script

    def prune(self, model, masks):
        return self.script(model, masks)


def revives(model, masks):
    return Masks({name: ~mask for name, mask in masks.items()})


def empties(model, masks):
    return Masks({name: torch.zeros_like(mask) for name, mask in masks.items()})


def forgets_a_layer(model, masks):
    return Masks(dict(list(masks.items())[1:]))


def applies_at_once(model, masks):
    masks = Progressive().prune(model, masks)
    masks.apply(model)
    return masks


def draws(model, masks):
    return Masks({name: mask & (torch.rand(mask.shape) > 0.1) for name, mask in masks.items()})


def writes_into_masks(model, masks):
    for mask in masks.values():
        mask.view(-1)[0] = False
    return masks


def trusts_dead_weights(model, masks):
    return Masks({name: masks[name] & (w >= w.abs().mean() / 9) for name, w in prunable(model).items()})


@pytest.mark.parametrize(
    ("script", "law"),
    [
        (revives, "monotone"),
        (empties, "keeps_classes"),
        (forgets_a_layer, "fits"),
        (applies_at_once, "leaves_alone"),
        (draws, "repeatable"),
        (draws, "leaves_alone"),
        (writes_into_masks, "leaves_alone"),
        (trusts_dead_weights, "ignores_dead_weights"),
    ],
)
def test_a_broken_pruner_breaks_its_law(script, law):
    with pytest.raises(AssertionError, match=law):
        check_pruner(Broken(script), [law])


def test_unknown_laws_are_refused():
    with pytest.raises(InputError, match="did you mean monotone"):
        check_pruner(Dense(), ["monoton"])
