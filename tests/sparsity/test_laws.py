"""The law suite over every registered pruner, and over pruners built to break each law."""

from __future__ import annotations

import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.sparsity import PRUNERS, Dense, Masks, Progressive, Pruner, Static
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
    relation = "chain"

    def __init__(self, script):
        object.__setattr__(self, "script", script)

    def begin(self, training):
        return Static(training.model, self.script(training.model, training.masks))


def revives(model, masks):
    return Masks({name: ~mask for name, mask in masks.items()})


def empties(model, masks):
    return Masks({name: torch.zeros_like(mask) for name, mask in masks.items()})


def forgets_a_layer(model, masks):
    return Masks(dict(list(masks.items())[1:]))


def writes_into_masks(model, masks):
    for mask in masks.values():
        mask.view(-1)[0] = False
    return masks


@pytest.mark.parametrize(
    ("script", "law"),
    [
        (revives, "monotone"),
        (empties, "keeps_classes"),
        (forgets_a_layer, "fits"),
        (writes_into_masks, "leaves_alone"),
    ],
)
def test_a_broken_pruner_breaks_its_law(script, law):
    with pytest.raises(AssertionError, match=law):
        check_pruner(Broken(script), [law])


def test_unknown_laws_are_refused():
    with pytest.raises(InputError, match="did you mean monotone"):
        check_pruner(Dense(), ["monoton"])
