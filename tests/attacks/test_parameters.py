"""Parameters that no fixed-budget attack can use are refused when it is constructed, in one line with the value that was given."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from isogrid.attacks import (
    APGDCE,
    APGDDLR,
    APGDT,
    ATTACKS,
    DDN,
    FGS,
    PGD,
    RFGS,
    Attack,
    AutoAttack,
    HopSkipJump,
    Minimise,
    Noise,
    Square,
    Wrapped,
    config_of,
)
from isogrid.attacks.driver.parameters import departures
from isogrid.attacks.naming import attack_id
from isogrid.core.errors import InputError
from isogrid.testing.bench import network, samples

KINDS = (PGD, APGDCE, APGDDLR, APGDT, Square, Noise, HopSkipJump, FGS, RFGS, Minimise, AutoAttack)
WHOLE = ("steps", "restarts", "queries", "draws", "targets", "searches", "probes", "trials")
SWITCHES = ("exhaustive", "thrifty", "early_stop", "random_start")
REAL = ("eps", "rel_step", "share", "tolerance", "prospect")


def cases():
    for cls in KINDS:
        names = {f.name for f in dataclasses.fields(cls)}
        for name in sorted(names.intersection(WHOLE)):
            yield from ((cls, name, value) for value in (0, -1, 2.5, math.inf, math.nan, True, "3"))
        for name in sorted(names.intersection(REAL)):
            yield from ((cls, name, value) for value in (-1.0, math.inf, math.nan, True, "wide"))
        for name in sorted(names.intersection(SWITCHES)):
            yield from ((cls, name, value) for value in (1, "yes", None))


@pytest.mark.parametrize(("cls", "name", "value"), list(cases()))
def test_refused_in_one_line_that_shows_the_value(cls: type[Attack], name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        cls(**{name: value})
    assert str(caught.value).startswith(f"{name}: got {value}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, True, "wide"])
def test_a_callables_budget_is_checked_too(value: object) -> None:
    with pytest.raises(InputError, match="eps: got"):
        Wrapped(target="math:hypot", eps=value)


@pytest.mark.parametrize("cls", [cls for cls in ATTACKS.values() if cls().budget is not None], ids=lambda cls: cls.name)
def test_a_budget_of_zero_leaves_the_clean_accuracy(cls: type[Attack]) -> None:
    model = network()
    x, y = samples(model)
    cut = {f.name: 3 for f in dataclasses.fields(cls) if f.name in ("steps", "queries")}
    out = cls(eps=0.0, **cut)(model, x, y)
    assert torch.equal(out.robust, out.correct)
    assert torch.equal(out.x_adv, x)


def test_an_id_names_what_departs_from_the_published_settings() -> None:
    assert [attack_id(cls()) for cls in ATTACKS.values()] == [
        name if cls().budget is None else f"{name}@0.1" for name, cls in ATTACKS.items()
    ]
    assert attack_id(DDN(converge=True, steps=50, domain="free")) == "ddn-free-converging"
    assert attack_id(AutoAttack(eps=0.5, norm="l2", thrifty=True)) == "autoattack-l2-thrifty@0.5"
    assert attack_id(Minimise(attack=APGDT(prospect=0.8))) == "minimise-apgd-t-thrifty"


@pytest.mark.parametrize("cls", ATTACKS.values(), ids=lambda cls: cls.name)
def test_what_an_id_may_show_is_off_by_default_and_told_apart(cls: type[Attack]) -> None:
    words = [f.metadata["word"] for f in dataclasses.fields(cls) if f.metadata.get("word")]
    assert departures(cls()) == []
    assert len(set(words)) == len(words)
    assert all(word.isalpha() for word in words)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float64)])
@pytest.mark.parametrize("cls", [FGS, PGD, APGDT, Square, Noise, AutoAttack])
def test_numbers_of_numpy_and_torch_are_pythons_own(cls: type[Attack], kind) -> None:
    for eps in (0.1, 8 / 255, 0.0):
        assert cls(eps=kind(eps)).eps == pytest.approx(eps, rel=1e-7)
        assert type(cls(eps=kind(eps)).eps) is float
    assert attack_id(cls(eps=kind(0.1))) == attack_id(cls(eps=0.1))
    assert cls(eps=kind(0.1)) == cls(eps=0.1)
    assert json.dumps(config_of(cls(eps=kind(0.1)))) == json.dumps(config_of(cls(eps=0.1)))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.array, torch.tensor])
def test_counts_of_numpy_and_torch_are_pythons_own(kind) -> None:
    assert DDN(steps=kind(7)) == DDN(steps=7)
    assert type(DDN(steps=kind(7)).steps) is int
    for whole in (7.0, np.float64(7), torch.tensor(7.0)):
        assert type(DDN(steps=whole).steps) is int
    for wrong in (np.float64(7.5), torch.tensor(7.5), np.bool_(True), np.array([7]), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"^steps: got "):
            DDN(steps=wrong)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_default_type_of_tensors_decides_nothing(name: str) -> None:
    """Another default than float32, as scientific code sets it, changes no outcome on a float32 model and samples."""
    model = network()
    x, y = samples(model, n=6)
    attack = ATTACKS[name]()
    effort = {one: 3 for one in ("steps", "queries", "targets", "searches") if hasattr(attack, one)}
    attack = dataclasses.replace(attack, **effort)
    expected = attack(model, x, y)
    torch.set_default_dtype(torch.float64)
    try:
        found = attack(model, x, y)
    finally:
        torch.set_default_dtype(torch.float32)
    for one in dataclasses.fields(expected):
        values = getattr(expected, one.name), getattr(found, one.name)
        if isinstance(values[0], torch.Tensor):
            assert values[0].dtype is values[1].dtype, one.name
            assert torch.equal(*values), one.name
