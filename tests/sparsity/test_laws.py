"""The law suite over every registered pruner, and over pruners built to break each law."""

from __future__ import annotations

from pathlib import Path

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


OWN = Path(__file__).with_name("own.py")


class Broken(Pruner):
    name = "broken"
    relation = "chain"
    monotone = True

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


def prunes_all_that_there_is(model, masks):
    return Masks({name: (torch.arange(mask.numel()) % 3 < 2).view(mask.shape) for name, mask in masks.items()})


def writes_into_masks(model, masks):
    for mask in masks.values():
        mask.view(-1)[0] ^= True
    return masks


@pytest.mark.parametrize(
    ("script", "law"),
    [
        (revives, "monotone"),
        (empties, "keeps_classes"),
        (prunes_all_that_there_is, "keeps_zeros"),
        (forgets_a_layer, "fits"),
        (writes_into_masks, "leaves_alone"),
    ],
)
def test_a_broken_pruner_breaks_its_law(script, law):
    with pytest.raises(AssertionError, match=law):
        check_pruner(Broken(script), [law])


def own(name, **settings):
    return PRUNERS.make({"name": f"{OWN}:{name}", **settings})


@pytest.mark.parametrize("law", PRUNER_LAWS)
@pytest.mark.parametrize("settings", [{}, {"rate": 0.9, "every": 1}])
def test_a_pruner_of_ones_own_that_regrows_from_a_dense_master_obeys(settings, law):
    check_pruner(own("Regrow", **settings), [law])


@pytest.mark.parametrize("law", PRUNER_LAWS)
def test_a_pruner_of_ones_own_with_a_target_obeys(law):
    check_pruner(own("OneShot", sparsity=0.9, criterion=f"{OWN}:Taylor"), [law])


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("DeadInForward", {"dead_are_zero", "finishes_as_it_was"}),
        ("DeadInForwardAlone", {"dead_are_zero"}),
        ("StateIgnored", {"resumes"}),
        ("StateNotHandedOn", {"resumes"}),
        ("StateInTheProcess", {"resumes"}),
        ("OtherMasks", {"finishes_as_it_was"}),
    ],
)
def test_each_broken_variant_of_it_is_caught_by_its_law(name, broken):
    found = set()
    for law in PRUNER_LAWS:
        try:
            check_pruner(own(name), [law])
        except AssertionError:
            found.add(law)
    assert found == broken


def test_a_target_that_is_missed_by_two_is_caught():
    check_pruner(own("OneShot", sparsity=0.8), ["reaches_its_target"])
    with pytest.raises(AssertionError, match=r"sparsity 0\.8 was asked for"):
        check_pruner(own("OneShot", sparsity=0.8, off=2), ["reaches_its_target"])


def test_unknown_laws_are_refused():
    with pytest.raises(InputError, match="did you mean monotone"):
        check_pruner(Dense(), ["monoton"])
